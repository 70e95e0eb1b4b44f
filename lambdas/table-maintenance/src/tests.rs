//! Tables in a temporary lake, written as merges write them.

mod expiring;
mod keeping;
mod racing;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array as _, ArrayRef, AsArray as _, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Int64Type, Schema};
use deltalake::DeltaTable;
use deltalake::protocol::{DeltaOperation, SaveMode};
use futures::TryStreamExt as _;
use lakehouse::definition::Definition;
use lakehouse::delta::vectors::{self, Positions};
use lakehouse::delta::{self, Changes, Commit};
use lakehouse::{Clock as _, Definitions, Lake, Layer, ManualClock, Name, SystemClock};
use serde_json::Value;
use tempfile::TempDir;

use crate::job::{Job, Policy};
use crate::{Action, Ending, Maintainer, Report, Settings};

const TOML: &str = r#"
name = "lab"
[tables.t]
primary_key = ["id"]
delete_when = "v = 'gone'"
columns = [{ name = "id", type = "bigint" }, { name = "v", type = "varchar" }]
[tables.t.maintenance]
target_file_bytes = "64 KiB"
[models.m]
sql = "gold/m.sql"
"#;

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn us(time: Duration) -> i64 {
    time.as_micros() as i64
}

struct Lab {
    folder: TempDir,
    lake: Lake,
    clock: Arc<ManualClock>,
    definitions: Arc<Definitions>,
    maintainer: Maintainer,
}

impl Lab {
    fn new() -> Self {
        Self::with(TOML)
    }

    /// A lake whose clock begins at the time that the storage's own clock has.
    fn with(toml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("lakehouse.toml"), toml).unwrap();
        std::fs::create_dir(folder.path().join("gold")).unwrap();
        std::fs::write(folder.path().join("gold/m.sql"), "SELECT id FROM silver.t").unwrap();
        let definition = Arc::new(Definition::load(folder.path()).unwrap());
        let lake = Lake::in_folder(&folder.path().join("data")).unwrap();
        let clock = Arc::new(ManualClock::at(SystemClock.now_us()));
        let definitions = Definitions::fixed(definition);
        let maintainer =
            Maintainer::new(Arc::clone(&definitions), lake.clone(), Arc::clone(&clock) as _, Settings::default());
        Self { folder, lake, clock, definitions, maintainer }
    }

    fn t() -> Name {
        Name::new("t").unwrap()
    }

    async fn maintain(&self) -> Report {
        let report = self.maintainer.maintain(Layer::Silver, &Self::t()).await.unwrap();
        assert!(!report.has_failed(), "{report:?}");
        report
    }

    /// Runs `work` with what a step gets.
    async fn step<T>(&self, layer: Layer, work: impl AsyncFnOnce(&Job<'_>) -> T) -> T {
        let session = delta::session(64 << 20, 1 << 30);
        let name = if layer == Layer::Gold { Name::new("m").unwrap() } else { Self::t() };
        let job = Job {
            lake: &self.lake,
            layer,
            name: &name,
            policy: Policy::of(&self.definitions.now(), layer, &name).unwrap(),
            session: &session,
            sorted_bytes_max: 1 << 30,
            now_us: self.clock.now_us(),
            until: None,
        };
        work(&job).await
    }

    async fn table(&self) -> DeltaTable {
        self.lake.open(Layer::Silver, &Self::t()).await.unwrap().expect("it was written")
    }

    /// Appends rows with these ids, in one file, with a `txn` of their own.
    async fn append(&self, ids: Range<i64>) -> DeltaTable {
        let commit = Commit { transactions: vec![(format!("rows/{}", ids.start), 1)], ..self.commit() };
        let batch = batch(ids);
        let schema = batch.schema();
        let table = delta::create(&self.lake, Layer::Silver, &Self::t(), &schema, &[], None).await.unwrap();
        delta::append(table, vec![batch], &commit).await.unwrap()
    }

    fn commit(&self) -> Commit {
        Commit { transactions: Vec::new(), story: Value::Null, at_us: self.clock.now_us() }
    }

    /// Marks rows as deleted as a merge does: by their places in the file that has the row `id`.
    async fn mark(&self, table: DeltaTable, id: i64, places: Range<u64>) -> lakehouse::Result<DeltaTable> {
        let table = delta::allow_vectors(table).await?;
        let store = table.object_store();
        let has_id = |file: &delta::DataFile| {
            let (least, greatest) = file.bounds(&["id"]).remove(0).unwrap();
            (least.parse::<i64>().unwrap()..=greatest.parse().unwrap()).contains(&id)
        };
        let file = delta::data_files(&table)?.into_iter().find(has_id).expect("a file has it");
        let mut all: Positions = places.collect();
        if let Some(vector) = file.vector() {
            all.extend(vectors::read(&store, &vector).await?.iter());
        }
        let mut changes = Changes::default();
        changes.mark(&store, vec![(file, all)]).await?;
        let operation = DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
        changes.commit(table, operation, &self.commit()).await
    }

    async fn ids(&self) -> Vec<i64> {
        ids_of(&self.table().await).await
    }

    async fn files(&self) -> usize {
        delta::data_files(&self.table().await).unwrap().len()
    }

    /// The data files and vectors on disk, by name.
    fn on_disk(&self) -> Vec<PathBuf> {
        let folder = self.folder.path().join("data/silver/t");
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
        files.sort();
        files
    }
}

/// Rows whose values don't compress well.
fn batch(ids: Range<i64>) -> RecordBatch {
    let value = |id: i64| {
        let mut state = id as u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            format!("{:x}", state >> 16)
        };
        (0..8).map(|_| next()).collect::<String>()
    };
    let values: StringArray = ids.clone().map(|id| Some(value(id))).collect();
    let columns: [(&str, ArrayRef, bool); 2] =
        [("id", Arc::new(Int64Array::from_iter_values(ids)), false), ("v", Arc::new(values), true)];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

async fn ids_of(table: &DeltaTable) -> Vec<i64> {
    let session = delta::session(64 << 20, 1 << 30);
    let stream = delta::read(table, &session, Some(&["id".to_owned()]), None).await.unwrap();
    let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap();
    let mut ids: Vec<i64> =
        batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
    ids.sort_unstable();
    ids
}

/// Makes files look as if they were written so long ago.
fn age(path: &Path, by: Duration) {
    let file = std::fs::File::options().append(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.set_modified(modified - by).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_trickle_in_make_no_more_than_a_few_small_files() {
    let lab = Lab::new();
    let mut most = 0;
    for round in 0..60 {
        lab.append(round * 40..round * 40 + 40).await;
        if round % 3 == 2 {
            lab.maintain().await;
            most = most.max(lab.files().await);
        }
    }
    assert_eq!(lab.ids().await, (0..2_400).collect::<Vec<_>>());
    // Of the small ones, each is more than twice as large as all smaller ones together.
    let files = delta::data_files(&lab.table().await).unwrap();
    let all: u64 = files.iter().map(|file| file.bytes()).sum();
    assert!(all > 96 << 10, "{all} bytes do not make a full file");
    assert!(files.iter().any(|file| file.bytes() >= 48 << 10), "{all} bytes in {} files", files.len());
    assert!(most as u64 <= all.div_ceil(48 << 10) + 4, "{most} files of {all} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_rows_are_left_out_of_what_is_written_anew() {
    let lab = Lab::new();
    lab.append(0..50).await;
    let table = lab.append(100..150).await;
    lab.mark(table, 0, 0..10).await.unwrap();
    lab.mark(lab.table().await, 100, 0..50).await.unwrap();
    let rest: Vec<i64> = (10..50).collect();
    assert_eq!(lab.ids().await, rest);
    let report = lab.maintain().await;
    assert_eq!(report.step(Action::Compact).unwrap().result, Ending::Done);
    assert_eq!(lab.ids().await, rest);
    let files = delta::data_files(&lab.table().await).unwrap();
    assert_eq!(files.len(), 1);
    assert!(files.iter().all(|file| file.vector().is_none() && file.rows() == Some(40)));
    assert_eq!(lab.maintain().await.step(Action::Compact).unwrap().result, Ending::Nothing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_lie_by_their_key_so_that_a_file_has_a_narrow_range_of_it() {
    let lab = Lab::new();
    // Each file has keys from all over: every fourth one.
    for start in 0..4_i64 {
        let schema = batch(0..1).schema();
        let table = delta::create(&lab.lake, Layer::Silver, &Lab::t(), &schema, &[], None).await.unwrap();
        let rows: Vec<RecordBatch> = (0..700).map(|n| batch(n * 4 + start..n * 4 + start + 1)).collect();
        delta::append(table, rows, &lab.commit()).await.unwrap();
    }
    lab.maintain().await;
    let files = delta::data_files(&lab.table().await).unwrap();
    assert!(files.len() > 1, "{} files", files.len());
    let mut ranges: Vec<(i64, i64)> = files
        .iter()
        .map(|file| file.bounds(&["id"]).remove(0).map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())).unwrap())
        .collect();
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "{ranges:?}");
    assert_eq!(lab.ids().await, (0..2_800).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_columns_lie_along_a_curve() {
    let toml = TOML.replace("[tables.t.maintenance]", "[tables.t.maintenance]\ncluster_by = [\"id\", \"v\"]");
    let lab = Lab::with(&toml);
    for start in 0..6 {
        lab.append(start * 730..start * 730 + 730).await;
    }
    lab.maintain().await;
    assert_eq!(lab.ids().await, (0..4_380).collect::<Vec<_>>());
    let files = delta::data_files(&lab.table().await).unwrap();
    assert_eq!(files.len(), 4);
    // `v` begins with a hexadecimal digit and has nothing to do with `id`: were rows sorted by either alone, each file
    // would have all values of the other. One file may have rows from both sides of the middle of the curve.
    let text = |file: &delta::DataFile| file.bounds(&["v"]).remove(0).unwrap();
    let number = |text: String| text.parse::<i64>().unwrap();
    let is_narrow = |file: &&delta::DataFile| text(file).0.as_str() >= "4" || text(file).1.as_str() < "c";
    assert!(files.iter().filter(is_narrow).count() >= 3);
    for file in &files {
        let (least, greatest) = file.bounds(&["id"]).remove(0).unwrap();
        assert!(number(least) >= 1_000 || number(greatest) < 3_400);
    }
    let schema: Schema = delta::stored_schema(&lab.table().await).unwrap();
    assert_eq!(schema.fields().len(), 2, "the place on the curve is not stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_keeps_its_rows_to_itself() {
    let toml = TOML.replace("delete_when", "partition_by = [\"v\"]\ndelete_when");
    let lab = Lab::with(&toml);
    for round in 0..3 {
        let values: StringArray = (0..10).map(|row| Some(["a/b c", "ü"][row % 2])).collect();
        let columns: [(&str, ArrayRef, bool); 2] = [
            ("id", Arc::new(Int64Array::from_iter_values(round * 10..round * 10 + 10)), false),
            ("v", Arc::new(values), true),
        ];
        let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let by = ["v".to_owned()];
        let table = delta::create(&lab.lake, Layer::Silver, &Lab::t(), &batch.schema(), &by, None).await.unwrap();
        delta::append(table, vec![batch], &lab.commit()).await.unwrap();
    }
    assert_eq!(lab.files().await, 6);
    assert_eq!(lab.maintain().await.step(Action::Compact).unwrap().result, Ending::Done);
    assert_eq!(lab.files().await, 2);
    assert_eq!(lab.ids().await, (0..30).collect::<Vec<_>>());
    // Old files go by their names, whatever their folders are spelt like; new ones stay.
    lab.clock.advance_us(us(30 * DAY));
    assert_eq!(lab.maintain().await.step(Action::Vacuum).unwrap().files_after, 2);
    assert_eq!(lab.ids().await, (0..30).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_run_is_recorded() {
    let lab = Lab::new();
    lab.append(0..10).await;
    lab.append(10..20).await;
    lab.maintain().await;
    lab.maintain().await;
    let runs = lab.lake.open(Layer::Maintenance, &Name::new("runs").unwrap()).await.unwrap().unwrap();
    let session = delta::session(64 << 20, 1 << 30);
    let stream = delta::read(&runs, &session, None, None).await.unwrap();
    let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap();
    let mut told = Vec::new();
    for batch in &batches {
        let text = |name: &str| {
            let column = batch.column_by_name(name).unwrap();
            arrow::compute::cast(column, &arrow::datatypes::DataType::Utf8).unwrap().as_string::<i32>().clone()
        };
        let number = |name: &str| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().clone();
        let (tables, actions, results) = (text("table"), text("action"), text("result"));
        let (before, after, rows) = (number("files_before"), number("files_after"), number("rows"));
        assert_eq!(text("layer").null_count(), 0);
        for row in 0..batch.num_rows() {
            assert_eq!(tables.value(row), "t");
            let numbers = (before.value(row), after.value(row), rows.value(row));
            told.push((actions.value(row).to_owned(), results.value(row).to_owned(), numbers));
        }
    }
    told.sort();
    let done = ("compact".to_owned(), "done".to_owned(), (2, 1, 20));
    // The second run found nothing to do, and says so in one row.
    assert_eq!(told, vec![done, ("expire".to_owned(), "nothing".to_owned(), (0, 0, 0))]);
    // What is told of runs is maintained too.
    let report = lab.maintainer.maintain(Layer::Maintenance, &Name::new("runs").unwrap()).await.unwrap();
    assert_eq!(report.step(Action::Compact).unwrap().files_after, 1, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_out_of_time_begins_nothing_and_says_so() {
    let lab = Lab::new();
    lab.append(0..10).await;
    lab.append(10..20).await;
    let now = std::time::Instant::now();
    let report = lab.maintainer.maintain_until(Layer::Silver, &Lab::t(), Some(now)).await.unwrap();
    assert!(report.is_late && report.steps.is_empty(), "{report:?}");
    assert_eq!(lab.files().await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_are_not_there_are_no_failure_and_unknown_ones_are() {
    let lab = Lab::new();
    let report = lab.maintainer.maintain(Layer::Quarantine, &Lab::t()).await.unwrap();
    assert!(report.steps.is_empty());
    let unknown = lab.maintainer.maintain(Layer::Gold, &Lab::t()).await.unwrap_err();
    assert_eq!(unknown.kind(), lakehouse::Kind::NotFound);
}
