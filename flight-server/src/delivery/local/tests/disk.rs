//! Full disks and lost folders.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::AtomicBool;

use super::*;

/// A disk on which room runs out, and whose syncs can fail.
#[derive(Debug)]
struct BadDisk {
    room: AtomicU64,
    fails_sync: AtomicBool,
}

impl BadDisk {
    fn with_room(bytes: usize) -> Arc<Self> {
        Arc::new(Self { room: AtomicU64::new(bytes as u64), fails_sync: AtomicBool::new(false) })
    }
}

impl Disk for BadDisk {
    /// Writes what fits, as a full disk does.
    fn append(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        let fits = self.room.load(Ordering::SeqCst).min(bytes.len() as u64);
        self.room.fetch_sub(fits, Ordering::SeqCst);
        file.write_all(&bytes[..fits as usize])?;
        if (fits as usize) < bytes.len() { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        if self.fails_sync.load(Ordering::SeqCst) { Err(ErrorKind::QuotaExceeded.into()) } else { file.sync_data() }
    }
}

/// A disk whose syncs take their time, and are counted.
#[derive(Debug, Default)]
struct SlowDisk(AtomicU64);

impl Disk for SlowDisk {
    fn sync(&self, file: &File) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(200));
        file.sync_data()
    }
}

fn open_on(place: &Place, disk: Arc<dyn Disk>) -> (LocalDelivery, Arc<LocalQueue>) {
    LocalDelivery::open_on(disk, place.0.path(), [table()], LAZY, Arc::new(SystemClock)).unwrap()
}

#[tokio::test]
async fn a_full_disk_refuses_puts_and_spoils_none() {
    let place = Place::new();
    let size = frame("p", 0, 100).len();
    let disk = BadDisk::with_room(2 * size + size / 2);
    let (stream, queue) = open_on(&place, disk.clone());
    put(&stream, [0]).await.unwrap();

    // One fits whole, the next by half: none of this put counts.
    let refusal = put(&stream, [1, 2]).await.unwrap_err();
    assert_eq!(refusal.kind(), Kind::Unavailable);
    assert_eq!(
        refusal.to_string(),
        format!(
            "can't write to the journal in {}: no storage space; free some space on its disk, then try again",
            place.path("journal/flights").display()
        )
    );
    assert_eq!(fs::metadata(place.journal()).unwrap().len() as usize, size);

    disk.room.store(u64::MAX, Ordering::SeqCst);
    put(&stream, [3]).await.unwrap();
    stream.close().await.unwrap();
    assert_eq!(place.frames(&queue.pending(&table())), of_p([0, 3]));
    assert_eq!(stream.stats()[&table()].records_accepted, 2);
}

#[tokio::test]
async fn records_whose_sync_failed_do_not_count() {
    let place = Place::new();
    let disk = BadDisk::with_room(1 << 20);
    let (stream, queue) = open_on(&place, disk.clone());
    disk.fails_sync.store(true, Ordering::SeqCst);
    assert_eq!(put(&stream, [0]).await.unwrap_err().kind(), Kind::Unavailable);
    disk.fails_sync.store(false, Ordering::SeqCst);
    put(&stream, [1]).await.unwrap();
    disk.fails_sync.store(true, Ordering::SeqCst);
    assert_eq!(put(&stream, [2]).await.unwrap_err().kind(), Kind::Unavailable);
    stream.close().await.unwrap();
    assert_eq!(place.frames(&queue.pending(&table())), of_p([1]));
}

#[tokio::test]
async fn puts_that_arrive_during_a_sync_share_the_next_one() {
    let place = Place::new();
    let disk = Arc::new(SlowDisk::default());
    let (stream, queue) = open_on(&place, disk.clone());
    for outcome in futures::future::join_all((0..50).map(|number| put(&stream, [number]))).await {
        outcome.unwrap();
    }
    // The first put may have been alone, and a few may have come late.
    assert!(disk.0.load(Ordering::SeqCst) <= 3);
    stream.close().await.unwrap();
    assert_eq!(place.frames(&queue.pending(&table())), of_p(0..50));
}

#[tokio::test]
async fn a_stream_that_only_ever_failed_leaves_nothing() {
    let place = Place::new();
    let (stream, queue) = open_on(&place, BadDisk::with_room(10));
    put(&stream, [0]).await.unwrap_err();
    stream.close().await.unwrap();
    assert!(queue.pending(&table()).is_empty());
    assert!(place.journals().is_empty());
}

#[tokio::test]
async fn a_journal_that_can_not_be_delivered_takes_more_and_is_tried_again() {
    let place = Place::new();
    fs::write(place.path("bronze"), "in the way").unwrap();
    let (stream, queue) = place.open(BRIEF);
    for number in 0..5 {
        put(&stream, [number]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(queue.pending(&table()).is_empty());

    let mut news = queue.subscribe();
    fs::remove_file(place.path("bronze")).unwrap();
    tokio::time::timeout(Duration::from_secs(10), news.changed()).await.unwrap().unwrap();
    assert_eq!(place.frames(&queue.pending(&table())), of_p(0..5));
}

#[tokio::test]
async fn a_journal_that_can_not_be_delivered_has_a_limit() {
    let place = Place::new();
    fs::write(place.path("bronze"), "in the way").unwrap();
    let (stream, _) = place.open(BRIEF);
    put(&stream, [0]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let call = || vec![frame("p", 1, 1_000_000); 4];
    let mut kept = 0;
    let refusal = loop {
        match stream.put(&table(), call()).await {
            Ok(()) => kept += 1,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(kept, JOURNAL_BYTES_MAX as usize / 4_000_000);
    assert_eq!(refusal.kind(), Kind::Unavailable);
    let text = refusal.to_string();
    assert!(text.contains("bytes that can't be delivered, and takes at most 134217728: can't make the bronze folder"));
    assert!(text.contains(": not a directory; move away what lies in its place"), "{text}");
}

#[tokio::test]
async fn a_close_that_can_not_deliver_says_so_and_the_next_start_does() {
    let place = Place::new();
    let (stream, _) = place.open(LAZY);
    put(&stream, [0]).await.unwrap();
    fs::write(place.path("bronze"), "in the way").unwrap();
    assert_eq!(stream.close().await.unwrap_err().kind(), Kind::Unavailable);
    drop(stream);
    assert_eq!(place.try_open(LAZY).unwrap_err().kind(), Kind::Unavailable);

    fs::remove_file(place.path("bronze")).unwrap();
    let (_stream, queue) = place.open(LAZY);
    assert_eq!(place.frames(&queue.pending(&table())), of_p([0]));
}

#[tokio::test]
async fn nothing_is_acked_into_a_removed_folder() {
    let place = Place::new();
    let (stream, queue) = place.open(LAZY);
    put(&stream, [0]).await.unwrap();
    fs::remove_dir_all(place.path("journal/flights")).unwrap();
    for number in 1..3 {
        let refusal = put(&stream, [number]).await.unwrap_err();
        assert_eq!(refusal.kind(), Kind::Unavailable, "{refusal}");
    }
    fs::create_dir(place.path("journal/flights")).unwrap();
    put(&stream, [3]).await.unwrap();
    stream.close().await.unwrap();
    assert_eq!(place.frames(&queue.pending(&table())), of_p([3]));
}
