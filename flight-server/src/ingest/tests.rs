use std::sync::Mutex;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use bytes::Bytes;
use lakehouse::definition::Definition;
use lakehouse::{Definitions, Kind, ManualClock, Name};
use proto::frame::{FRAMES_PER_BATCH_MAX, FrameReader, Item};
use proto::{FrameHeader, Receipt};

use super::*;

const TOML: &str = r#"
name = "lab"
[tables.t]
primary_key = ["id"]
columns = [{ name = "id", type = "bigint" }, { name = "v", type = "varchar" }]
[tables.open]
[tables.parted]
partition_by = ["month"]
[tables.closed]
on_new_column = "reject"
columns = [{ name = "id", type = "bigint" }]
"#;

/// A stream that remembers what it keeps, and refuses every put from the given one on.
#[derive(Default)]
struct Memory {
    kept: Mutex<Vec<Bytes>>,
    refuses_from: Option<usize>,
}

#[async_trait]
impl DeliveryStream for Memory {
    async fn put(&self, _: &Name, records: Vec<Bytes>) -> Result<()> {
        let mut kept = self.kept.lock().unwrap();
        if self.refuses_from.is_some_and(|from| kept.len() >= from) {
            return Err(Error::unavailable("the disk is full"));
        }
        kept.extend(records);
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

struct Lab {
    _folder: tempfile::TempDir,
    stream: Arc<Memory>,
    traces: Traces,
    door: Door,
}

impl Lab {
    fn new(refuses_from: Option<usize>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("lakehouse.toml"), TOML).unwrap();
        let definition = Arc::new(Definition::load(folder.path()).unwrap());
        let lake = Lake::in_folder(&folder.path().join("data")).unwrap();
        let stream = Arc::new(Memory { refuses_from, ..Memory::default() });
        // A clock that stands still: frames must be told apart all the same.
        let clock = Arc::new(ManualClock::at(5_000_000));
        let (definitions, traces) = (Definitions::fixed(definition), Traces::default());
        let door = Door::new(definitions, lake, stream.clone(), Duration::ZERO, clock, traces.clone());
        Self { _folder: folder, stream, traces, door }
    }

    async fn send(&self, table: &str, id: Option<&str>, batches: &[RecordBatch]) -> (Result<Receipt>, u64) {
        let options = IngestOptions { ingest_id: id.map(str::to_owned), is_partial: false };
        let mut ingest = match self.door.begin(table, batches[0].schema(), options).await {
            Ok(ingest) => ingest,
            Err(error) => return (Err(error), 0),
        };
        for batch in batches {
            if let Err(error) = ingest.push(batch.clone()).await {
                return (Err(error), ingest.accepted_rows());
            }
        }
        let receipt = ingest.finish().await;
        (receipt, ingest.accepted_rows())
    }

    async fn refused(&self, table: &str, id: Option<&str>, batch: RecordBatch) -> Error {
        let error = self.send(table, id, &[batch]).await.0.unwrap_err();
        assert!(self.stream.kept.lock().unwrap().is_empty(), "nothing of a refused ingest is sent");
        error
    }

    /// The headers of all frames kept.
    fn headers(&self) -> Vec<FrameHeader> {
        let kept = self.stream.kept.lock().unwrap().concat();
        let header = |item| match item {
            Item::Frame { frame, .. } => frame.header,
            Item::Damaged { reason, .. } => panic!("{reason}"),
        };
        FrameReader::new(kept.into()).map(header).collect()
    }

    /// Of all frames kept: ingest id, number, rows, received-at.
    fn frames(&self) -> Vec<(String, u64, u64, i64)> {
        let frame = |header: FrameHeader| (header.ingest_id, header.frame, header.rows, header.received_at_us);
        self.headers().into_iter().map(frame).collect()
    }

    async fn open_stream(&self, table: &str, options: IngestOptions) -> Box<dyn OpenStream> {
        self.door.stream(table, rows(Vec::new()).schema(), options).await.unwrap()
    }
}

fn rows(ids: Vec<Option<i64>>) -> RecordBatch {
    let values: ArrayRef = Arc::new(ids.iter().map(|id| id.map(|id| format!("v{id}"))).collect::<StringArray>());
    RecordBatch::try_from_iter_with_nullable(vec![
        ("id", Arc::new(Int64Array::from(ids)) as ArrayRef, true),
        ("v", values, true),
    ])
    .unwrap()
}

#[tokio::test]
async fn a_receipt_counts_what_is_kept() {
    let lab = Lab::new(None);
    let batches: Vec<_> = (0..40).map(|n| rows((n * 10_000..(n + 1) * 10_000).map(Some).collect())).collect();
    let (receipt, accepted) = lab.send("t", None, &batches).await;
    let receipt = receipt.unwrap();
    let frames = lab.frames();
    assert_eq!((receipt.rows, accepted), (400_000, 400_000));
    assert_eq!(receipt.frames, frames.len() as u64);
    assert!(frames.len() > 1);
    assert_eq!(receipt.bytes, lab.stream.kept.lock().unwrap().iter().map(|record| record.len() as u64).sum::<u64>());
    assert!(frames.iter().enumerate().all(|(n, frame)| frame.1 == n as u64 && frame.0 == receipt.ingest_id));
    assert!(frames.windows(2).all(|pair| pair[0].3 < pair[1].3), "no two frames have the same time");
    let headers = lab.headers();
    let (last, before) = headers.split_last().unwrap();
    assert!(last.is_last && before.iter().all(|header| !header.is_last));
    let noted = lab.traces.accepted.all();
    assert_eq!(noted.len(), 1);
    assert_eq!(noted[0].receipt, receipt);
    let bill = lab.traces.billing.all()["t"];
    assert_eq!((bill.rows, bill.bytes), (receipt.rows, receipt.bytes));
    assert!(bill.billed_bytes < bill.billed_bytes_unpacked() / 100);
}

#[tokio::test]
async fn the_same_ingest_again_makes_the_same_frames() {
    let lab = Lab::new(None);
    let batches: Vec<_> = (0..20).map(|n| rows((n * 10_000..(n + 1) * 10_000).map(Some).collect())).collect();
    for _ in 0..2 {
        assert_eq!(lab.send("t", Some("mine"), &batches).await.0.unwrap().ingest_id, "mine");
    }
    let frames: Vec<_> = lab.frames().into_iter().map(|(id, number, rows, _)| (id, number, rows)).collect();
    let (first, second) = frames.split_at(frames.len() / 2);
    assert_eq!(first, second);
}

#[tokio::test]
async fn a_null_key_is_refused_by_its_row() {
    let lab = Lab::new(None);
    let batches = [rows(vec![Some(1), Some(2)]), rows(vec![Some(3), None])];
    let error = lab.send("t", None, &batches).await.0.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("row 4: column \"id\""), "{error}");
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_a_byte_is_sent() {
    let lab = Lab::new(None);
    let good = || rows(vec![Some(1)]);
    let text = |error: Error| error.to_string();
    let error = lab.refused("tt", None, good()).await;
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(text(error).contains("\"tt\""));
    assert!(text(lab.refused("t", None, good().project(&[1]).unwrap()).await).contains("primary key"));
    assert!(text(lab.refused("closed", None, good()).await).contains("takes no new ones"));
    assert!(text(lab.refused("t", Some("a/b"), good()).await).contains("\"a/b\""));
    assert!(text(lab.refused("parted", None, good()).await).contains("partitioned by it"));
    let instant: ArrayRef = Arc::new(arrow::array::TimestampSecondArray::from(vec![10_000_000_000_000]));
    let far = RecordBatch::try_from_iter(vec![("at", instant)]).unwrap();
    assert!(text(lab.refused("open", None, far).await).contains("row 1: column \"at\""));
    let column = |name: &str| (name.to_owned(), Arc::new(StringArray::from(vec!["1"])) as ArrayRef);
    let wrong = RecordBatch::try_from_iter(vec![column("id")]).unwrap();
    assert!(text(lab.refused("t", None, wrong).await).contains("bigint, which can't hold varchar"));
    let twice = RecordBatch::try_from_iter(vec![column("V"), column("v"), column("id")]).unwrap();
    assert!(text(lab.refused("t", None, twice).await).contains("twice"));
    let reserved = RecordBatch::try_from_iter(vec![column("_row"), column("id")]).unwrap();
    assert!(text(lab.refused("t", None, reserved).await).contains("reserved"));
}

#[tokio::test]
async fn a_stream_that_fails_leaves_the_count_of_what_it_kept() {
    let lab = Lab::new(Some(1));
    let noise = |n: i64| {
        rows((0..20_000_i64).map(|row| Some(row.wrapping_mul(6_364_136_223_846_793_005) ^ (n << 32))).collect())
    };
    let batches: Vec<_> = (0..40).map(noise).collect();
    let (receipt, accepted) = lab.send("t", None, &batches).await;
    assert_eq!(receipt.unwrap_err().kind(), Kind::Unavailable);
    assert!(accepted > 0 && accepted < 800_000, "{accepted}");
    // Of what was under way when it failed, some may be kept.
    assert!(accepted <= lab.frames().iter().map(|frame| frame.2).sum::<u64>());
}

#[tokio::test]
async fn all_bad_rows_are_named_and_none_of_their_batch_is_taken() {
    let lab = Lab::new(None);
    let batches = [rows(vec![Some(1)]), rows(vec![None, Some(2), None])];
    let (receipt, accepted) = lab.send("t", None, &batches).await;
    let error = receipt.unwrap_err().to_string();
    assert!(error.contains("2 rows") && error.contains("row 2: ") && error.contains("row 4: "), "{error}");
    assert_eq!(accepted, 0);
}

#[tokio::test]
async fn a_partial_ingest_takes_the_good_rows_and_gives_the_bad_ones_back() {
    let lab = Lab::new(None);
    let options = IngestOptions { is_partial: true, ..IngestOptions::default() };
    let batch = rows(vec![Some(1), None, Some(3)]);
    let mut ingest = lab.door.begin("t", batch.schema(), options).await.unwrap();
    assert_eq!(ingest.check(&batch).unwrap().count, 1);
    let rejected = ingest.push(batch).await.unwrap();
    assert_eq!((rejected.count, rejected.rows[0].row), (1, 1));
    assert_eq!(rejected.rows[0].column.as_deref(), Some("id"));
    assert_eq!(ingest.finish().await.unwrap().rows, 2);
    assert_eq!(lab.headers().iter().map(|header| header.rows).sum::<u64>(), 2);
}

#[tokio::test]
async fn a_row_that_no_frame_can_hold_is_named() {
    let lab = Lab::new(None);
    let mut rng = fastrand::Rng::with_seed(1);
    let noise: String = (0..1_100_000).map(|_| char::from(rng.u8(b'!'..b'~'))).collect();
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a".to_owned(), noise, "x".repeat(1_100_000)]));
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let batch = RecordBatch::try_from_iter(vec![("id", ids), ("v", texts)]).unwrap();
    let error = lab.refused("t", None, batch).await.to_string();
    assert!(error.contains("1 row ") && error.contains("row 2: the row is larger"), "{error}");
}

#[tokio::test]
async fn batches_of_a_stream_are_told_once_they_are_kept() {
    let lab = Lab::new(None);
    let mut stream = lab.open_stream("t", IngestOptions::default()).await;
    assert!(tokio::time::timeout(Duration::from_millis(20), stream.kept()).await.is_err(), "nothing is under way");
    for offset in 0..3 {
        stream.push(offset, rows(vec![Some(offset as i64)])).await.unwrap();
    }
    let mut kept = 0;
    while kept < 2 {
        let now = stream.kept().await.unwrap();
        assert!(now > kept || now == 0);
        kept = now;
    }
    stream.flush().await.unwrap();
    assert_eq!(stream.take_kept(), None);
    assert_eq!((stream.receipt().rows, stream.receipt().frames), (3, 3));
    let headers = lab.headers();
    let numbers: Vec<_> = headers.iter().map(|header| (header.frame, header.following())).collect();
    assert_eq!(numbers, (0..3).map(|n| (n * FRAMES_PER_BATCH_MAX, (n + 1) * FRAMES_PER_BATCH_MAX)).collect::<Vec<_>>());
    assert!(headers.iter().all(|header| !header.is_last));
}

#[tokio::test]
async fn a_batch_makes_the_same_frames_wherever_its_stream_begins() {
    let lab = Lab::new(None);
    let batch = |offset: i64| rows((0..30_000).map(|n| Some((offset << 32) ^ (n * 7_919))).collect());
    let options = || IngestOptions { ingest_id: Some("mine".into()), ..IngestOptions::default() };
    for begin in [0, 2] {
        let mut stream = lab.open_stream("t", options()).await;
        for offset in begin..4 {
            stream.push(offset, batch(offset as i64)).await.unwrap();
        }
        stream.flush().await.unwrap();
        assert_eq!(stream.take_kept(), Some(3));
    }
    let headers = lab.headers();
    let of_batch = |n: u64| -> Vec<_> {
        let frames = headers.iter().filter(|header| header.frame / FRAMES_PER_BATCH_MAX == n);
        frames.map(|header| (header.frame, header.rows, header.following())).collect()
    };
    for n in [2, 3] {
        let frames = of_batch(n);
        let (first, second) = frames.split_at(frames.len() / 2);
        assert!(first.len() > 1, "a large batch has several frames");
        let mut twice = (first.to_vec(), second.to_vec());
        twice.0.sort_unstable();
        twice.1.sort_unstable();
        assert_eq!(twice.0, twice.1);
        assert_eq!(first.last().unwrap().2, (n + 1) * FRAMES_PER_BATCH_MAX);
    }
}

#[tokio::test]
async fn an_empty_batch_of_a_stream_has_a_frame_so_that_its_number_is_not_missing() {
    let lab = Lab::new(None);
    let mut stream = lab.open_stream("t", IngestOptions { is_partial: true, ..IngestOptions::default() }).await;
    stream.push(0, rows(Vec::new())).await.unwrap();
    assert_eq!(stream.push(1, rows(vec![None])).await.unwrap().count, 1);
    stream.flush().await.unwrap();
    assert_eq!(stream.take_kept(), Some(1));
    assert_eq!(lab.headers().iter().map(|header| header.rows).collect::<Vec<_>>(), [0, 0]);
}

#[tokio::test]
async fn offsets_ascend_by_one_and_may_begin_anywhere() {
    let lab = Lab::new(None);
    let mut stream = lab.open_stream("t", IngestOptions::default()).await;
    stream.push(7, rows(vec![Some(1)])).await.unwrap();
    for wrong in [7, 9, 0] {
        let error = stream.push(wrong, rows(vec![Some(1)])).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("batch 8 is expected"), "{error}");
    }
    stream.push(8, rows(vec![Some(1)])).await.unwrap();
    let mut far = lab.open_stream("t", IngestOptions::default()).await;
    let error = far.push(OFFSET_MAX + 1, rows(vec![Some(1)])).await.unwrap_err();
    assert!(error.to_string().contains("highest offset"), "{error}");
}

#[tokio::test]
async fn a_stream_whose_rows_are_not_kept_says_so_and_not_that_they_are() {
    let lab = Lab::new(Some(0));
    let mut stream = lab.open_stream("t", IngestOptions::default()).await;
    stream.push(0, rows(vec![Some(1)])).await.unwrap();
    assert_eq!(stream.kept().await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(stream.receipt().rows, 0);
}

#[tokio::test]
async fn columns_tell_what_is_declared_and_what_may_not_be_null() {
    let columns = Lab::new(None).door.columns("t").await.unwrap();
    let of = |name: &str| columns.iter().find(|door| door.column.name == name).unwrap();
    assert!(of("id").is_declared && !of("id").column.nullable && of("v").column.nullable);
}
