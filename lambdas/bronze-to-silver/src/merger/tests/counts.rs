//! What a merge says of itself, and in which files it looks.

use arrow::array::{BinaryArray, Date32Array, Decimal128Array, TimestampMicrosecondArray};
use lakehouse::story::IngestStory;

use super::seen::{numbers, texts};
use super::*;

#[tokio::test]
async fn every_number_of_a_merge_is_exact() {
    let mut lab = Lab::new(&format!("{KEYED}odd = {{ check = \"v <> 'odd'\", on_fail = \"warn\" }}\n"));
    let stored = [upsert(1, 1, "a"), upsert(2, 1, "a"), upsert(3, 1, "a"), upsert(4, 5, "a")];
    let first = lab.object(&[frame("i", 0, &stored)]);
    let outcome = lab.merge(&[first]).await.unwrap();
    assert_eq!((outcome.work.inserted, outcome.work.files_added), (4, 1));

    let mixed = [
        upsert(10, 1, "new"),
        upsert(1, 2, "b"),
        upsert(1, 1, "c"), // overtaken by the one above
        delete(2, 2),
        upsert(4, 3, "late"),
        upsert(11, 1, "too long"),
        upsert(12, 1, "odd"),
    ];
    let (mixed, nothing) = (frame("i", 1, &mixed), frame("i", 2, &[delete(99, 1)]));
    let frames = [frame("i", 0, &stored), mixed.clone(), nothing.clone(), mixed.clone()];
    let object = lab.object(&frames);
    let outcome = lab.merge(std::slice::from_ref(&object)).await.unwrap();
    let ingest = IngestStory {
        ingest_id: "i".to_owned(),
        rows: 8,
        frames: 2,
        bytes: (mixed.len() + nothing.len()) as u64,
        accepted_at_us: 1_700_000_000_000_001,
        delivered_at_us: 1,
        quarantined: 1,
        total_frames: None,
        merged_to: Some(3),
    };
    let story = MergeStory {
        ingests: vec![ingest],
        objects: vec![object.key],
        rows_in: 8,
        changes: 6,
        deletes: 2,
        inserted: 2,
        updated: 1,
        late: 1,
        quarantined: 1,
        warned: BTreeMap::from([("odd".to_owned(), 1)]),
        ..outcome.story.clone()
    };
    assert_eq!(outcome.story, story);
    let work = Work {
        inserted: 2,
        updated: 1,
        deleted: 1,
        duplicate_frames: 2,
        late: 1,
        superseded: 1,
        files_scanned: 1,
        files_rewritten: 1,
        vectors_written: 0,
        // What was rewritten, and what is new.
        files_added: 2,
        bytes_written: lab.newest("add").iter().map(|add| add["size"].as_u64().unwrap()).sum(),
        ..outcome.work.clone()
    };
    assert_eq!(outcome.work, work);
    let bronze: usize = frames.iter().map(Bytes::len).sum();
    assert!(outcome.work.bytes_read > bronze as u64, "{bronze} bytes, and stored rows");
    let stages: Vec<&str> = outcome.work.stages_ms.keys().copied().collect();
    assert_eq!(stages, ["commit", "evolve", "read", "scan", "stage", "write"]);
    let left = [(1, row(2, "b")), (3, row(1, "a")), (4, row(5, "a")), (10, row(1, "new")), (12, row(1, "odd"))];
    assert_eq!(lab.silver().await, BTreeMap::from(left));
}

#[tokio::test]
async fn a_change_that_a_tombstone_has_overtaken_is_late() {
    let mut lab = Lab::new(KEYED);
    lab.events(&[upsert(1, 1, "a"), upsert(2, 1, "a")]).await;
    lab.events(&[delete(1, 5)]).await;
    let work = lab.events(&[upsert(1, 4, "late"), upsert(1, 3, "late"), upsert(2, 2, "b")]).await.work;
    assert_eq!((work.inserted, work.updated, work.deleted, work.late, work.superseded), (0, 1, 0, 2, 0));
}

#[tokio::test]
async fn updates_that_are_folded_into_one_are_superseded_and_late_ones_are_late() {
    let mut lab = Lab::new(&KEYED.replace("sequence_by", "ignore_null_updates = true\nsequence_by"));
    lab.events(&[upsert(1, 5, "a")]).await;
    let nothing: Event = (Some(1), Some(6), None, "upsert");
    let outcome = lab.events(&[nothing, upsert(1, 7, "b"), upsert(1, 4, "late")]).await;
    let work = outcome.work;
    assert_eq!((work.inserted, work.updated, work.late, work.superseded), (0, 1, 1, 1));
    assert_eq!(outcome.story.changes, 1);
}

/// Rows of one sequence.
fn rows_of(ids: &[i64], sequence: i64) -> Vec<(&'static str, ArrayRef)> {
    let count = ids.len();
    vec![("id", numbers(ids)), ("seq", numbers(&vec![sequence; count])), ("v", texts(&vec![Some("a"); count]))]
}

/// Four files of ten adjacent keys each.
async fn in_four_files(toml: &str) -> Lab {
    let mut lab = Lab::new(toml);
    for file in 0..4 {
        let ids: Vec<i64> = (file * 100..file * 100 + 10).collect();
        lab.step(rows_of(&ids, 1)).await;
    }
    assert_eq!(lab.files().await.len(), 4);
    lab
}

#[tokio::test]
async fn adjacent_keys_are_looked_for_in_the_one_file_that_may_have_them() {
    let spelt = "name = \"lab\"\n[tables.t]\nprimary_key = [\"ID\"]\nsequence_by = \"Seq\"\n";
    for toml in [KEYED, spelt] {
        let mut lab = in_four_files(toml).await;
        let work = lab.step(rows_of(&[203, 204, 205], 2)).await.work;
        assert_eq!((work.files_scanned, work.files_rewritten, work.updated, work.inserted), (1, 1, 3, 0), "{toml}");
        let work = lab.step(rows_of(&[150], 1)).await.work;
        assert_eq!((work.files_scanned, work.files_rewritten, work.inserted), (0, 0, 1), "{toml}");
        assert_eq!(lab.silver().await.len(), 41, "{toml}");
    }
}

#[tokio::test]
async fn a_partition_that_is_part_of_the_key_tells_the_file() {
    let partitions = ["a", "b c/ä", "c", "d%20=x"];
    for key in ["[\"P\", \"ID\"]", "[\"ID\", \"P\"]"] {
        let rules = format!("primary_key = {key}\nsequence_by = \"seq\"\npartition_by = [\"P\"]\n");
        let mut lab = Lab::new(&format!("name = \"lab\"\n[tables.t]\n{rules}"));
        let all: Vec<Option<&str>> = partitions.iter().flat_map(|name| [Some(*name); 3]).collect();
        let ids: Vec<i64> = partitions.iter().flat_map(|_| 0..3).collect();
        lab.step(vec![("p", texts(&all)), ("id", numbers(&ids)), ("seq", numbers(&[1; 12]))]).await;
        assert_eq!(lab.files().await.len(), 4);
        for (number, name) in partitions.iter().enumerate() {
            let (p, id, seq) = (texts(&[Some(*name)]), numbers(&[1]), numbers(&[2 + number as i64]));
            let work = lab.step(vec![("p", p), ("id", id), ("seq", seq)]).await.work;
            assert_eq!((work.files_scanned, work.updated, work.inserted), (1, 1, 0), "{key} {name}");
        }
        let seen = lab.seen(&["id", "seq", "p"]).await;
        let changed: Vec<&String> = seen.iter().filter(|row| row.starts_with("1 ")).collect();
        assert_eq!(changed, ["1 2 a", "1 3 b c/ä", "1 4 c", "1 5 d%20=x"], "{key}");
        assert_eq!(seen.len(), 12, "{key}");
    }
}

#[tokio::test]
async fn keys_at_the_bounds_of_a_file_are_found() {
    let us: [i64; 3] = [-1_500_000_000_000_001, 0, 1_700_000_000_123_999];
    let long = |end: &str| format!("{}{end}", "x".repeat(100));
    let long: Vec<String> = ["", "m", "\u{10ffff}é"].map(long).to_vec();
    let cents = [-12_345_678_901_234_567_i128, 0, 12_345_678_901_234_567];
    let decimal =
        |digits, scale| Decimal128Array::from(cents.to_vec()).with_precision_and_scale(digits, scale).unwrap();
    let bytes = vec![&b"\x00"[..], b"A", b"\xff\xfe"];
    let keys: Vec<ArrayRef> = vec![
        numbers(&[i64::MIN, 0, i64::MAX]),
        Arc::new(TimestampMicrosecondArray::from(us.to_vec())),
        Arc::new(TimestampMicrosecondArray::from(us.to_vec()).with_timezone("UTC")),
        Arc::new(Date32Array::from(vec![-400_000, 0, 400_000])),
        Arc::new(StringArray::from(long)),
        Arc::new(decimal(17, 2)),
        Arc::new(decimal(18, 0)),
        Arc::new(decimal(38, 9)),
        Arc::new(BinaryArray::from(bytes)),
    ];
    for key in keys {
        let what = format!("{:?}", key.data_type());
        let mut lab = Lab::new("name = \"lab\"\n[tables.t]\nprimary_key = [\"k\"]\nsequence_by = \"seq\"\n");
        lab.step(vec![("k", Arc::clone(&key)), ("seq", numbers(&[1, 2, 3]))]).await;
        for (at, later) in [(0, 4), (2, 6)] {
            let work = lab.step(vec![("k", key.slice(at, 1)), ("seq", numbers(&[later]))]).await.work;
            assert_eq!((work.updated, work.inserted), (1, 0), "{what}, key {at}");
        }
        assert_eq!(lab.seen(&["seq"]).await, ["2", "4", "6"], "{what}");
    }
}
