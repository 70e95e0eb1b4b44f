use std::path::PathBuf;

use arrow::array::{ArrayRef, AsArray as _, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use bytes::Bytes;
use futures::TryStreamExt as _;
use lakehouse::definition::Definition;
use lakehouse::{Definitions, Lake, Layer, ManualClock};
use proto::frame::{Compression, Frame, FrameOrigin};
use tempfile::TempDir;

use super::*;
use crate::bronze::BronzeObject;
use crate::merger::Settings;

const START_US: i64 = 1_800_000_000_000_000;

/// An append-only table that takes short texts.
const STRICT: &str = r#"
name = "lab"
[tables.t.expect]
short = { check = "length(v) < 5", on_fail = "quarantine" }
"#;

/// The same, that takes longer ones.
const RELAXED: &str = r#"
name = "lab"
[tables.t.expect]
short = { check = "length(v) < 20", on_fail = "quarantine" }
"#;

/// A definition with one more line for its table.
fn with_key(toml: &str, line: &str) -> String {
    toml.replace("[tables.t.expect]", &format!("[tables.t]\n{line}\n[tables.t.expect]"))
}

/// A lake in a temporary folder.
struct Lab {
    folder: TempDir,
    lake: Lake,
    clock: Arc<ManualClock>,
    objects: usize,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::in_folder(&folder.path().join("data")).unwrap();
        Self { folder, lake, clock: Arc::new(ManualClock::at(START_US)), objects: 0 }
    }

    /// A merger with a definition of this moment.
    fn merger(&self, toml: &str) -> Merger {
        self.clock.advance_us(1_000);
        std::fs::write(self.folder.path().join("lakehouse.toml"), toml).unwrap();
        let definition = Arc::new(Definition::load(self.folder.path()).unwrap());
        let clock: Arc<dyn lakehouse::Clock> = self.clock.clone();
        Merger::new(Definitions::fixed(definition), self.lake.clone(), clock, Settings::default())
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.path().join("data").join(key)
    }

    /// Writes a bronze object.
    fn object(&mut self, bytes: &[u8]) -> BronzeObject {
        self.objects += 1;
        let key = format!("bronze/t/{:04}", self.objects);
        std::fs::create_dir_all(self.path(&key).parent().unwrap()).unwrap();
        std::fs::write(self.path(&key), bytes).unwrap();
        BronzeObject { key, delivered_at_us: START_US }
    }

    async fn batches(&self, layer: Layer) -> Vec<RecordBatch> {
        let Some(table) = self.lake.open(layer, &name()).await.unwrap() else { return Vec::new() };
        let session = delta::session(64 << 20, 1 << 30);
        delta::read(&table, &session, None, None).await.unwrap().try_collect().await.unwrap()
    }

    /// The values `v` of silver, in order.
    async fn silver(&self) -> Vec<String> {
        let batches = self.batches(Layer::Silver).await;
        let mut found: Vec<String> = batches.iter().flat_map(|batch| texts(batch, "v")).flatten().collect();
        found.sort();
        found
    }

    /// Rule and reason of the rows of quarantine that no replay has taken.
    async fn waiting(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for batch in self.batches(Layer::Quarantine).await {
            let (rules, reasons) = (texts(&batch, "rule"), texts(&batch, "reason"));
            for (at, claim) in texts(&batch, "replay_id").into_iter().enumerate() {
                if claim.is_none() {
                    found.push((rules[at].clone().unwrap(), reasons[at].clone().unwrap()));
                }
            }
        }
        found.sort();
        found
    }
}

fn name() -> Name {
    Name::new("t").unwrap()
}

fn texts(batch: &RecordBatch, name: &str) -> Vec<Option<String>> {
    let column = cast(batch.column_by_name(name).unwrap(), &DataType::Utf8).unwrap();
    column.as_string::<i32>().iter().map(|value| value.map(str::to_owned)).collect()
}

fn frame_of(ingest_id: &str, number: u64, columns: Vec<(&str, ArrayRef)>) -> Bytes {
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let origin = FrameOrigin {
        table: "t".into(),
        ingest_id: ingest_id.into(),
        frame: number,
        received_at_us: START_US + i64::try_from(number).unwrap(),
    };
    let batches = std::slice::from_ref(&batch);
    let frame = Frame::from_batches(origin, batch.schema_ref().as_ref(), batches, Compression::Lz4).unwrap();
    frame.encode().unwrap()
}

/// Rows of `id` and `v`.
fn frame(ingest_id: &str, number: u64, rows: &[(i64, &str)]) -> Bytes {
    let ids: Int64Array = rows.iter().map(|row| Some(row.0)).collect();
    let values: StringArray = rows.iter().map(|row| Some(row.1)).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![("id", Arc::new(ids)), ("v", Arc::new(values))];
    frame_of(ingest_id, number, columns)
}

/// A lab in whose quarantine lie `longer` and, for good, `much longer than that`.
async fn with_bad_rows() -> Lab {
    let mut lab = Lab::new();
    let rows = [(1, "good"), (2, "longer"), (3, "much longer than that"), (4, "fine")];
    let object = lab.object(&frame("i", 0, &rows));
    lab.merger(STRICT).merge(&name(), &[object]).await.unwrap();
    assert_eq!(lab.silver().await, ["fine", "good"]);
    assert_eq!(lab.waiting().await.len(), 2);
    lab
}

const MERGED: [&str; 3] = ["fine", "good", "longer"];

#[tokio::test]
async fn what_a_fix_mends_is_merged_once_and_the_rest_comes_back() {
    let lab = with_bad_rows().await;
    let merger = lab.merger(RELAXED);
    let replayed = merger.replay(&name(), None).await.unwrap();
    assert_eq!((replayed.rows, replayed.merged, replayed.quarantined_again), (2, 1, 1));
    assert!(replayed.version.is_some());
    assert_eq!(lab.silver().await, MERGED);
    assert_eq!(lab.waiting().await.len(), 1);

    let again = merger.replay(&name(), None).await.unwrap();
    assert_eq!((again.rows, again.merged, again.quarantined_again), (1, 0, 1));
    assert_eq!(lab.silver().await, MERGED);
    assert_eq!(lab.waiting().await.len(), 1);
}

#[tokio::test]
async fn a_filter_leaves_the_other_rows_where_they_are() {
    let lab = with_bad_rows().await;
    let merger = lab.merger(RELAXED);
    let none = merger.replay(&name(), Some("rule = 'another'")).await.unwrap();
    assert_eq!(none, Replayed::default());
    let one = merger.replay(&name(), Some("row_json LIKE '%longer\"%' AND \"row\" = 1")).await.unwrap();
    assert_eq!((one.rows, one.merged, one.quarantined_again), (1, 1, 0));
    assert_eq!(lab.waiting().await.len(), 1);
}

#[tokio::test]
async fn a_replay_that_died_at_any_step_is_ended_by_the_next() {
    for steps in 0..3 {
        let lab = with_bad_rows().await;
        let merger = lab.merger(RELAXED);
        let table = merger.table(&name()).unwrap();
        let mut dying = Replay::new(&merger, &table, delta::session(64 << 20, 1 << 30));
        let delta = quarantine::open_whole(&lab.lake, &table).await.unwrap().unwrap();
        let id = dying.id.clone();
        assert_eq!(claim::claim(delta, &dying.session, None, &id, START_US).await.unwrap(), 2);
        for _ in 0..steps {
            dying.merge_rows(&id).await.unwrap();
        }
        // The row that is bad for good came back, or comes back now: the next replay does not take it.
        let replayed = merger.replay(&name(), Some("false")).await.unwrap();
        assert_eq!(replayed.rows, 2, "after {steps} steps");
        assert_eq!(lab.silver().await, MERGED, "after {steps} steps");
        assert_eq!(lab.waiting().await.len(), 1, "after {steps} steps");
        assert_eq!(merger.replay(&name(), Some("false")).await.unwrap(), Replayed::default());
    }
}

#[tokio::test]
async fn a_row_keeps_its_place_in_the_order_of_arrival() {
    let keyed = |toml: &str| with_key(toml, "primary_key = [\"id\"]");
    let mut lab = Lab::new();
    let rows = [(1, "overtaken"), (2, "alone here"), (3, "last of it"), (3, "won"), (4, "one"), (4, "the latest")];
    let first = lab.object(&frame("i", 0, &rows));
    let second = lab.object(&frame("i", 1, &[(1, "new")]));
    lab.merger(&keyed(STRICT)).merge(&name(), &[first, second]).await.unwrap();
    assert_eq!(lab.silver().await, ["new", "one", "won"]);
    let replayed = lab.merger(&keyed(RELAXED)).replay(&name(), None).await.unwrap();
    assert_eq!(replayed.rows, 4);
    assert_eq!(lab.silver().await, ["alone here", "new", "the latest", "won"]);
}

#[tokio::test]
async fn a_row_that_came_back_still_keeps_its_place() {
    let keyed = "name = \"lab\"\n[tables.t]\nprimary_key = [\"id\"]\n[tables.t.expect]\n";
    let rule = |length: u32| format!("{keyed}short = {{ check = \"length(v) < {length}\", on_fail = \"quarantine\" }}");
    let mut lab = Lab::new();
    let object = lab.object(&frame("i", 0, &[(1, "overtaken"), (1, "won")]));
    lab.merger(&rule(5)).merge(&name(), &[object]).await.unwrap();
    for length in [6, 20] {
        lab.merger(&rule(length)).replay(&name(), None).await.unwrap();
        assert_eq!(lab.silver().await, ["won"]);
    }
    assert!(lab.waiting().await.is_empty());
}

#[tokio::test]
async fn a_transform_gets_the_types_that_the_producer_sent() {
    let mut lab = Lab::new();
    std::fs::write(
        lab.folder.path().join("t.sql"),
        "SELECT _row, date_trunc('hour', moment)::VARCHAR AS v FROM incoming",
    )
    .unwrap();
    let toml = |toml: &str| with_key(toml, "transform = \"t.sql\"");
    let moment: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![START_US]).with_timezone("UTC"));
    let object = lab.object(&frame_of("i", 0, vec![("moment", moment)]));
    lab.merger(&toml(STRICT)).merge(&name(), &[object]).await.unwrap();
    assert_eq!(lab.waiting().await.len(), 1);
    let long = toml(RELAXED).replace("< 20", "< 40");
    let replayed = lab.merger(&long).replay(&name(), None).await.unwrap();
    assert_eq!((replayed.merged, replayed.quarantined_again), (1, 0));
    assert_eq!(lab.silver().await, ["2027-01-15 08:00:00+00"]);
}

#[tokio::test]
async fn a_row_whose_object_is_gone_is_read_from_quarantine() {
    let mut lab = Lab::new();
    let object = lab.object(&frame("i", 0, &[(9_007_199_254_740_993, "longer")]));
    lab.merger(STRICT).merge(&name(), std::slice::from_ref(&object)).await.unwrap();
    std::fs::remove_file(lab.path(&object.key)).unwrap();
    let replayed = lab.merger(RELAXED).replay(&name(), None).await.unwrap();
    assert_eq!((replayed.merged, replayed.quarantined_again), (1, 0));
    let batches = lab.batches(Layer::Silver).await;
    let ids: Vec<i64> = batches
        .iter()
        .flat_map(|batch| batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().values().to_vec())
        .collect();
    assert_eq!(ids, [9_007_199_254_740_993]);
}

#[tokio::test]
async fn rows_that_break_the_merge_come_back_with_the_reason_and_the_others_go_in() {
    let mut lab = Lab::new();
    std::fs::write(lab.folder.path().join("t.sql"), "SELECT * FROM incoming").unwrap();
    let plain = with_key(STRICT, "transform = \"t.sql\"");
    let frames =
        [frame("i", 0, &[(1, "12345678")]), frame("i", 1, &[(2, "no number")]), frame("i", 2, &[(3, "87654321")])];
    let merger = lab.merger(&plain);
    let object = lab.object(&frames.concat());
    merger.merge(&name(), &[object]).await.unwrap();
    assert_eq!(lab.waiting().await.len(), 3);

    std::fs::write(lab.folder.path().join("t.sql"), "SELECT _row, id, v::BIGINT::VARCHAR AS v FROM incoming").unwrap();
    let replayed = lab.merger(&with_key(RELAXED, "transform = \"t.sql\"")).replay(&name(), None).await.unwrap();
    assert_eq!((replayed.rows, replayed.merged, replayed.quarantined_again), (3, 2, 1));
    assert_eq!(lab.silver().await, ["12345678", "87654321"]);
    let waiting = lab.waiting().await;
    assert_eq!(waiting.len(), 1);
    assert!(waiting[0].1.contains("no number"), "{waiting:?}");
}

#[tokio::test]
async fn damage_that_was_repaired_comes_in_and_the_rest_comes_back() {
    let mut lab = Lab::new();
    let (first, second) = (frame("i", 0, &[(1, "one")]), frame("i", 1, &[(2, "two")]));
    let mut broken = [first.clone(), Bytes::from_static(b"between"), second.clone()].concat();
    broken[first.len() / 2] ^= 0xff;
    let object = lab.object(&broken);
    let merger = lab.merger(STRICT);
    merger.merge(&name(), std::slice::from_ref(&object)).await.unwrap();
    assert_eq!(lab.silver().await, ["two"]);
    let before = lab.waiting().await;
    assert!(!before.is_empty());

    lab.clock.advance_us(1_000);
    let replayed = merger.replay(&name(), None).await.unwrap();
    assert_eq!((replayed.rows, replayed.merged), (before.len() as u64, 0));
    assert_eq!(replayed.quarantined_again, before.len() as u64);
    assert_eq!(lab.waiting().await, before);

    std::fs::write(lab.path(&object.key), [first, second].concat()).unwrap();
    lab.clock.advance_us(1_000);
    let replayed = merger.replay(&name(), None).await.unwrap();
    assert_eq!((replayed.merged, replayed.quarantined_again), (1, 0));
    assert_eq!(lab.silver().await, ["one", "two"]);
    assert!(lab.waiting().await.is_empty());
}

#[tokio::test]
async fn an_object_that_was_set_aside_is_merged_by_a_replay() {
    let mut lab = Lab::new();
    let object = lab.object(&frame("i", 0, &[(1, "one")]));
    let merger = lab.merger(STRICT);
    merger.set_aside(&name(), &object, "it breaks the merge").await.unwrap();
    assert!(merger.unmerged(&name(), vec![object.clone()]).await.unwrap().is_empty());
    assert_eq!(lab.waiting().await.len(), 1);

    lab.clock.advance_us(1_000);
    let replayed = merger.replay(&name(), Some("rule = 'poison'")).await.unwrap();
    assert_eq!((replayed.rows, replayed.merged, replayed.quarantined_again), (1, 1, 0));
    assert_eq!(lab.silver().await, ["one"]);
    assert_eq!(merger.merge(&name(), &[object]).await.unwrap().story.rows_in, 0);
}

#[tokio::test]
async fn a_table_without_quarantine_has_nothing_to_replay() {
    let lab = Lab::new();
    let merger = lab.merger(STRICT);
    assert_eq!(merger.replay(&name(), None).await.unwrap(), Replayed::default());
    assert_eq!(merger.replay(&name(), Some("nosuch = 1")).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(merger.replay(&Name::new("other").unwrap(), None).await.unwrap_err().kind(), Kind::NotFound);
}
