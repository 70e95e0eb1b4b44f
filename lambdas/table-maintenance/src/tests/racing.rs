//! Compaction beside merges and beside itself, both orders driven by hand.

use lakehouse::Kind;

use super::*;
use crate::landing::{Landing, land};
use crate::rewriting::{Rewritten, rewrite};
use crate::rows;
use crate::tally::Tally;

/// Rewrites all files of the table into one, without committing it.
async fn rewritten(job: &Job<'_>) -> (DeltaTable, Rewritten) {
    let table = job.open().await.unwrap();
    let sources = rows::sources(&table).unwrap();
    let rewritten = rewrite(job, &table, sources).await.unwrap().expect("there is time");
    (table, rewritten)
}

async fn landed(job: &Job<'_>, read: &DeltaTable, rewritten: Rewritten) -> Tally {
    let mut tally = Tally::default();
    land(job, read, vec![rewritten], &Landing::same_rows(64 << 10), &mut tally).await.unwrap();
    tally
}

fn again(rewritten: &Rewritten) -> Rewritten {
    Rewritten { sources: rewritten.sources.clone(), added: rewritten.added.clone() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_appended_meanwhile_stay_and_the_compaction_too() {
    let lab = Lab::new();
    lab.append(0..10).await;
    lab.append(10..20).await;
    let tally = lab
        .step(Layer::Silver, async |job| {
            let (read, rewritten) = rewritten(job).await;
            lab.append(20..30).await;
            landed(job, &read, rewritten).await
        })
        .await;
    assert!(tally.is_done && tally.overtaken == 0, "{tally:?}");
    assert_eq!(lab.ids().await, (0..30).collect::<Vec<_>>());
    assert_eq!(lab.files().await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_a_merge_deletes_while_their_file_is_compacted_do_not_come_back() {
    let lab = Lab::new();
    lab.append(0..10).await;
    lab.append(10..20).await;
    let tally = lab
        .step(Layer::Silver, async |job| {
            let (read, rewritten) = rewritten(job).await;
            lab.mark(lab.table().await, 0, 0..5).await.unwrap();
            landed(job, &read, rewritten).await
        })
        .await;
    assert!(!tally.is_done && tally.overtaken == 1, "{tally:?}");
    assert_eq!(lab.ids().await, (5..20).collect::<Vec<_>>());
    // The next run sees the marks.
    lab.maintain().await;
    assert_eq!(lab.ids().await, (5..20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vector_that_grew_meanwhile_is_seen_too() {
    let lab = Lab::new();
    lab.append(0..10).await;
    lab.mark(lab.table().await, 0, 0..2).await.unwrap();
    let tally = lab
        .step(Layer::Silver, async |job| {
            let (read, rewritten) = rewritten(job).await;
            lab.mark(lab.table().await, 0, 2..4).await.unwrap();
            landed(job, &read, rewritten).await
        })
        .await;
    assert_eq!(tally.overtaken, 1);
    assert_eq!(lab.ids().await, (4..10).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_that_read_before_a_compaction_must_look_again() {
    let lab = Lab::new();
    lab.append(0..10).await;
    let table = delta::allow_vectors(lab.append(10..20).await).await.unwrap();
    lab.maintain().await;
    assert_eq!(lab.files().await, 1);
    let lost = lab.mark(table, 0, 0..5).await.unwrap_err();
    assert_eq!(lost.kind(), Kind::Conflict);
    assert_eq!(lab.ids().await, (0..20).collect::<Vec<_>>());
    lab.mark(lab.table().await, 0, 0..5).await.unwrap();
    assert_eq!(lab.ids().await, (5..20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_compactions_of_the_same_files_one_is_left_out() {
    let lab = Lab::new();
    lab.append(0..10).await;
    lab.append(10..20).await;
    let tallies = lab
        .step(Layer::Silver, async |job| {
            let (first_read, first) = rewritten(job).await;
            let (second_read, second) = rewritten(job).await;
            (landed(job, &first_read, first).await, landed(job, &second_read, second).await)
        })
        .await;
    assert!(tallies.0.is_done && tallies.0.overtaken == 0);
    assert!(!tallies.1.is_done && tallies.1.overtaken == 1);
    assert_eq!(lab.ids().await, (0..20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_landed_though_its_storage_said_no_counts_once() {
    let lab = Lab::new();
    lab.append(0..10).await;
    lab.append(10..20).await;
    let tallies = lab
        .step(Layer::Silver, async |job| {
            let (read, rewritten) = rewritten(job).await;
            let same = again(&rewritten);
            (landed(job, &read, rewritten).await, landed(job, &read, same).await)
        })
        .await;
    assert_eq!((tallies.0.rows, tallies.1.rows), (20, 20));
    assert!(tallies.1.is_done && tallies.1.overtaken == 0);
    assert_eq!(lab.ids().await, (0..20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_got_other_columns_meanwhile_is_looked_at_again() {
    let lab = Lab::new();
    lab.append(0..10).await;
    lab.append(10..20).await;
    let tally = lab
        .step(Layer::Silver, async |job| {
            let (read, rewritten) = rewritten(job).await;
            let more = Schema::new(vec![arrow::datatypes::Field::new("w", arrow::datatypes::DataType::Int64, true)]);
            delta::add_columns(lab.table().await, &more).await.unwrap();
            landed(job, &read, rewritten).await
        })
        .await;
    assert_eq!(tally.overtaken, 1);
    lab.maintain().await;
    assert_eq!(lab.files().await, 1);
    assert_eq!(lab.ids().await, (0..20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance_beside_a_stream_of_merges_loses_no_row_and_makes_none_twice() {
    let lab = Arc::new(Lab::new());
    lab.append(0..20).await;
    let table = lab.table().await;
    delta::allow_vectors(table).await.unwrap();
    let writer = tokio::spawn({
        let lab = Arc::clone(&lab);
        async move {
            for round in 1..25_i64 {
                loop {
                    // As a merge: all on one version, anew if another was quicker.
                    let table = lab.table().await;
                    let batch = batch(round * 20..round * 20 + 20);
                    match delta::append(table, vec![batch], &lab.commit()).await {
                        Ok(_) => break,
                        Err(error) => assert_eq!(error.kind(), Kind::Conflict, "{error:?}"),
                    }
                }
                // The first row of the file that holds the first rows that are left.
                loop {
                    let table = lab.table().await;
                    let least = ids_of(&table).await[0];
                    match mark_id(&lab, table, least).await {
                        Ok(_) => break,
                        Err(error) => assert_eq!(error.kind(), Kind::Conflict, "{error:?}"),
                    }
                }
            }
        }
    });
    let mut done = 0;
    while !writer.is_finished() {
        let report = lab.maintainer.maintain(Layer::Silver, &Lab::t()).await.unwrap();
        assert!(!report.has_failed(), "{report:?}");
        done += u32::from(report.step(Action::Compact).unwrap().result == Ending::Done);
    }
    writer.await.unwrap();
    lab.maintain().await;
    assert!(done > 0, "not one compaction came between the merges");
    assert_eq!(lab.ids().await, (24..500).collect::<Vec<_>>());
}

/// Marks the row `id` as deleted, wherever it lies in its file.
async fn mark_id(lab: &Lab, table: DeltaTable, id: i64) -> lakehouse::Result<DeltaTable> {
    let store = table.object_store();
    for source in rows::sources(&table)? {
        let schema = Arc::new(delta::stored_schema(&table)?);
        let batches = delta::read_rows(&store, &source.file, &schema, delta::Rows::All, 1_000).await?;
        let batches: Vec<RecordBatch> = batches.try_collect().await?;
        let all = batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec());
        if let Some(place) = all.into_iter().position(|its| its == id) {
            let is_it = source.file.bounds(&["id"]).remove(0).unwrap();
            assert!(is_it.0.parse::<i64>().unwrap() <= id);
            let mut places: Positions = [place as u64].into_iter().collect();
            if let Some(vector) = source.file.vector() {
                places.extend(vectors::read(&store, &vector).await?.iter());
            }
            let mut changes = Changes::default();
            changes.mark(&store, vec![(source.file.clone(), places)]).await?;
            let operation = DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
            return changes.commit(table, operation, &lab.commit()).await;
        }
    }
    panic!("no file has the row {id}")
}
