//! The contract, and what the contract can't see: files, crashes, full disks.

mod crash;
mod disk;

use std::fs;
use std::path::PathBuf;

use lakehouse::{ManualClock, SystemClock};
use tempfile::TempDir;

use super::*;
use crate::delivery::QueuedObject;
use crate::delivery::contract::{self, Subject, frame, frames_in};

/// Never rolls before it is told to.
const LAZY: LocalDeliveryOptions = LocalDeliveryOptions { roll_bytes: u64::MAX, roll_age: Duration::from_secs(3_600) };

/// Rolls after every put.
const EAGER: LocalDeliveryOptions = LocalDeliveryOptions { roll_bytes: 1, roll_age: Duration::from_secs(3_600) };

/// Rolls by age, often.
const BRIEF: LocalDeliveryOptions = LocalDeliveryOptions { roll_bytes: u64::MAX, roll_age: Duration::from_millis(2) };

/// 2026-01-31 08:15:30.000001 UTC.
const NOW_US: i64 = 1_769_847_330_000_001;

fn table() -> Name {
    "flights".parse().unwrap()
}

/// A data folder that outlives the streams over it.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn open(&self, options: LocalDeliveryOptions) -> (LocalDelivery, Arc<LocalQueue>) {
        self.try_open(options).unwrap()
    }

    fn try_open(&self, options: LocalDeliveryOptions) -> Result<(LocalDelivery, Arc<LocalQueue>)> {
        LocalDelivery::open(self.0.path(), [table()], options, Arc::new(SystemClock))
    }

    fn open_at(&self, now_us: i64) -> (LocalDelivery, Arc<LocalQueue>) {
        LocalDelivery::open(self.0.path(), [table()], LAZY, Arc::new(ManualClock::at(now_us))).unwrap()
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }

    /// The only journal.
    fn journal(&self) -> PathBuf {
        let [journal] = <[PathBuf; 1]>::try_from(self.journals()).unwrap();
        journal
    }

    fn journals(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.path("journal/flights")).unwrap();
        files.map(|file| file.unwrap().path()).collect()
    }

    /// What lies in `objects`, in order.
    fn frames(&self, objects: &[QueuedObject]) -> Vec<(String, u64)> {
        objects.iter().flat_map(|object| frames_in(self.content(object))).collect()
    }

    fn content(&self, object: &QueuedObject) -> Bytes {
        let content = fs::read(self.path(&object.key)).unwrap();
        assert_eq!(content.len() as u64, object.bytes);
        content.into()
    }
}

/// The frames of producer `p` with these numbers.
fn of_p(numbers: impl IntoIterator<Item = u64>) -> Vec<(String, u64)> {
    numbers.into_iter().map(|number| ("p".to_owned(), number)).collect()
}

async fn put(stream: &LocalDelivery, numbers: impl IntoIterator<Item = u64>) -> Result<()> {
    stream.put(&table(), numbers.into_iter().map(|number| frame("p", number, 100)).collect()).await
}

fn subject(options: LocalDeliveryOptions) -> Subject {
    let place = Place::new();
    let (stream, queue) = place.open(options);
    let bronze = move || queue.pending(&table()).iter().map(|object| place.content(object)).collect();
    Subject { stream: Arc::new(stream), table: table(), bronze: Box::new(bronze), faulty: false }
}

macro_rules! contract {
    ($($name:ident),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            for options in [LocalDeliveryOptions::default(), LAZY, EAGER, BRIEF] {
                contract::$name(subject(options)).await;
            }
        }
    )+};
}

contract!(
    an_empty_put_delivers_nothing,
    the_order_of_a_producer_is_kept,
    what_is_over_a_limit_is_refused_and_what_meets_it_is_kept,
    a_table_that_is_not_carried_is_refused,
    a_closed_stream_refuses_and_can_be_closed_again,
    what_concurrent_producers_were_acked_is_in_bronze_after_a_close,
);

#[tokio::test]
async fn a_journal_rolls_by_age_without_another_put() {
    let place = Place::new();
    let (stream, queue) = place.open(BRIEF);
    let mut news = queue.subscribe();
    put(&stream, [0]).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), news.changed()).await.unwrap().unwrap();
    assert_eq!(place.frames(&queue.pending(&table())), of_p([0]));
}

#[tokio::test]
async fn a_journal_rolls_by_size_and_later_puts_go_to_the_next() {
    let place = Place::new();
    let (stream, queue) = place.open(LocalDeliveryOptions { roll_bytes: 400, ..LAZY });
    for number in 0..7 {
        put(&stream, [number]).await.unwrap();
    }
    stream.close().await.unwrap();
    let objects = queue.pending(&table());
    let sizes: Vec<usize> = objects.iter().map(|object| frames_in(place.content(object)).len()).collect();
    assert_eq!(sizes, [3, 3, 1]);
    assert_eq!(place.frames(&objects), of_p(0..7));
    assert!(place.journals().is_empty());
}

#[tokio::test]
async fn an_object_is_named_as_firehose_names_it() {
    let place = Place::new();
    let (stream, queue) = place.open_at(NOW_US);
    put(&stream, [0]).await.unwrap();
    stream.close().await.unwrap();
    let [object] = <[QueuedObject; 1]>::try_from(queue.pending(&table())).unwrap();
    let unique = object.key.strip_prefix("bronze/flights/2026/01/31/08/flights-1-2026-01-31-08-15-30-").unwrap();
    assert_eq!(uuid::Uuid::parse_str(unique).unwrap().get_version_num(), 7);
    assert_eq!((object.id, object.delivered_at_us), (NOW_US as u64, NOW_US));
}

#[tokio::test]
async fn numbers_ascend_even_when_the_clock_goes_back() {
    let place = Place::new();
    for (now_us, number) in [(NOW_US, 0), (NOW_US - 1_000_000, 1), (NOW_US, 2)] {
        let (stream, _) = place.open_at(now_us);
        put(&stream, [number]).await.unwrap();
        stream.close().await.unwrap();
    }
    let (_stream, queue) = place.open_at(NOW_US);
    let objects = queue.pending(&table());
    let ids: Vec<i64> = objects.iter().map(|object| object.id as i64 - NOW_US).collect();
    assert_eq!(ids, [0, 1, 2]);
    assert_eq!(place.frames(&objects), of_p(0..3));
}

#[tokio::test]
async fn stats_count_what_was_acked_and_delivered_since_the_stream_was_opened() {
    let place = Place::new();
    let (stream, _) = place.open(LAZY);
    put(&stream, [0, 1]).await.unwrap();
    let bytes = (frame("p", 0, 100).len() + frame("p", 1, 100).len()) as u64;
    let accepted = DeliveryStats { records_accepted: 2, bytes_accepted: bytes, ..Default::default() };
    assert_eq!(stream.stats(), BTreeMap::from([(table(), accepted)]));

    stream.close().await.unwrap();
    let delivered = DeliveryStats { objects_delivered: 1, bytes_delivered: bytes, ..accepted };
    assert_eq!(stream.stats(), BTreeMap::from([(table(), delivered)]));

    drop(stream);
    assert_eq!(place.open(LAZY).0.stats(), BTreeMap::from([(table(), DeliveryStats::default())]));
}

#[tokio::test]
async fn a_data_folder_has_one_stream_at_a_time() {
    let place = Place::new();
    let (stream, _) = place.open(LAZY);
    let refusal = place.try_open(LAZY).unwrap_err();
    assert_eq!(refusal.kind(), Kind::Conflict);
    assert!(refusal.to_string().contains(&*place.0.path().to_string_lossy()), "{refusal}");

    drop(stream);
    place.open(LAZY);
}
