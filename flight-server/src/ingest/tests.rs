use std::sync::Mutex;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use lakehouse::definition::Definition;
use lakehouse::{Definitions, Kind, ManualClock, Name};
use proto::frame::{FrameReader, Item};

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
        let door = Door::new(Definitions::fixed(definition), lake, stream.clone(), clock, Arc::default());
        Self { _folder: folder, stream, door }
    }

    async fn send(&self, table: &str, id: Option<&str>, batches: &[RecordBatch]) -> (Result<Receipt>, u64) {
        let mut ingest = match self.door.begin(table, batches[0].schema(), id.map(str::to_owned)).await {
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

    /// The headers of all frames kept: ingest id, number, rows, received-at.
    fn frames(&self) -> Vec<(String, u64, u64, i64)> {
        let kept = self.stream.kept.lock().unwrap().concat();
        FrameReader::new(kept.into())
            .map(|item| match item {
                Item::Frame { frame, .. } => {
                    let header = frame.header;
                    (header.ingest_id, header.frame, header.rows, header.received_at_us)
                }
                Item::Damaged { reason, .. } => panic!("{reason}"),
            })
            .collect()
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
    let noted = lab.door.accepted.all();
    assert_eq!(noted.len(), 1);
    assert_eq!(noted[0].receipt, receipt);
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
    assert!(error.to_string().starts_with("row 4 ") && error.to_string().contains("\"id\""), "{error}");
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
    assert!(text(lab.refused("open", None, far).await).contains("does not fit"));
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
    assert_eq!(accepted, lab.frames().iter().map(|frame| frame.2).sum::<u64>());
}
