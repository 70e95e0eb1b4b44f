//! What is due, and what a turn does in a process with all its workers.

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::util::display::array_value_to_string;
use lakehouse::definition::Definition;
use lakehouse::delta::Commit;
use lakehouse::{Definitions, SystemClock};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;

use super::super::{Local, check};
use super::*;
use crate::engine::{QueryLog, SystemTables as _};
use crate::ingest::Traces;
use crate::system::System;

const TOML: &str = r#"
name = "lab"
[tables.t]
columns = [{ name = "id", type = "bigint" }]
"#;

/// What did not happen by then never will.
const WAIT_MAX: Duration = Duration::from_secs(60);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn taken(due: &Due) -> Vec<Table> {
    std::iter::from_fn(|| due.next().now_or_never()).collect()
}

#[test]
fn a_table_is_due_when_its_version_passes_a_multiple() {
    let (due, model) = (Due::default(), name("m"));
    for version in 1..VERSIONS {
        due.committed(Layer::Gold, &model, version);
    }
    assert!(taken(&due).is_empty());
    // Parts of a merge and compactions are versions too, which nobody tells of.
    due.committed(Layer::Gold, &model, VERSIONS + 2);
    assert_eq!(taken(&due), [(Layer::Gold, model.clone())]);
    due.committed(Layer::Gold, &model, VERSIONS + 3);
    assert!(taken(&due).is_empty());
}

#[test]
fn a_process_that_sees_few_versions_has_its_part_in_it() {
    let due = Due::default();
    due.committed(Layer::Gold, &name("before"), 5 * VERSIONS - 1);
    due.committed(Layer::Gold, &name("at"), 5 * VERSIONS);
    due.committed(Layer::Gold, &name("behind"), 5 * VERSIONS + 1);
    assert_eq!(taken(&due), [(Layer::Gold, name("at"))]);
}

#[test]
fn what_lies_beside_a_silver_table_is_due_with_it_and_nothing_waits_twice() {
    let due = Due::default();
    due.add([(Layer::Quarantine, name("t"))]);
    due.committed(Layer::Silver, &name("t"), VERSIONS);
    due.committed(Layer::Silver, &name("t"), 2 * VERSIONS);
    let expected = [Layer::Quarantine, Layer::Silver, Layer::Tombstones].map(|layer| (layer, name("t")));
    assert_eq!(taken(&due), expected);
}

struct Lab {
    _folder: TempDir,
    definitions: Arc<Definitions>,
    lake: Lake,
    local: Local,
}

impl Lab {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("lakehouse.toml"), TOML).unwrap();
        let definition = Arc::new(Definition::load(folder.path()).unwrap());
        let plan = check(&definition).unwrap();
        let data = folder.path().join("data");
        let lake = Lake::in_folder(&data).unwrap();
        let definitions = Definitions::fixed(definition);
        let local = Local::start(&definitions, plan, lake.clone(), &data, Arc::new(SystemClock)).await.unwrap();
        Self { _folder: folder, definitions, lake, local }
    }

    /// Adds a row in a file of its own; returns the table's version.
    async fn append(&self, id: i64) -> u64 {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![id]));
        let batch = RecordBatch::try_from_iter_with_nullable([("id", ids, true)]).unwrap();
        let schema = batch.schema();
        let table = delta::create(&self.lake, Layer::Silver, &name("t"), &schema, &[], None).await.unwrap();
        let commit = Commit { transactions: Vec::new(), story: Value::Null, at_us: SystemClock.now_us() };
        delta::version(&delta::append(table, vec![batch], &commit).await.unwrap())
    }

    /// The rows of `system.maintenance`, as texts.
    async fn told(&self) -> Vec<String> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let log = QueryLog::new(Arc::clone(&clock));
        let (definitions, lake) = (Arc::clone(&self.definitions), self.lake.clone());
        let system = System::new(definitions, lake, clock, Traces::default(), log, self.local.backlog());
        let columns = ["layer", "table", "action", "files_before", "files_after", "rows", "result"];
        let mut told = Vec::new();
        for batch in system.scan("maintenance").await.unwrap() {
            let text =
                |column, row| array_value_to_string(batch.column_by_name(column).expect("its column"), row).unwrap();
            told.extend((0..batch.num_rows()).map(|row| columns.map(|column| text(column, row)).join(" ")));
        }
        told
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_become_one_whatever_failed_before_and_that_is_told() {
    let lab = Lab::start().await;
    assert!(lab.told().await.is_empty(), "nothing was done yet");
    let shared = lab.local.shared();
    let mut changed = shared.silver_changed.subscribe();
    let before = *changed.borrow_and_update();
    // The definition has no such table.
    shared.due.add([(Layer::Silver, name("nosuch"))]);
    for id in 0..VERSIONS {
        let version = lab.append(i64::try_from(id).unwrap()).await;
        shared.due.committed(Layer::Silver, &name("t"), version);
    }
    let looked = timeout(WAIT_MAX, changed.wait_for(|count| *count > before)).await;
    drop(looked.expect("models are to look at the table").unwrap());
    let table = lab.lake.open(Layer::Silver, &name("t")).await.unwrap().expect("it was written");
    assert_eq!(delta::data_files(&table).unwrap().len(), 1);
    assert_eq!(delta::size(&table).unwrap().0, VERSIONS);
    let told = lab.told().await;
    assert!(told.contains(&format!("silver t compact {VERSIONS} 1 {VERSIONS} done")), "{told:?}");
    lab.local.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_waits_for_the_merge_that_runs_and_does_not_hold_up_a_stop() {
    let mut lab = Lab::start().await;
    for id in 0..2 {
        lab.append(id).await;
    }
    let shared = lab.local.shared();
    let merge = shared.merges.acquire().await.unwrap();
    shared.due.add([(Layer::Silver, name("t"))]);
    let begun = async {
        while !shared.due.lock().waiting.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(WAIT_MAX, begun).await.expect("the worker takes the table");
    lab.local.stop.send_replace(true);
    let ended = async { while lab.local.workers.join_next().await.is_some() {} };
    timeout(WAIT_MAX, ended).await.expect("all workers end while the merge still runs");
    drop(merge);
    let table = lab.lake.open(Layer::Silver, &name("t")).await.unwrap().expect("it was written");
    assert_eq!(delta::data_files(&table).unwrap().len(), 2);
}
