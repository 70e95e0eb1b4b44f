//! Merges of more rows than one commit takes, and of less time than they need.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::seen::{numbers, texts};
use super::*;

const APPENDED: &str = "name = \"lab\"\n[tables.t]\n";

/// Rows of a frame.
const ROWS: i64 = 500;

/// Letters of a text, of which a frame has one a row: two frames are a part of [`settings`], three are too much.
const LETTERS: usize = 10_000;

fn settings() -> Settings {
    Settings { duck: duck::Settings { memory_bytes: 96 << 20, ..duck::Settings::default() }, ..Settings::default() }
}

/// A frame with ids of its own.
fn large(number: u64) -> Bytes {
    let first = i64::try_from(number).unwrap() * ROWS;
    let ids = Int64Array::from_iter_values(first..first + ROWS);
    let pad = StringArray::from_iter_values((0..ROWS).map(|_| "x".repeat(LETTERS)));
    frame_of("i", number, vec![("id", Arc::new(ids)), ("pad", Arc::new(pad))])
}

/// A clock that takes its time: each part asks it once, so that a call does not get through them all.
struct SlowClock(Duration);

impl Clock for SlowClock {
    fn now_us(&self) -> i64 {
        std::thread::sleep(self.0);
        1_800_000_000_000_000
    }
}

async fn ids(lab: &Lab) -> Vec<i64> {
    let Some(table) = lab.lake.open(Layer::Silver, &Name::new("t").unwrap()).await.unwrap() else { return Vec::new() };
    let session = delta::session(64 << 20, 1 << 30);
    let rows = delta::read(&table, &session, Some(&["id".to_owned()]), None).await.unwrap();
    let batches: Vec<RecordBatch> = rows.try_collect().await.unwrap();
    let mut ids: Vec<i64> = Vec::new();
    for batch in batches {
        ids.extend(batch.column(0).as_primitive::<Int64Type>().values());
    }
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn what_a_hurried_merge_calls_done_is_in_and_all_is_done_in_the_end() {
    let mut lab = Lab::new(APPENDED);
    let slow = Duration::from_millis(100);
    lab.restart(APPENDED, Arc::new(SlowClock(slow)), settings());
    // The parts are 0 and 1, 2 and 3, 4 and 5, 6 and 7: the third one ends the first object.
    let frames: Vec<Bytes> = (0..8).map(large).collect();
    let objects = [lab.object(&frames[..5]), lab.object(&frames[5..])];
    let ids_of = [0..5 * ROWS, 5 * ROWS..8 * ROWS];
    let table = Name::new("t").unwrap();
    let (mut time, mut done, mut halves) = (slow / 5, BTreeSet::new(), 0);
    while done.len() < objects.len() {
        let until = Some(Instant::now() + time);
        let outcome = lab.merger.merge_until(&table, &objects, until).await.unwrap();
        done.extend(outcome.done);
        let found = ids(&lab).await;
        for (object, its) in objects.iter().zip(&ids_of) {
            let count = found.iter().filter(|id| its.contains(*id)).count() as i64;
            let whole = its.end - its.start;
            assert!(count == whole || !done.contains(&object.key), "{} is done with {count} of {whole}", object.key);
            halves += usize::from(0 < count && count < whole);
        }
        time *= 2;
    }
    assert!(halves > 0, "no merge was stopped within an object");
    assert_eq!(ids(&lab).await, (0..8 * ROWS).collect::<Vec<_>>());
    assert_eq!(lab.merge(&objects).await.unwrap().version, None);
}

#[tokio::test]
async fn a_merge_without_time_does_nothing() {
    let mut lab = Lab::new(KEYED);
    let object = lab.object(&[frame("i", 0, &[upsert(1, 1, "a")])]);
    let outcome = lab.merger.merge_until(&Name::new("t").unwrap(), &[object], Some(Instant::now())).await.unwrap();
    assert_eq!((outcome.version, outcome.done.len()), (None, 0));
    assert!(lab.rows(Layer::Silver).await.is_empty());
}

#[tokio::test]
async fn a_key_that_changes_in_several_parts_is_what_its_highest_sequence_says() {
    let mut lab = Lab::with_settings(KEYED, settings());
    let changes: [&[Event]; 4] = [
        &[upsert(1, 5, "a"), delete(2, 5), upsert(3, 1, "a")],
        &[upsert(1, 4, "b"), upsert(2, 4, "b"), upsert(3, 2, "b")],
        &[delete(3, 9), upsert(2, 6, "c")],
        &[upsert(3, 8, "d"), upsert(1, 6, "d"), delete(1, 6)],
    ];
    // With each frame of changes comes so much else that the next ones are in other parts.
    let mut frames = Vec::new();
    for (number, events) in (0_u64..).zip(changes) {
        frames.push(frame("i", number, events));
        let keys: Vec<i64> = (0..2 * ROWS).map(|row| 1_000 * (number as i64 + 1) + row).collect();
        let pad: Vec<String> = keys.iter().map(|_| "x".repeat(LETTERS)).collect();
        let pad: Vec<Option<&str>> = pad.iter().map(|pad| Some(pad.as_str())).collect();
        let sequences = vec![1; keys.len()];
        let columns = vec![("id", numbers(&keys)), ("seq", numbers(&sequences)), ("pad", texts(&pad))];
        frames.push(frame_of("j", number, columns));
    }
    let objects = [lab.object(&frames[..3]), lab.object(&frames[3..])];
    let outcome = lab.merge(&objects).await.unwrap();
    assert_eq!(outcome.done, objects.each_ref().map(|object| object.key.clone()));
    assert!(outcome.version >= Some(4), "{:?}: a commit a part", outcome.version);
    let mut silver = lab.silver().await;
    silver.retain(|id, _| *id < 1_000);
    assert_eq!(silver, BTreeMap::from([(2, row(6, "c"))]));
}

#[tokio::test]
async fn objects_beyond_what_is_held_at_once_are_read_in_portions() {
    let duck = duck::Settings { memory_bytes: 64 << 20, ..duck::Settings::default() };
    let mut lab = Lab::with_settings(APPENDED, Settings { duck, ..Settings::default() });
    let mut rng = fastrand::Rng::with_seed(7);
    // Each has 2.4 MB that can't be packed, in three frames: ten frames are a part, four objects are held at once.
    let mut objects = Vec::new();
    for object in 0..5 {
        let mut frames = Vec::new();
        for number in object * 3..object * 3 + 3 {
            let first = number * 80;
            let text = |_: i64| std::iter::repeat_with(|| rng.alphanumeric()).take(LETTERS).collect::<String>();
            let pad = StringArray::from_iter_values((first..first + 80).map(text));
            let columns = vec![("id", numbers(&Vec::from_iter(first..first + 80))), ("pad", Arc::new(pad) as ArrayRef)];
            frames.push(frame_of("i", u64::try_from(number).unwrap(), columns));
        }
        objects.push(lab.object(&frames));
    }
    let outcome = lab.merge(&objects).await.unwrap();
    assert_eq!(outcome.version, Some(3), "two parts, and one of the second portion");
    assert_eq!(outcome.done, objects.iter().map(|object| object.key.clone()).collect::<Vec<_>>());
    assert_eq!(outcome.story.objects, outcome.done);
    assert_eq!(outcome.story.rows_in, 1_200);
    assert_eq!(ids(&lab).await, (0..1_200).collect::<Vec<_>>());
    assert_eq!(lab.merge(&objects).await.unwrap().version, None);
}
