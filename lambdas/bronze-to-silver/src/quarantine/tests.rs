use arrow::datatypes::Int64Type;
use futures::TryStreamExt;
use lakehouse::Name;
use lakehouse::definition::Definition;
use tempfile::TempDir;

use super::*;

/// A table `t` and a lake for it.
fn lab() -> (TempDir, Table, Lake) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("lakehouse.toml"), "name = \"lab\"\n[tables.t]\n").unwrap();
    let definition = Definition::load(folder.path()).unwrap();
    let lake = Lake::in_folder(&folder.path().join("data")).unwrap();
    let table = Table::clone(&definition.tables[&Name::new("t").unwrap()]);
    (folder, table, lake)
}

async fn rows(lake: &Lake, table: &Table) -> Vec<RecordBatch> {
    let delta = open_whole(lake, table).await.unwrap().unwrap();
    let session = delta::session(64 << 20, 1 << 30);
    let stream = delta::read(&delta, &session, None, None).await.unwrap();
    let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap();
    batches.iter().map(|batch| by_name(batch).unwrap()).collect()
}

fn count(batches: &[RecordBatch]) -> usize {
    batches.iter().map(RecordBatch::num_rows).sum()
}

fn object() -> BronzeObject {
    BronzeObject { key: "bronze/t/1".to_owned(), delivered_at_us: 7 }
}

#[tokio::test]
async fn an_object_is_set_aside_once_until_that_is_forgotten() {
    let (_folder, table, lake) = lab();
    for _ in 0..2 {
        add_object(&lake, &table, &object(), "it breaks the merge", 9).await.unwrap();
    }
    let found = rows(&lake, &table).await;
    assert_eq!(count(&found), 1);
    let text = |name: &str| found[0].column_by_name(name).unwrap().as_string::<i32>().clone();
    assert_eq!((text("rule").value(0), text("object").value(0)), (POISON_RULE, "bronze/t/1"));
    assert!(text("row_json").is_null(0));

    let delta = open(&lake, &table).await.unwrap().unwrap();
    let transactions = forget([object_id("bronze/t/1")]);
    delta::commit_only(delta, &Commit { transactions, story: Value::Null, at_us: 10 }).await.unwrap();
    add_object(&lake, &table, &object(), "it still does", 11).await.unwrap();
    assert_eq!(count(&rows(&lake, &table).await), 2);
}

#[tokio::test]
async fn a_quarantine_of_an_older_version_gets_the_new_columns() {
    let (_folder, table, lake) = lab();
    let old = quarantine_schema().project(&(0..10).collect::<Vec<_>>()).unwrap();
    delta::create(&lake, Layer::Quarantine, &table.name, &old, &[], None).await.unwrap();
    let row = fill(1, vec![("frame", Arc::new(Int64Array::from(vec![5])))]).unwrap();
    assert_eq!(
        Quarantine::open(&lake, &table).await.unwrap().add(&table, vec![row], &[], Vec::new(), 1).await.unwrap(),
        1
    );
    let found = rows(&lake, &table).await;
    assert_eq!(found[0].column_by_name("frame").unwrap().as_primitive::<Int64Type>().value(0), 5);
    assert!(found[0].column_by_name("replayed_at").unwrap().is_null(0));
}

#[test]
fn rows_are_known_by_the_frame_that_records_them() {
    let text = |values: [&str; 2]| -> ArrayRef { Arc::new(StringArray::from(values.to_vec())) };
    let batch = RecordBatch::try_from_iter([
        ("ingest_id", text(["first", "first"])),
        ("frame", Arc::new(Int64Array::from(vec![3, 3])) as ArrayRef),
        (RECORDED_INGEST, text(["replay:x", "replay:x"])),
        (RECORDED_FRAME, Arc::new(Int64Array::from(vec![0, 1])) as ArrayRef),
    ])
    .unwrap();
    let fresh = without_recorded(&batch, |ingest_id, frame| ingest_id == "replay:x" && frame == 0).unwrap();
    assert_eq!(fresh.num_rows(), 1);
    let kept = by_name(&fresh).unwrap();
    assert_eq!(kept.column_by_name("ingest_id").unwrap().as_string::<i32>().value(0), "first");
}
