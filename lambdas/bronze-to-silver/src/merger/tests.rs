mod counts;
mod evolution;
mod history;
mod parts;
mod seen;
mod text;
mod vectors;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Int64Type, Schema};
use bytes::Bytes;
use futures::TryStreamExt;
use lakehouse::ManualClock;
use lakehouse::definition::Definition;
use lakehouse::story::MergeStory;
use proptest::prelude::*;
use proto::frame::{Compression, Frame, FrameOrigin};
use tempfile::TempDir;

use lakehouse::Layer;

use super::*;

const KEYED: &str = r#"
name = "lab"
[tables.t]
primary_key = ["id"]
sequence_by = "seq"
delete_when = "op = 'delete'"
drop_columns = ["op"]
columns = [
  { name = "id", type = "bigint" },
  { name = "seq", type = "bigint" },
  { name = "v", type = "varchar" },
]
[tables.t.expect]
short = { check = "length(v) < 5", on_fail = "quarantine" }
"#;

/// A lake in a temporary folder, with a merger over it.
struct Lab {
    folder: TempDir,
    merger: Merger,
    lake: Lake,
    clock: Arc<ManualClock>,
    objects: usize,
}

/// A row of the table `t`: id, seq, v, op.
type Event = (Option<i64>, Option<i64>, Option<&'static str>, &'static str);

impl Lab {
    fn new(toml: &str) -> Self {
        Self::with_settings(toml, Settings::default())
    }

    fn with_settings(toml: &str, settings: Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("lakehouse.toml"), toml).unwrap();
        let definition = Arc::new(Definition::load(folder.path()).unwrap());
        let lake = Lake::in_folder(&folder.path().join("data")).unwrap();
        let clock = Arc::new(ManualClock::at(1_800_000_000_000_000));
        let merger = Merger::new(Definitions::fixed(definition), lake.clone(), clock.clone(), settings);
        Self { folder, merger, lake, clock, objects: 0 }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Writes frames as one bronze object of the table `t`.
    fn object(&mut self, frames: &[Bytes]) -> BronzeObject {
        self.objects += 1;
        let key = format!("bronze/t/{:04}", self.objects);
        write(&self.data().join(&key), &frames.concat());
        BronzeObject { key, delivered_at_us: 1 }
    }

    async fn merge(&self, objects: &[BronzeObject]) -> Result<Outcome> {
        self.merger.merge(&Name::new("t")?, objects).await
    }

    async fn rows(&self, layer: Layer) -> Vec<RecordBatch> {
        let Some(table) = self.lake.open(layer, &Name::new("t").unwrap()).await.unwrap() else { return Vec::new() };
        let session = delta::session(64 << 20, 1 << 30);
        delta::read(&table, &session, None, None).await.unwrap().try_collect().await.unwrap()
    }

    /// `id` to (`seq`, `v`) of silver; fails if a key is there twice.
    async fn silver(&self) -> BTreeMap<i64, (i64, Option<String>)> {
        let mut found = BTreeMap::new();
        for batch in self.rows(Layer::Silver).await {
            let number = |name: &str| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().clone();
            let (ids, sequences) = (number("id"), number("seq"));
            let values = text(&batch, "v");
            for ((id, sequence), value) in ids.values().iter().zip(sequences.values()).zip(values) {
                assert!(found.insert(*id, (*sequence, value)).is_none(), "key {id} is there twice");
            }
        }
        found
    }

    async fn quarantine(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for batch in self.rows(Layer::Quarantine).await {
            let (rules, rows) = (text(&batch, "rule"), text(&batch, "row_json"));
            found.extend(rules.into_iter().zip(rows).map(|(rule, row)| (rule.unwrap(), row.unwrap_or_default())));
        }
        found.sort();
        found
    }
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn text(batch: &RecordBatch, name: &str) -> Vec<Option<String>> {
    let column = arrow::compute::cast(batch.column_by_name(name).unwrap(), &arrow::datatypes::DataType::Utf8).unwrap();
    column.as_string::<i32>().iter().map(|value| value.map(str::to_owned)).collect()
}

fn frame_of(ingest_id: &str, number: u64, columns: Vec<(&str, ArrayRef)>) -> Bytes {
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
            .unwrap();
    let origin = FrameOrigin {
        table: "t".into(),
        ingest_id: ingest_id.into(),
        frame: number,
        received_at_us: 1_700_000_000_000_000 + i64::try_from(number).unwrap(),
    };
    let schema: &Schema = &batch.schema();
    Frame::from_batches(origin, schema, std::slice::from_ref(&batch), Compression::Lz4).unwrap().encode().unwrap()
}

fn frame(ingest_id: &str, number: u64, events: &[Event]) -> Bytes {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(events.iter().map(|event| event.0).collect::<Int64Array>())),
        ("seq", Arc::new(events.iter().map(|event| event.1).collect::<Int64Array>())),
        ("v", Arc::new(events.iter().map(|event| event.2).collect::<StringArray>())),
        ("op", Arc::new(events.iter().map(|event| Some(event.3)).collect::<StringArray>())),
    ];
    frame_of(ingest_id, number, columns)
}

fn upsert(id: i64, seq: i64, v: &'static str) -> Event {
    (Some(id), Some(seq), Some(v), "upsert")
}

fn delete(id: i64, seq: i64) -> Event {
    (Some(id), Some(seq), None, "delete")
}

fn row(seq: i64, v: &str) -> (i64, Option<String>) {
    (seq, Some(v.to_owned()))
}

#[tokio::test]
async fn the_highest_sequence_wins_whatever_the_order() {
    let mut lab = Lab::new(KEYED);
    for events in [vec![upsert(1, 5, "new"), upsert(2, 1, "a")], vec![upsert(1, 3, "old"), upsert(2, 2, "b")]] {
        let number = lab.objects as u64;
        let object = lab.object(&[frame("i", number, &events)]);
        lab.merge(&[object]).await.unwrap();
    }
    assert_eq!(lab.silver().await, BTreeMap::from([(1, row(5, "new")), (2, row(2, "b"))]));
}

#[tokio::test]
async fn a_late_update_does_not_resurrect_a_deleted_row() {
    let mut lab = Lab::new(KEYED);
    let batches = [
        vec![upsert(1, 1, "a"), upsert(2, 1, "a"), upsert(3, 1, "a")],
        vec![delete(1, 5), delete(2, 5), delete(9, 5)],
        vec![upsert(1, 4, "late"), upsert(2, 6, "anew"), upsert(9, 4, "late"), upsert(3, 1, "same")],
    ];
    for (number, events) in batches.iter().enumerate() {
        let object = lab.object(&[frame("i", number as u64, events)]);
        lab.merge(&[object]).await.unwrap();
    }
    assert_eq!(lab.silver().await, BTreeMap::from([(2, row(6, "anew")), (3, row(1, "a"))]));
}

#[tokio::test]
async fn a_merge_whose_changes_are_all_overtaken_still_records_its_frames() {
    let mut lab = Lab::new(KEYED);
    let first = lab.object(&[frame("i", 0, &[upsert(1, 1, "a"), delete(1, 9)])]);
    lab.merge(&[first]).await.unwrap();
    let second = lab.object(&[frame("i", 1, &[upsert(1, 2, "late")])]);
    let outcome = lab.merge(std::slice::from_ref(&second)).await.unwrap();
    assert!(outcome.version.is_some());
    assert_eq!(lab.merge(&[second]).await.unwrap().version, None);
    assert_eq!(lab.silver().await, BTreeMap::new());
}

#[tokio::test]
async fn a_frame_that_comes_again_adds_nothing_to_an_append_only_table() {
    let mut lab = Lab::new("name = \"lab\"\n[tables.t]\n");
    let column = |values: Vec<i64>| -> ArrayRef { Arc::new(Int64Array::from(values)) };
    let frames: Vec<Bytes> = (0..4).map(|n| frame_of("i", n, vec![("id", column(vec![n as i64, 7]))])).collect();
    let first = lab.object(&[frames[0].clone(), frames[2].clone(), frames[2].clone()]);
    let second = lab.object(&[frames[2].clone(), frames[1].clone()]);
    let third = lab.object(&[frames[3].clone(), frames[0].clone()]);
    for objects in [vec![first.clone()], vec![second.clone(), first], vec![third.clone()], vec![third, second]] {
        lab.merge(&objects).await.unwrap();
    }
    let rows: usize = lab.rows(Layer::Silver).await.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(rows, 8);
}

#[tokio::test]
async fn bad_rows_go_to_quarantine_once_and_the_good_ones_to_silver() {
    let mut lab = Lab::new(KEYED);
    let bad: Vec<Event> = vec![
        (None, Some(1), Some("x"), "upsert"),
        (Some(2), None, Some("x"), "upsert"),
        upsert(3, 1, "too long"),
        upsert(4, 1, "ok"),
    ];
    let object = lab.object(&[frame("i", 0, &bad)]);
    let outcome = lab.merge(std::slice::from_ref(&object)).await.unwrap();
    assert_eq!((outcome.story.quarantined, outcome.story.changes), (3, 1));
    lab.merge(&[object]).await.unwrap();
    assert_eq!(lab.silver().await, BTreeMap::from([(4, row(1, "ok"))]));
    let rules: Vec<String> = lab.quarantine().await.into_iter().map(|(rule, _)| rule).collect();
    assert_eq!(rules, ["primary_key", "sequence_by", "short"]);
    assert!(lab.quarantine().await[2].1.contains("\"too long\""));
}

#[tokio::test]
async fn a_delete_needs_only_its_key_and_sequence() {
    let mut lab = Lab::new(&KEYED.replace("type = \"varchar\" }", "type = \"varchar\", nullable = false }"));
    let object = lab.object(&[frame("i", 0, &[upsert(1, 1, "a"), upsert(2, 1, "b")]), frame("i", 1, &[delete(1, 2)])]);
    lab.merge(&[object]).await.unwrap();
    assert_eq!(lab.silver().await, BTreeMap::from([(2, row(1, "b"))]));
    assert_eq!(lab.quarantine().await, []);
}

#[tokio::test]
async fn damage_is_quarantined_once_and_the_frames_around_it_are_merged() {
    let mut lab = Lab::new(KEYED);
    let mut torn = frame("i", 1, &[upsert(2, 1, "b")]).to_vec();
    let middle = torn.len() / 2;
    torn[middle] ^= 0xff;
    let frames = [frame("i", 0, &[upsert(1, 1, "a")]), torn.into(), frame("i", 2, &[upsert(3, 1, "c")])];
    let object = lab.object(&frames);
    for _ in 0..2 {
        lab.merge(std::slice::from_ref(&object)).await.unwrap();
    }
    assert_eq!(lab.silver().await.into_keys().collect::<Vec<_>>(), [1, 3]);
    assert_eq!(lab.quarantine().await, [("damaged".to_owned(), String::new())]);
}

#[tokio::test]
async fn a_frame_of_another_table_is_quarantined() {
    let mut lab = Lab::new(&format!("{KEYED}\n[tables.u]\n"));
    let object = lab.object(&[frame("i", 0, &[upsert(1, 1, "a")])]);
    lab.merger.merge(&Name::new("u").unwrap(), &[object]).await.unwrap();
    let quarantine = lab.lake.open(Layer::Quarantine, &Name::new("u").unwrap()).await.unwrap().unwrap();
    assert_eq!(delta::size(&quarantine).unwrap().0, 1);
    assert!(lab.lake.open(Layer::Silver, &Name::new("u").unwrap()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_new_column_is_added_and_rows_without_it_are_null() {
    let mut lab = Lab::new("name = \"lab\"\n[tables.t]\nprimary_key = [\"id\"]\nsequence_by = \"seq\"\n");
    let number = |value: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![value])) };
    let word = |value: &str| -> ArrayRef { Arc::new(StringArray::from(vec![value])) };
    let frames = [
        frame_of("i", 0, vec![("id", number(1)), ("seq", number(1)), ("v", word("a"))]),
        frame_of("i", 1, vec![("id", number(2)), ("seq", number(1)), ("v", word("b")), ("more", word("new"))]),
        frame_of("i", 2, vec![("id", number(3)), ("seq", number(1))]),
    ];
    for frame in &frames {
        let object = lab.object(std::slice::from_ref(frame));
        lab.merge(&[object]).await.unwrap();
    }
    let mut found = BTreeMap::new();
    for batch in lab.rows(Layer::Silver).await {
        let ids = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().clone();
        let more = text(&batch, "more");
        found.extend(ids.values().iter().copied().zip(more));
    }
    assert_eq!(found, BTreeMap::from([(1, None), (2, Some("new".to_owned())), (3, None)]));
}

#[tokio::test]
async fn without_a_sequence_the_last_arrival_wins() {
    let mut lab = Lab::new("name = \"lab\"\n[tables.t]\nprimary_key = [\"id\"]\n");
    let number = |value: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![value, value])) };
    let seqs: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let words = |a: &str, b: &str| -> ArrayRef { Arc::new(StringArray::from(vec![a, b])) };
    let early = frame_of("i", 0, vec![("id", number(1)), ("seq", Arc::clone(&seqs)), ("v", words("a", "b"))]);
    let late = frame_of("i", 1, vec![("id", number(1)), ("seq", seqs), ("v", words("c", "d"))]);
    // The later frame is merged first.
    for frame in [late, early] {
        let object = lab.object(&[frame]);
        lab.merge(&[object]).await.unwrap();
    }
    assert_eq!(lab.silver().await, BTreeMap::from([(1, row(2, "d"))]));
}

#[tokio::test]
async fn ignored_nulls_leave_the_stored_values_unless_the_row_was_deleted() {
    let toml = KEYED.replace("sequence_by", "ignore_null_updates = true\nsequence_by");
    let mut lab = Lab::new(&toml);
    let nothing = |id, seq| (Some(id), Some(seq), None, "upsert");
    let batches = [
        vec![upsert(1, 1, "a"), upsert(2, 1, "a"), upsert(3, 1, "a"), nothing(3, 2)],
        vec![nothing(1, 3), delete(2, 2), nothing(2, 3)],
    ];
    for (number, events) in batches.iter().enumerate() {
        let object = lab.object(&[frame("i", number as u64, events)]);
        lab.merge(&[object]).await.unwrap();
    }
    assert_eq!(lab.silver().await, BTreeMap::from([(1, row(3, "a")), (2, (3, None)), (3, row(2, "a"))]));
}

#[tokio::test]
async fn a_failing_expectation_that_must_hold_merges_nothing() {
    let mut lab = Lab::new(&KEYED.replace("\"quarantine\"", "\"fail\""));
    let object = lab.object(&[frame("i", 0, &[upsert(1, 1, "ok"), upsert(2, 1, "too long")])]);
    let error = lab.merge(&[object]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Stopped);
    assert!(error.to_string().contains("\"short\" failed for 1 rows"), "{error}");
    assert_eq!(lab.silver().await, BTreeMap::new());
}

#[tokio::test]
async fn a_transform_changes_rows_and_keeps_their_origin() {
    let toml = KEYED.replace("drop_columns", "transform = \"t.sql\"\ndrop_columns");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.sql"), "SELECT * REPLACE (upper(v) AS v) FROM incoming WHERE id <> 2")
        .unwrap();
    std::fs::write(folder.path().join("lakehouse.toml"), toml).unwrap();
    let definition = Arc::new(Definition::load(folder.path()).unwrap());
    let mut lab = Lab::new(KEYED);
    lab.merger = Merger::new(
        Definitions::fixed(definition),
        lab.lake.clone(),
        Arc::new(ManualClock::at(1)),
        Settings::default(),
    );
    let events = [upsert(1, 1, "a"), upsert(2, 1, "b"), upsert(3, 1, "too long")];
    let object = lab.object(&[frame("i", 0, &events)]);
    lab.merge(&[object]).await.unwrap();
    assert_eq!(lab.silver().await, BTreeMap::from([(1, row(1, "A"))]));
    assert_eq!(lab.quarantine().await.len(), 1);
    assert!(lab.quarantine().await[0].1.contains("\"too long\""), "the row as it came: {:?}", lab.quarantine().await);
}

#[tokio::test]
async fn the_commit_tells_its_story() {
    let mut lab = Lab::new(KEYED);
    let object = lab.object(&[frame("i", 0, &[upsert(1, 1, "a")]), frame("j", 0, &[upsert(1, 2, "b"), delete(5, 1)])]);
    let outcome = lab.merge(std::slice::from_ref(&object)).await.unwrap();
    let table = lab.lake.open(Layer::Silver, &Name::new("t").unwrap()).await.unwrap().unwrap();
    let told = delta::history::<MergeStory>(&table, 1).await.unwrap();
    assert_eq!(told[0].story.as_ref(), Some(&outcome.story));
    let ingests: Vec<_> = outcome.story.ingests.iter().map(|story| (story.ingest_id.as_str(), story.rows)).collect();
    assert_eq!(ingests, [("i", 1), ("j", 2)]);
    assert_eq!((outcome.story.changes, outcome.story.deletes), (2, 1));
    assert_eq!(outcome.story.objects, [object.key]);
}

#[tokio::test]
async fn keys_and_sequences_are_found_whatever_their_case() {
    let mut lab = Lab::new("name = \"lab\"\n[tables.t]\nprimary_key = [\"ID\"]\nsequence_by = \"Seq\"\n");
    for (number, (sequence, value)) in [(2, "b"), (1, "a"), (3, "c")].into_iter().enumerate() {
        let column = |value: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![value])) };
        let value: ArrayRef = Arc::new(StringArray::from(vec![value]));
        let object = lab.object(&[frame_of(
            "i",
            number as u64,
            vec![("id", column(1)), ("seq", column(sequence)), ("v", value)],
        )]);
        lab.merge(&[object]).await.unwrap();
    }
    assert_eq!(lab.silver().await, BTreeMap::from([(1, row(3, "c"))]));
}

#[tokio::test]
async fn ignored_nulls_do_not_bring_back_what_was_deleted_before() {
    let mut lab = Lab::new(&KEYED.replace("sequence_by", "ignore_null_updates = true\nsequence_by"));
    let batches =
        [vec![upsert(1, 1, "a")], vec![delete(1, 5)], vec![upsert(1, 4, "old"), (Some(1), Some(6), None, "upsert")]];
    for (number, events) in batches.iter().enumerate() {
        let object = lab.object(&[frame("i", number as u64, events)]);
        lab.merge(&[object]).await.unwrap();
    }
    assert_eq!(lab.silver().await, BTreeMap::from([(1, (6, None))]));
}

#[tokio::test]
async fn a_date_that_no_reader_can_express_is_quarantined() {
    let mut lab = Lab::new("name = \"lab\"\n[tables.t]\n");
    let dates: ArrayRef =
        Arc::new(arrow::array::Date32Array::from(vec![Some(i32::MAX), Some(0), None, Some(-1_000_000)]));
    let object = lab.object(&[frame_of("i", 0, vec![("d", dates)])]);
    let outcome = lab.merge(&[object]).await.unwrap();
    assert_eq!((outcome.story.quarantined, outcome.story.changes), (2, 2));
}

#[tokio::test]
async fn a_value_that_a_transform_would_have_rounded_is_quarantined() {
    let toml = KEYED.replace("drop_columns", "transform = \"t.sql\"\ndrop_columns");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.sql"), "SELECT * REPLACE (seq / 2 AS seq) FROM incoming").unwrap();
    std::fs::write(folder.path().join("lakehouse.toml"), toml).unwrap();
    let definition = Arc::new(Definition::load(folder.path()).unwrap());
    let mut lab = Lab::new(KEYED);
    lab.merger = Merger::new(
        Definitions::fixed(definition),
        lab.lake.clone(),
        Arc::new(ManualClock::at(1)),
        Settings::default(),
    );
    let object = lab.object(&[frame("i", 0, &[upsert(1, 4, "a"), upsert(2, 5, "b")])]);
    lab.merge(&[object]).await.unwrap();
    assert_eq!(lab.silver().await, BTreeMap::from([(1, row(2, "a"))]));
    assert_eq!(lab.quarantine().await[0].0, "type");
}

#[tokio::test]
async fn decimals_beyond_64_bits_are_found_by_their_value() {
    let mut lab = Lab::new("name = \"lab\"\n[tables.t]\n");
    let first = lab.object(&[frame_of("i", 0, vec![("x", Arc::new(Int64Array::from(vec![1])))])]);
    lab.merge(&[first]).await.unwrap();
    let huge: ArrayRef = Arc::new(arrow::array::UInt64Array::from(vec![u64::MAX]));
    let second = lab.object(&[frame_of("i", 1, vec![("u", huge)])]);
    lab.merge(&[second]).await.unwrap();
    let table = lab.lake.open(Layer::Silver, &Name::new("t").unwrap()).await.unwrap().unwrap();
    let is_huge = datafusion::prelude::col("u").eq(datafusion::logical_expr::lit(
        datafusion::common::ScalarValue::Decimal128(Some(i128::from(u64::MAX)), 20, 0),
    ));
    let session = delta::session(64 << 20, 1 << 30);
    let found: Vec<RecordBatch> =
        delta::read(&table, &session, None, Some(is_huge)).await.unwrap().try_collect().await.unwrap();
    assert_eq!(found.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
}

/// What a property test does: events in frames, frames in objects, objects in merges, some of them again.
#[derive(Clone, Debug)]
struct Plan {
    frames: Vec<Vec<(i64, i64, bool)>>,
    /// Each merge takes objects, each object takes frames, by their numbers; any frame may be in many.
    merges: Vec<Vec<Vec<usize>>>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let events = prop::collection::vec((0_i64..6, 0_i64..12, prop::bool::weighted(0.25)), 1..6);
    let frames = prop::collection::vec(events, 1..7);
    let merges = prop::collection::vec(prop::collection::vec(prop::collection::vec(0_usize..7, 1..4), 1..3), 1..5);
    (frames, merges).prop_map(|(frames, merges)| Plan { frames, merges })
}

/// The obviously right result: of each key the highest sequence; with equal sequences a delete wins. Upserts of equal
/// sequence have equal values here, so that no order is needed.
fn model(frames: &[Vec<(i64, i64, bool)>]) -> BTreeMap<i64, (i64, Option<String>)> {
    let mut newest: BTreeMap<i64, (i64, bool)> = BTreeMap::new();
    for (id, seq, is_delete) in frames.iter().flatten() {
        let entry = newest.entry(*id).or_insert((*seq, *is_delete));
        *entry = (*entry).max((*seq, *is_delete));
    }
    let live = newest.into_iter().filter(|(_, (_, is_delete))| !is_delete);
    live.map(|(id, (seq, _))| (id, row(seq, VALUES[usize::try_from(seq).unwrap()]))).collect()
}

const VALUES: [&str; 12] = ["v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11"];

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::with_cases(case_count()) })]
    #[test]
    fn silver_is_the_newest_of_each_key_for_any_split_order_and_redelivery(plan in plan()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut lab = Lab::new(KEYED);
            let encoded: Vec<Bytes> = plan.frames.iter().enumerate().map(|(number, events)| {
                let events: Vec<Event> = events.iter().map(|(id, seq, is_delete)| {
                    if *is_delete { delete(*id, *seq) } else { upsert(*id, *seq, VALUES[usize::try_from(*seq).unwrap()]) }
                }).collect();
                frame("i", number as u64, &events)
            }).collect();
            for merge in &plan.merges {
                let objects: Vec<_> = merge.iter().map(|frames| {
                    let frames: Vec<Bytes> = frames.iter().filter_map(|frame| encoded.get(*frame).cloned()).collect();
                    lab.object(&frames)
                }).collect();
                lab.merge(&objects).await.unwrap();
            }
            // Whatever never came, comes now; and everything comes once more.
            let last = lab.object(&encoded);
            lab.merge(std::slice::from_ref(&last)).await.unwrap();
            assert_eq!(lab.merge(&[last]).await.unwrap().version, None);
            assert_eq!(lab.silver().await, model(&plan.frames));
        });
    }
}

/// A slice by default; `make test-deep` asks for more by `PROPTEST_CASES`.
fn case_count() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(12)
}

#[tokio::test]
async fn rows_beyond_the_memory_of_one_merge_are_merged_in_parts() {
    let duck = duck::Settings { memory_bytes: 96 << 20, ..duck::Settings::default() };
    let mut lab = Lab::with_settings("name = \"lab\"\n[tables.t]\n", Settings { duck, ..Settings::default() });
    let large = |number: u64| {
        let ids = Int64Array::from_iter_values((0..500).map(|row| i64::try_from(number).unwrap() * 500 + row));
        let texts = StringArray::from_iter_values((0..500).map(|_| "x".repeat(10_000)));
        frame_of("i", number, vec![("id", Arc::new(ids)), ("v", Arc::new(texts))])
    };
    let objects = [lab.object(&[large(0), large(1), large(2)]), lab.object(&[large(3), large(4)])];
    let outcome = lab.merge(&objects).await.unwrap();
    assert_eq!((outcome.story.rows_in, outcome.story.ingests.iter().map(|it| it.frames).sum::<u64>()), (2_500, 5));
    assert!(outcome.version > Some(1), "{:?}: 25 MB of rows in parts of 12", outcome.version);
    let again = lab.merge(&objects).await.unwrap();
    assert_eq!(again.version, None);
    let mut ids: Vec<i64> = Vec::new();
    for batch in lab.rows(Layer::Silver).await {
        ids.extend(batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().values());
    }
    ids.sort_unstable();
    assert_eq!(ids, (0..2_500).collect::<Vec<_>>());
}

#[tokio::test]
async fn very_many_frames_of_one_row_need_little_memory() {
    let duck = duck::Settings { memory_bytes: 64 << 20, ..duck::Settings::default() };
    let mut lab = Lab::with_settings(KEYED, Settings { duck, ..Settings::default() });
    let frames: Vec<Bytes> =
        (0..5_000).map(|number| frame("i", number, &[upsert(i64::try_from(number).unwrap(), 1, "v")])).collect();
    let object = lab.object(&frames);
    lab.merge(&[object]).await.unwrap();
    assert_eq!(lab.silver().await.len(), 5_000);
}
