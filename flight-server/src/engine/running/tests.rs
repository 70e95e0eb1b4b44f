use arrow::array::Int64Array;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::execution::memory_pool::UnboundedMemoryPool;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{TryStreamExt as _, stream};
use lakehouse::ManualClock;

use super::super::admission::{Admission, AdmissionOptions};
use super::super::fixture::Fixture;
use super::*;

struct Bench {
    log: Arc<QueryLog>,
    admission: Admission,
}

impl Bench {
    fn new() -> Self {
        let options = AdmissionOptions { running_max: 1, waiting_max: 10, wait_max: Duration::from_secs(60) };
        Self { log: QueryLog::new(Arc::new(ManualClock::at(5))), admission: Admission::new(options) }
    }

    fn begin(&self, id: &str) -> Entry {
        let (id, principal, peer) = (id.to_owned(), "ann".to_owned(), String::new());
        self.log.begin(QueryStart { id, principal, peer, statement: "SELECT 1".to_owned(), kind: "select" })
    }

    /// A query that gives three rows of 8 bytes, then nothing for ever.
    async fn query(&self, id: &str, timeout: Option<Duration>, most: Option<u64>) -> SendableRecordBatchStream {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let row = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(vec![7]))]).unwrap();
        let rows = stream::iter([Ok(row.clone()), Ok(row.clone()), Ok(row)]).chain(stream::pending());
        let entry = self.begin(id);
        let permit = self.admission.enter("ann").await.unwrap();
        entry.started();
        let limits =
            StreamLimits { deadline: timeout.map(|timeout| Instant::now() + timeout), timeout, result_bytes_max: most };
        let memory = QueryMemory::new(Arc::new(UnboundedMemoryPool::default()), usize::MAX);
        let inner = Box::pin(RecordBatchStreamAdapter::new(schema, rows));
        let counts = Box::new(|| Counts { files_read: 4, ..Counts::default() });
        watched(inner, entry, limits, Holding { permit, memory, interrupt: Interrupt::default(), counts })
    }

    /// State, rows and error of the last query; asserts that its place is free again.
    fn last(&self) -> (&'static str, u64, Option<String>) {
        let record = self.log.all().pop().unwrap();
        let place = Box::pin(self.admission.enter("other"));
        assert!(futures::FutureExt::now_or_never(place).is_some(), "its place is not free");
        assert_eq!(record.counts.files_read, 4);
        (record.state, record.rows, record.error)
    }
}

async fn drain(mut stream: SendableRecordBatchStream) -> (usize, Error) {
    let mut rows = 0;
    loop {
        match stream.next().await {
            Some(Ok(batch)) => rows += batch.num_rows(),
            Some(Err(error)) => {
                assert!(stream.next().await.is_none(), "nothing comes behind an error");
                return (rows, explain(error));
            }
            None => panic!("it ended"),
        }
    }
}

#[tokio::test]
async fn a_cancel_ends_the_stream_and_later_runs_of_the_query() {
    let bench = Bench::new();
    let stream = bench.query("q", None, None).await;
    assert!(!bench.log.cancel("other", "ann"), "nothing of that id runs");
    assert!(!bench.log.cancel("q", "bob"), "another user's");
    assert!(futures::FutureExt::now_or_never(bench.begin("q").cancelled()).is_none(), "another user stopped it");
    let bench_log = Arc::clone(&bench.log);
    let (drained, ()) = tokio::join!(drain(stream), async move {
        tokio::task::yield_now().await;
        assert!(bench_log.cancel("q", "ann"));
    });
    assert_eq!((drained.0, drained.1.kind()), (3, Kind::Cancelled));
    assert_eq!(bench.last().0, "cancelled");
    let later = bench.query("q", None, None).await;
    assert_eq!(drain(later).await.1.kind(), Kind::Cancelled);
}

#[tokio::test]
async fn a_query_ends_at_its_deadline() {
    let bench = Bench::new();
    let (rows, error) = drain(bench.query("q", Some(Duration::from_millis(500)), None).await).await;
    assert_eq!((rows, error.kind()), (3, Kind::Timeout));
    assert!(error.to_string().contains("its 0.5 s"), "{error}");
    assert_eq!(bench.last().0, "timed out");
}

#[tokio::test]
async fn a_result_ends_at_the_most_bytes() {
    let bench = Bench::new();
    let (rows, error) = drain(bench.query("q", None, Some(20)).await).await;
    assert_eq!((rows, error.kind()), (2, Kind::Exhausted));
    assert_eq!(bench.last().0, "failed");
}

#[tokio::test]
async fn a_reader_who_leaves_frees_its_place_at_once() {
    let bench = Bench::new();
    let mut stream = bench.query("q", None, None).await;
    stream.next().await.unwrap().unwrap();
    assert_eq!(bench.log.all()[0].state, "running");
    drop(stream);
    assert_eq!(bench.last(), ("cancelled", 1, Some("its reader left".to_owned())));
}

#[tokio::test]
async fn long_texts_are_kept_in_part_and_free_the_rest() {
    let bench = Bench::new();
    let long = "ü".repeat(TEXT_BYTES_KEPT);
    let (principal, peer) = ("ann".to_owned(), String::new());
    let start = QueryStart { id: "q".to_owned(), principal, peer, statement: long.clone(), kind: "select" };
    bench.log.begin(start).fail(&Error::invalid(long.clone()));
    let QueryRecord { statement, error, .. } = bench.log.all().remove(0);
    assert_eq!((statement.as_str(), error.as_deref()), (&long[..TEXT_BYTES_KEPT], Some(&long[..TEXT_BYTES_KEPT])));
    assert!(beginning(long).capacity() < 2 * TEXT_BYTES_KEPT);
}

#[tokio::test]
async fn a_query_is_noted_with_what_it_read() {
    let fixture = Fixture::new().await;
    let plan = fixture.plan("SELECT name FROM silver.events WHERE month = '2013-01'", None).await.unwrap();
    let batches: Vec<RecordBatch> = fixture.run(plan).await.unwrap().try_collect().await.unwrap();
    let record = fixture.engine.log.all().remove(0);
    assert_eq!((record.state, record.kind, record.error), ("done", "select", None));
    assert_eq!(record.rows, 3);
    assert_eq!(record.bytes, batches.iter().map(|batch| batch_bytes(batch) as u64).sum::<u64>());
    assert_eq!((record.counts.files_read, record.counts.files_pruned), (1, 1), "a file a month");
    assert!(record.counts.bytes_scanned > 0);
}

#[tokio::test]
async fn the_log_forgets_the_oldest() {
    let bench = Bench::new();
    for n in 0..=QUERIES_KEPT {
        drop(bench.begin(&n.to_string()));
    }
    let all = bench.log.all();
    assert_eq!((all.len(), all[0].id.as_str()), (QUERIES_KEPT, "1"));
}
