//! Tombstones that are older than they need be go, the others stay.

use arrow::array::TimestampMicrosecondArray;
use arrow::datatypes::{DataType, Field, TimeUnit};

use super::*;

fn tombstones(rows: &[(i64, Option<i64>)]) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("deleted_at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
    ]);
    let ids: Int64Array = rows.iter().map(|(id, _)| Some(*id)).collect();
    let times: TimestampMicrosecondArray = rows.iter().map(|(_, time)| *time).collect();
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids), Arc::new(times.with_timezone("UTC"))]).unwrap()
}

async fn bury(lab: &Lab, rows: &[(i64, Option<i64>)]) {
    let batch = tombstones(rows);
    let table = delta::create(&lab.lake, Layer::Tombstones, &Lab::t(), &batch.schema(), &[], None).await.unwrap();
    delta::append(table, vec![batch], &lab.commit()).await.unwrap();
}

async fn buried(lab: &Lab) -> Vec<i64> {
    ids_of(&lab.lake.open(Layer::Tombstones, &Lab::t()).await.unwrap().unwrap()).await
}

async fn maintain(lab: &Lab) -> Report {
    let report = lab.maintainer.maintain(Layer::Tombstones, &Lab::t()).await.unwrap();
    assert!(!report.has_failed(), "{report:?}");
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tombstones_go_after_their_retention_and_not_before() {
    let lab = Lab::new();
    let ago = |days: u32| Some(lab.clock.now_us() - us(days * DAY));
    bury(&lab, &[(1, ago(40)), (2, ago(31))]).await;
    bury(&lab, &[(3, ago(31)), (4, ago(29)), (5, ago(0))]).await;
    bury(&lab, &[(6, ago(10)), (7, ago(20))]).await;
    let report = maintain(&lab).await;
    let step = report.step(Action::Expire).unwrap();
    assert_eq!((step.result, step.rows), (Ending::Done, 3), "{step:?}");
    assert_eq!(buried(&lab).await, vec![4, 5, 6, 7]);
    lab.clock.advance_us(us(2 * DAY));
    maintain(&lab).await;
    assert_eq!(buried(&lab).await, vec![5, 6, 7]);
    lab.clock.advance_us(us(30 * DAY));
    maintain(&lab).await;
    assert_eq!(buried(&lab).await, Vec::<i64>::new());
    assert_eq!(maintain(&lab).await.step(Action::Expire).unwrap().result, Ending::Nothing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tombstones_without_a_time_count_from_their_commit_however_often_they_are_rewritten() {
    let lab = Lab::new();
    bury(&lab, &[(1, None), (2, None)]).await;
    lab.clock.advance_us(us(20 * DAY));
    bury(&lab, &[(3, Some(lab.clock.now_us()))]).await;
    // Both files become one, in which all rows have a time.
    let report = maintain(&lab).await;
    assert_eq!(report.step(Action::Compact).unwrap().files_after, 1, "{report:?}");
    assert_eq!(buried(&lab).await, vec![1, 2, 3]);
    lab.clock.advance_us(us(11 * DAY));
    maintain(&lab).await;
    assert_eq!(buried(&lab).await, vec![3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tombstones_of_before_there_was_a_time_go_with_their_files() {
    let lab = Lab::new();
    let batch = tombstones(&[(1, None)]).project(&[0]).unwrap();
    for _ in 0..2 {
        let table = delta::create(&lab.lake, Layer::Tombstones, &Lab::t(), &batch.schema(), &[], None).await.unwrap();
        delta::append(table, vec![batch.clone()], &lab.commit()).await.unwrap();
    }
    // One file would have one date, which is not that of its rows.
    assert_eq!(maintain(&lab).await.step(Action::Compact).unwrap().files_after, 2);
    lab.clock.advance_us(us(29 * DAY));
    maintain(&lab).await;
    assert_eq!(buried(&lab).await, vec![1, 1]);
    lab.clock.advance_us(us(2 * DAY));
    maintain(&lab).await;
    assert_eq!(buried(&lab).await, Vec::<i64>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_few_old_rows_are_not_worth_a_new_file() {
    let lab = Lab::new();
    let old = (0, Some(lab.clock.now_us() - us(40 * DAY)));
    let young = (1..100).map(|id| (id, Some(lab.clock.now_us())));
    bury(&lab, &[old].into_iter().chain(young).collect::<Vec<_>>()).await;
    let report = maintain(&lab).await;
    assert_eq!(report.step(Action::Expire).unwrap().result, Ending::Nothing);
    assert_eq!(buried(&lab).await.len(), 100);
}
