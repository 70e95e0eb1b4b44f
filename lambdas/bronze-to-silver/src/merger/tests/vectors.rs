//! Rows that go by deletion vector, in files of any size.

use super::*;

/// [`KEYED`], with a line for its table.
fn marking(line: &str) -> String {
    KEYED.replace("sequence_by", &format!("deletion_vectors = true\n{line}\nsequence_by"))
}

/// `id seq v` of all rows.
async fn seen(lab: &Lab) -> Vec<String> {
    lab.seen(&["id", "seq", "v"]).await
}

fn upserts<const N: usize>(ids: [i64; N], seq: i64, v: &'static str) -> [Event; N] {
    ids.map(|id| upsert(id, seq, v))
}

#[tokio::test]
async fn merges_mark_the_same_file_again_and_again() {
    let mut lab = Lab::new(&marking(""));
    lab.events(&upserts([1, 2, 3, 4, 5, 6], 1, "a")).await;
    assert!(lab.marked().is_empty());
    let first = lab.files().await[0].path().to_string();
    let steps: [(&[Event], i64, &[&str]); 3] = [
        (&[upsert(1, 2, "b"), delete(2, 2), upsert(5, 2, "b")], 3, &["1 2 b", "3 1 a", "4 1 a", "5 2 b", "6 1 a"]),
        (&[delete(3, 2)], 4, &["1 2 b", "4 1 a", "5 2 b", "6 1 a"]),
        (&[upsert(6, 2, "c"), upsert(2, 3, "c")], 5, &["1 2 b", "2 3 c", "4 1 a", "5 2 b", "6 2 c"]),
    ];
    for (events, gone, left) in steps {
        let work = lab.events(events).await.work;
        assert_eq!((work.vectors_written, work.files_rewritten), (1, 0), "{left:?}");
        assert_eq!(lab.marked(), BTreeMap::from([(first.clone(), gone)]), "{left:?}");
        assert_eq!(seen(&lab).await, left);
    }
    // The rows that 1 and 5 have now lie in another file.
    lab.events(&[upsert(1, 3, "d")]).await;
    assert_eq!(lab.marked().values().collect::<Vec<_>>(), [&1]);
    assert!(!lab.marked().contains_key(&first));
    assert_eq!(seen(&lab).await, ["1 3 d", "2 3 c", "4 1 a", "5 2 b", "6 2 c"]);
    let table = lab.lake.open(Layer::Silver, &Name::new("t").unwrap()).await.unwrap().unwrap();
    assert_eq!(delta::size(&table).unwrap().0, 5, "rows by the log");
}

#[tokio::test]
async fn the_log_takes_a_marked_file_out_as_it_was_and_adds_it_as_it_is() {
    let mut lab = Lab::new(&marking(""));
    lab.events(&upserts([1, 2, 3, 4], 1, "a")).await;
    let mut before = serde_json::Value::Null;
    for id in [1, 3] {
        lab.events(&[delete(id, 2)]).await;
        let (removed, added) = (lab.newest("remove"), lab.newest("add"));
        assert_eq!((removed.len(), added.len()), (1, 1));
        assert_eq!(removed[0]["path"], added[0]["path"]);
        assert_eq!(removed[0]["deletionVector"], before, "what the file had until now");
        assert_eq!(added[0]["dataChange"], true);
        let stats: serde_json::Value = serde_json::from_str(added[0]["stats"].as_str().unwrap()).unwrap();
        assert_eq!(stats["numRecords"], 4);
        assert_eq!(stats["tightBounds"], false);
        before = added[0]["deletionVector"].clone();
    }
    assert_eq!(seen(&lab).await, ["2 1 a", "4 1 a"]);
}

#[tokio::test]
async fn a_file_whose_rows_are_all_gone_is_gone() {
    let mut lab = Lab::new(&marking(""));
    lab.events(&upserts([1, 2, 3], 1, "a")).await;
    lab.events(&upserts([7, 8], 1, "a")).await;
    lab.events(&[delete(1, 2), delete(3, 2)]).await;
    assert_eq!(lab.files().await.len(), 2);
    let work = lab.events(&[delete(2, 2)]).await.work;
    assert_eq!((work.vectors_written, work.files_rewritten, work.files_added), (0, 1, 0));
    assert_eq!((lab.newest("remove").len(), lab.newest("add").len()), (1, 0));
    assert_eq!(lab.files().await.len(), 1);
    assert_eq!(seen(&lab).await, ["7 1 a", "8 1 a"]);
    // All of a table's rows may go, and others come.
    lab.events(&[delete(7, 2), delete(8, 2)]).await;
    assert_eq!(seen(&lab).await, [""; 0]);
    lab.events(&upserts([2, 7], 3, "b")).await;
    assert_eq!(seen(&lab).await, ["2 3 b", "7 3 b"]);
}

#[tokio::test]
async fn updates_that_ignore_nulls_find_their_rows_behind_marked_ones() {
    let mut lab = Lab::new(&marking("ignore_null_updates = true"));
    let values = ["v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7"];
    let stored: Vec<Event> = (0..8).map(|id| upsert(id, 1, values[usize::try_from(id).unwrap()])).collect();
    lab.events(&stored).await;
    lab.events(&[delete(0, 2), delete(2, 2), upsert(4, 2, "x")]).await;
    let keep = |id: i64, seq: i64| -> Event { (Some(id), Some(seq), None, "upsert") };
    lab.events(&[keep(6, 2), keep(4, 3), keep(1, 2), keep(2, 3)]).await;
    let left = ["1 2 v1", "2 3 -", "3 1 v3", "4 3 x", "5 1 v5", "6 2 v6", "7 1 v7"];
    assert_eq!(seen(&lab).await, left);
    lab.events(&[keep(7, 2)]).await;
    assert_eq!(seen(&lab).await.last().map(String::as_str), Some("7 2 v7"));
}

#[tokio::test]
async fn many_small_files_are_written_together_without_what_was_marked() {
    const MERGES: i64 = 16;
    let mut lab = Lab::new(&marking(""));
    let mut expected = BTreeMap::new();
    let (mut most, mut gathered, mut marked) = (0, 0, 0);
    for merge in 1..=MERGES {
        // Three new rows; of the three before, one is updated and one deleted.
        let mut events = upserts([merge * 10, merge * 10 + 1, merge * 10 + 2], 1, "a").to_vec();
        expected.extend((0..3).map(|at| (merge * 10 + at, row(1, "a"))));
        if merge > 1 {
            events.extend([upsert(merge * 10 - 10, 2, "b"), delete(merge * 10 - 9, 2)]);
            expected.insert(merge * 10 - 10, row(2, "b"));
            expected.remove(&(merge * 10 - 9));
        }
        let work = lab.events(&events).await.work;
        marked += work.vectors_written;
        gathered = gathered.max(work.files_rewritten);
        most = most.max(lab.files().await.len());
        assert_eq!(lab.silver().await, expected, "after {merge} merges");
    }
    assert_eq!(lab.seen(&["id"]).await.len(), expected.len());
    assert!(marked >= 12, "{marked} vectors were written");
    assert!(gathered > 12, "{gathered} files were written together");
    assert!(most <= 14, "{most} files");
}

#[tokio::test]
async fn the_ends_of_a_history_are_moved_by_marking_too() {
    let mut lab = Lab::new(&marking("history = true"));
    lab.events(&upserts([1, 2, 3, 4], 1, "a")).await;
    let first = lab.files().await[0].path().to_string();
    let work = lab.events(&[upsert(2, 5, "b")]).await.work;
    assert_eq!((work.vectors_written, work.files_rewritten, work.files_added), (1, 0, 1));
    let work = lab.events(&[upsert(2, 3, "c"), delete(4, 2)]).await.work;
    assert_eq!((work.vectors_written, work.files_rewritten), (2, 0));
    assert_eq!(lab.marked().get(&first), Some(&2));
    let columns = ["id", "seq", "v", "_valid_from", "_valid_to", "_is_current"];
    let left =
        ["1 1 a 1 - true", "2 1 a 1 3 false", "2 3 c 3 5 false", "2 5 b 5 - true", "3 1 a 1 - true", "4 1 a 1 2 false"];
    assert_eq!(lab.seen(&columns).await, left);
}

#[tokio::test]
async fn a_table_that_is_told_not_to_has_no_vectors() {
    let mut lab = Lab::new(&marking("").replace("= true", "= false"));
    lab.events(&upserts([1, 2, 3, 4], 1, "a")).await;
    let work = lab.events(&[upsert(1, 2, "b"), delete(2, 2)]).await.work;
    assert_eq!((work.vectors_written, work.files_rewritten, work.files_added), (0, 1, 1));
    assert!(lab.marked().is_empty());
    assert_eq!(seen(&lab).await, ["1 2 b", "3 1 a", "4 1 a"]);
}
