//! What vacuum and the cleaning of logs must keep, and what goes.

use lakehouse::Kind;

use super::*;
use crate::{log, vacuum};

/// A time between what was done before and what is done after.
async fn moment() -> i64 {
    tokio::time::sleep(Duration::from_millis(30)).await;
    let now_us = SystemClock.now_us();
    tokio::time::sleep(Duration::from_millis(30)).await;
    now_us
}

/// Sets the lake's clock so that the retention of `after` begins at `from_us`, margins included.
fn begin_retention(lab: &Lab, from_us: i64, after: Duration) {
    let now_us = from_us + us(after) + us(HOUR);
    lab.clock.advance_us(now_us - lab.clock.now_us());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vacuum_keeps_what_versions_within_the_retention_have_and_takes_the_rest() {
    let lab = Lab::new();
    lab.append(0..10).await;
    lab.append(10..20).await;
    let before = lab.on_disk();
    lab.maintain().await;
    lab.append(20..30).await;
    let compacted = delta::version(&lab.table().await);
    lab.on_disk().iter().for_each(|path| age(path, 3 * DAY));
    let from_us = moment().await;
    lab.mark(lab.table().await, 0, 0..5).await.unwrap();
    let marked = delta::version(&lab.table().await);
    lab.mark(lab.table().await, 0, 5..9).await.unwrap();
    lab.maintain().await;
    let newest = delta::version(&lab.table().await);

    begin_retention(&lab, from_us, 7 * DAY);
    let report = lab.maintain().await;
    let step = report.step(Action::Vacuum).unwrap();
    assert_eq!((step.result, step.files_before - step.files_after), (Ending::Done, 2), "{step:?}");
    assert!(before.iter().all(|path| !path.exists()));
    // What was the newest when the retention began, and all that came later, with the vectors of then.
    for (version, first) in [(compacted, 0), (marked, 5), (newest, 9)] {
        let table = lab.lake.open_version(Layer::Silver, &Lab::t(), version).await.unwrap();
        assert_eq!(ids_of(&table).await, (first..30).collect::<Vec<_>>(), "version {version}");
    }
    // Much later, only the newest is left: one file, and no vector.
    lab.clock.advance_us(us(30 * DAY));
    lab.maintain().await;
    assert_eq!(lab.on_disk().len(), lab.files().await);
    assert_eq!(lab.ids().await, (9..30).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_began_before_a_compaction_can_end_after_the_vacuum() {
    let lab = Lab::new();
    lab.append(0..10).await;
    let read = lab.append(10..20).await;
    lab.maintain().await;
    lab.clock.advance_us(us(6 * DAY));
    lab.maintain().await;
    assert_eq!(ids_of(&read).await, (0..20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_a_commit_under_way_stay_and_those_of_one_that_never_came_go() {
    let lab = Lab::new();
    lab.append(0..10).await;
    let orphan = lab.folder.path().join("data/silver/t/part-00000-orphan.parquet");
    std::fs::write(&orphan, b"half a file").unwrap();
    let foreign = lab.folder.path().join("data/silver/t/notes.txt");
    std::fs::write(&foreign, b"of somebody").unwrap();
    lab.clock.advance_us(us(8 * DAY));
    lab.maintain().await;
    assert!(orphan.exists(), "retention and margin are not over yet");
    lab.clock.advance_us(us(DAY));
    lab.maintain().await;
    assert!(!orphan.exists());
    assert!(foreign.exists());
    assert_eq!(lab.ids().await, (0..10).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_outlive_compaction_checkpoints_and_the_cleaning_of_the_log() {
    let lab = Lab::new();
    for start in 0..25 {
        lab.append(start * 10..start * 10 + 10).await;
    }
    let report = lab.maintain().await;
    assert_eq!(report.step(Action::Checkpoint).unwrap().result, Ending::Done, "{report:?}");
    let first_commit = lab.folder.path().join("data/silver/t/_delta_log/00000000000000000000.json");
    assert!(first_commit.exists());
    // Delta's own clock is not ours: the retention of transactions is not over, that of the log is.
    lab.clock.advance_us(us(31 * DAY));
    assert_eq!(lab.maintain().await.step(Action::CleanLog).unwrap().result, Ending::Done);
    assert!(!first_commit.exists());
    let table = lab.table().await;
    for start in 0..25 {
        let id = format!("rows/{}", start * 10);
        assert_eq!(delta::transaction_version(&table, &id).await.unwrap(), Some(1), "{id}");
    }
    let mut all = delta::Transactions::default();
    all.advance(&table).await.unwrap();
    assert_eq!(all.version("rows/240"), Some(1));
    assert_eq!(lab.ids().await, (0..250).collect::<Vec<_>>());
    lab.append(250..260).await;
    assert_eq!(lab.ids().await, (0..260).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_cut_no_nearer_than_what_was_the_newest_when_its_retention_began() {
    let lab = Lab::new();
    // Version 0 creates the table.
    for start in 0..4 {
        let table = lab.append(start * 10..start * 10 + 10).await;
        if delta::version(&table) == 2 {
            deltalake::checkpoints::create_checkpoint(&table, None).await.unwrap();
        }
    }
    let from_us = moment().await;
    let table = lab.append(40..50).await;
    // A checkpoint right at the first version within the retention does not tell of the one before.
    deltalake::checkpoints::create_checkpoint(&table, None).await.unwrap();
    lab.append(50..60).await;

    begin_retention(&lab, from_us, 30 * DAY);
    let tally = lab.step(Layer::Silver, async |job| log::clean(job).await.unwrap()).await;
    assert!(tally.is_done, "{tally:?}");
    for (version, rows) in [(2, 20), (3, 30), (4, 40), (5, 50), (6, 60)] {
        let table = lab.lake.open_version(Layer::Silver, &Lab::t(), version).await.unwrap();
        assert_eq!(ids_of(&table).await.len(), rows, "version {version}");
    }
    let as_of = lab.lake.open_at(Layer::Silver, &Lab::t(), from_us).await.unwrap();
    assert_eq!(delta::version(&as_of), 4);
    let gone = lab.lake.open_version(Layer::Silver, &Lab::t(), 1).await.unwrap_err();
    assert_eq!(gone.kind(), Kind::NotFound);
    // Nothing is left to be cut, and nothing is.
    assert!(!lab.step(Layer::Silver, async |job| log::clean(job).await.unwrap()).await.is_done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vacuum_works_behind_a_log_that_was_cut_by_somebody_else() {
    let lab = Lab::new();
    lab.append(0..10).await;
    lab.append(10..20).await;
    let old = lab.on_disk();
    lab.maintain().await;
    let table = lab.table().await;
    deltalake::checkpoints::create_checkpoint(&table, None).await.unwrap();
    let log = lab.folder.path().join("data/silver/t/_delta_log");
    for version in 0..delta::version(&table) {
        std::fs::remove_file(log.join(format!("{version:020}.json"))).unwrap();
    }
    old.iter().for_each(|path| age(path, 9 * DAY));
    // All versions that there are, are younger than the retention.
    let tally = lab.step(Layer::Silver, async |job| vacuum::vacuum(job).await.unwrap()).await;
    assert_eq!((tally.files_before, tally.files_after), (3, 1));
    assert_eq!(lab.ids().await, (0..20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_models_log_keeps_what_its_last_refresh_told() {
    let lab = Lab::new();
    let model = Name::new("m").unwrap();
    let rows = batch(0..10);
    let mut table = delta::create(&lab.lake, Layer::Gold, &model, &rows.schema(), &[], None).await.unwrap();
    let told = Commit { story: serde_json::json!({ "rows": 10 }), ..lab.commit() };
    table = delta::append(table, vec![rows], &told).await.unwrap();
    table = delta::commit_only(table, &lab.commit()).await.unwrap();
    deltalake::checkpoints::create_checkpoint(&table, None).await.unwrap();
    lab.clock.advance_us(us(31 * DAY));
    let clean = async || lab.step(Layer::Gold, async |job| log::clean(job).await.unwrap()).await;
    assert!(!clean().await.is_done);
    table = delta::commit_only(table, &told).await.unwrap();
    assert!(clean().await.is_done);
    let stories = delta::history::<Value>(&table, 10).await.unwrap();
    assert_eq!(stories.iter().map(|commit| commit.version).collect::<Vec<_>>(), vec![3, 2]);
}
