//! What a crash leaves: each row of the table in the module's documentation, and real kills.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

/// Names the data folder to the child process.
const CHILD_DATA: &str = "MALLARD_TEST_DELIVERY_DATA";

/// Leaves a journal with the frames 0 and 1, as a killed process does.
async fn killed_with_two_frames() -> Place {
    let place = Place::new();
    let (stream, _) = place.open(LAZY);
    put(&stream, [0]).await.unwrap();
    put(&stream, [1]).await.unwrap();
    // Dropping delivers nothing.
    drop(stream);
    assert!(!place.path("bronze").exists());
    place
}

/// Opens `place` and checks that exactly the frames `expected` are delivered, once, now and after another restart.
fn delivers(place: &Place, expected: &[(String, u64)]) -> Vec<QueuedObject> {
    let (stream, queue) = place.open(LAZY);
    let objects = queue.pending(&table());
    assert_eq!(place.frames(&objects), expected);
    assert!(place.journals().is_empty());
    drop(stream);
    assert_eq!(place.open(LAZY).1.pending(&table()), objects);
    objects
}

fn append(path: &std::path::Path, bytes: &[u8]) {
    fs::OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

#[tokio::test]
async fn what_was_acked_before_a_kill_is_delivered_at_the_next_start() {
    let place = killed_with_two_frames().await;
    delivers(&place, &of_p([0, 1]));
}

#[tokio::test]
async fn an_empty_journal_is_removed() {
    let place = killed_with_two_frames().await;
    fs::write(place.path("journal/flights/00000000000000000001.open"), "").unwrap();
    assert_eq!(delivers(&place, &of_p([0, 1])).len(), 1);
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_a_whole_frame_before_it_is_delivered() {
    let place = killed_with_two_frames().await;
    append(&place.journal(), &frame("p", 2, 100));
    append(&place.journal(), &frame("p", 3, 100)[..50]);
    delivers(&place, &of_p([0, 1, 2]));
}

#[tokio::test]
async fn damage_inside_a_journal_goes_to_bronze_as_it_is() {
    let place = killed_with_two_frames().await;
    let mut content = fs::read(place.journal()).unwrap();
    content[40] ^= 1;
    fs::write(place.journal(), &content).unwrap();
    let (_stream, queue) = place.open(LAZY);
    let [object] = <[QueuedObject; 1]>::try_from(queue.pending(&table())).unwrap();
    assert_eq!(place.content(&object), content);
}

#[tokio::test]
async fn a_kill_before_or_while_the_entry_is_written_changes_nothing() {
    let place = killed_with_two_frames().await;
    fs::create_dir_all(place.path("bronze/flights/2026/01")).unwrap();
    let number = place.journal().file_stem().unwrap().to_str().unwrap().to_owned();
    fs::write(place.path("queue/flights").join(format!("{number}.draft")), "{\"object\": \"br").unwrap();
    delivers(&place, &of_p([0, 1]));
    assert_eq!(fs::read_dir(place.path("queue/flights")).unwrap().count(), 1);
}

#[tokio::test]
async fn a_kill_between_entry_and_rename_delivers_once_under_a_new_name() {
    let place = killed_with_two_frames().await;
    let number = place.journal().file_stem().unwrap().to_str().unwrap().to_owned();
    let entry = r#"{"object":"bronze/flights/never","bytes":1,"delivered_at_us":1}"#;
    fs::write(place.path("queue/flights").join(&number), entry).unwrap();
    let objects = delivers(&place, &of_p([0, 1]));
    assert_eq!(objects.len(), 1);
    assert_eq!(objects[0].id, number.parse::<u64>().unwrap());
    assert_ne!(objects[0].key, "bronze/flights/never");
}

#[tokio::test]
async fn a_delivered_object_is_pending_again_until_it_is_done() {
    let place = killed_with_two_frames().await;
    let objects = delivers(&place, &of_p([0, 1]));
    let (stream, queue) = place.open(LAZY);
    queue.done(&objects[0]).await.unwrap();
    drop(stream);
    delivers(&place, &[]);
    assert!(place.path(&objects[0].key).exists());
}

#[tokio::test]
async fn a_table_that_is_not_declared_any_more_keeps_its_journal() {
    let place = killed_with_two_frames().await;
    let other = "weather".parse().unwrap();
    drop(LocalDelivery::open(place.0.path(), [other], LAZY, Arc::new(SystemClock)).unwrap());
    delivers(&place, &of_p([0, 1]));
}

/// Kills a real process at many points: each frame that it was acked is delivered, and none twice.
#[test]
fn kill_9_loses_nothing_that_was_acked() {
    let place = Place::new();
    let mut acked = BTreeSet::new();
    for round in 0..15 {
        acked.extend(run_and_kill(&place, Duration::from_millis(round * 4)));
        let (_stream, queue) = place.open(BRIEF);
        let delivered = place.frames(&queue.pending(&table()));
        let unique: BTreeSet<_> = delivered.iter().cloned().collect();
        assert_eq!(unique.len(), delivered.len(), "round {round}: a frame was delivered twice");
        let lost: Vec<_> = acked.difference(&unique).collect();
        assert!(lost.is_empty(), "round {round}: lost {lost:?}");
        assert!(place.journals().is_empty());
    }
    assert!(acked.len() >= 15);
}

/// Runs [`the_process_that_is_killed`], kills it some time after its first ack, and gives what it was acked.
fn run_and_kill(place: &Place, later: Duration) -> Vec<(String, u64)> {
    let (_, here) = module_path!().split_once("::").unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--nocapture", "--exact", &format!("{here}::the_process_that_is_killed")])
        .env(CHILD_DATA, place.0.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    // The line before is the test harness's.
    let ack = |line: String| {
        let (producer, number) = line.strip_prefix("acked ")?.split_once(' ')?;
        Some((producer.to_owned(), number.parse().ok()?))
    };
    let first = lines.by_ref().find_map(ack).expect("the child was acked something");
    std::thread::sleep(later);
    child.kill().unwrap();
    child.wait().unwrap();
    std::iter::once(first).chain(lines.filter_map(ack)).collect()
}

#[test]
#[ignore = "the child process of kill_9_loses_nothing_that_was_acked"]
fn the_process_that_is_killed() {
    let Some(data) = std::env::var_os(CHILD_DATA) else { return };
    let options = LocalDeliveryOptions { roll_bytes: 20_000, roll_age: Duration::from_millis(3) };
    let (stream, _queue) = LocalDelivery::open(data.as_ref(), [table()], options, Arc::new(SystemClock)).unwrap();
    let stream = Arc::new(stream);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let producers = (0..4).map(|p| tokio::spawn(produce(format!("{}-{p}", std::process::id()), stream.clone())));
        futures::future::join_all(producers.collect::<Vec<_>>()).await;
    });
}

/// Puts until it is killed, and says what was acked.
async fn produce(producer: String, stream: Arc<LocalDelivery>) {
    for call in 0.. {
        let numbers = call * 3..call * 3 + 1 + call % 3;
        let records = numbers.clone().map(|n| frame(&producer, n, 500 + (n as usize * 997) % 5_000)).collect();
        stream.put(&table(), records).await.unwrap();
        let acks: String = numbers.map(|number| format!("acked {producer} {number}\n")).collect();
        std::io::stdout().write_all(acks.as_bytes()).unwrap();
    }
}
