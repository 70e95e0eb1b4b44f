use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field};
use lakehouse::ManualClock;
use tempfile::TempDir;

use super::*;

const QUERY: &str = "01980000-0000-7000-8000-000000000001";

struct Bench {
    folder: TempDir,
    clock: Arc<ManualClock>,
    results: Results,
}

impl Bench {
    /// Parts hold two rows.
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let lake = Lake::in_folder(folder.path()).unwrap();
        let clock = Arc::new(ManualClock::at(1_000_000));
        let results = Results { store: lake.object_store().unwrap(), clock: clock.clone(), part_bytes: 16 };
        Self { folder, clock, results }
    }

    async fn spool(&self, rows: Vec<std::result::Result<i64, DataFusionError>>) -> Status {
        let status = self.results.announce(QUERY, "ann", &schema(), true).await.unwrap();
        assert_eq!(self.results.status(QUERY, "ann").await.unwrap().state, State::Running);
        let batches = stream::iter(rows.into_iter().map(|row| row.map(batch)));
        let batches: SendableRecordBatchStream = Box::pin(RecordBatchStreamAdapter::new(schema(), batches));
        self.results.spool(QUERY, status, Ok(batches), || 0.5).await;
        self.results.status(QUERY, "ann").await.unwrap()
    }

    async fn rows(&self, part: u32) -> Vec<RecordBatch> {
        self.results.read(QUERY, "ann", part).await.unwrap().try_collect().await.unwrap()
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
}

fn batch(n: i64) -> RecordBatch {
    RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from(vec![n]))]).unwrap()
}

#[tokio::test]
async fn rows_come_back_in_parts_as_they_went() {
    let bench = Bench::new();
    let status = bench.spool((0..5).map(Ok).collect()).await;
    assert_eq!((status.state, status.progress, status.is_ordered), (State::Done, 1.0, true));
    assert_eq!(status.parts.iter().map(|part| part.rows).collect::<Vec<_>>(), [2, 2, 1]);
    assert_eq!(status.schema().unwrap(), schema());
    assert_eq!(bench.rows(1).await, [batch(2), batch(3)]);
    let Err(error) = bench.results.read(QUERY, "ann", 3).await else { panic!("there is a fourth part") };
    assert_eq!(error.kind(), Kind::NotFound);
}

#[tokio::test]
async fn a_result_without_rows_has_a_part_without_rows() {
    let bench = Bench::new();
    assert_eq!(bench.spool(Vec::new()).await.parts, [Part { rows: 0, bytes: 0 }]);
    assert_eq!(bench.rows(0).await, Vec::<RecordBatch>::new());
}

#[tokio::test]
async fn a_failure_in_the_middle_is_told_with_its_code() {
    let bench = Bench::new();
    let failure = DataFusionError::ResourcesExhausted("too much".to_owned());
    let status = bench.spool(vec![Ok(1), Ok(2), Err(failure)]).await;
    assert_eq!(status.state, State::Failed);
    assert!(status.progress < 1.0);
    let (code, message) = status.error.unwrap();
    assert_eq!(code, tonic::Code::ResourceExhausted as i32);
    assert!(message.contains("too much"), "{message}");
}

#[tokio::test]
async fn another_users_result_is_as_good_as_none() {
    let bench = Bench::new();
    bench.spool(vec![Ok(1)]).await;
    for id in [QUERY, "01980000-0000-7000-8000-000000000002"] {
        assert_eq!(bench.results.status(id, "bob").await.unwrap_err().kind(), Kind::NotFound);
    }
    assert_eq!(bench.results.status("../../secret", "bob").await.unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test]
async fn a_query_whose_server_fell_silent_is_told_as_gone() {
    let bench = Bench::new();
    bench.results.announce(QUERY, "ann", &schema(), false).await.unwrap();
    bench.clock.advance_us(micros(SILENCE_MAX));
    bench.results.status(QUERY, "ann").await.unwrap();
    bench.clock.advance_us(1);
    let error = bench.results.status(QUERY, "ann").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
}

#[tokio::test]
async fn a_cancel_reaches_whoever_listens() {
    let bench = Bench::new();
    let mut listening = Box::pin(bench.results.cancelled(QUERY));
    tokio::select! {
        biased;
        () = listening.as_mut() => panic!("nobody cancelled"),
        () = tokio::time::sleep(CANCEL_INTERVAL / 4) => {}
    }
    bench.results.mark_cancelled(QUERY).await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), listening).await.unwrap();
}

#[tokio::test]
async fn what_is_too_old_is_removed_and_nothing_else() {
    let bench = Bench::new();
    bench.spool(vec![Ok(1)]).await;
    bench.results.mark_cancelled(QUERY).await.unwrap();
    assert_eq!(bench.results.sweep().await.unwrap(), 0);
    // Files have the time of the machine, not that of the clock.
    let now_us =
        chrono::DateTime::<chrono::Utc>::from(std::fs::metadata(bench.folder.path()).unwrap().modified().unwrap());
    bench.clock.advance_us(now_us.timestamp_micros() + micros(RESULT_LIFETIME) + 60_000_000);
    assert_eq!(bench.results.sweep().await.unwrap(), 3, "status, part, marker");
}
