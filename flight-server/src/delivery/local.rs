//! The delivery stream of a single machine: journal files that become bronze objects.
//!
//! Each table has a writer, a thread that owns the table's files. A put hands its records to the writer and waits until
//! they are synced; puts that arrive during a sync share the next one (group commit). When a journal is large or old
//! enough it is renamed to its place in bronze: frames lie end to end in both, so nothing is copied.
//!
//! ```text
//!  put ─┐                       append, fdatasync                  rename
//!  put ─┼─► writer of a table ──────────────────► journal/<t>/<n>.open ──► bronze/<t>/YYYY/MM/DD/HH/<t>-1-…-<uuid>
//!  put ─┘        │                                                      ▲
//!                └── write entry ──► queue/<t>/<n> ─────────────────────┘ first the entry, then the rename
//! ```
//!
//! The number `<n>` of a journal is also that of its queue entry, and it ascends for ever: it is the time in
//! microseconds at which the journal was begun, or one more than the last.
//!
//! # What a crash leaves, and what the next start makes of it
//!
//! | the process dies | on disk | acked | at the next start |
//! | --- | --- | --- | --- |
//! | after it made a journal | an empty journal | no | removed |
//! | while it appends | whole frames, then perhaps a part of one | no | the part is cut off, whole frames are delivered |
//! | after the sync, before the answer | whole frames | no | delivered; the producer sends again, silver takes each frame once |
//! | while it makes bronze's folders | journal, empty folders | yes | delivered |
//! | while it writes the entry | journal, a draft of the entry | yes | draft removed, delivered |
//! | between entry and rename | journal, entry without object | yes | entry dropped, delivered under a new name |
//! | after the rename | entry, object | yes | pending |
//! | after the work, before the entry is removed | entry, object | yes | pending again; the merge knows its frames |
//! | while it recovers | one of the above | | the same again: each step can be repeated |
//!
//! A power cut may also undo steps that were not synced. The folders of journal and entry are synced before anything is
//! acked or renamed, and those of the rename before the object is announced. If a page of the journal is lost, it lies
//! behind all that was acked. Only a frame that the end of the file cuts short is cut off, since that alone can't have
//! been acked. Any other damage goes to bronze as it is, where the merge puts it in quarantine and counts it.
//!
//! # What a full disk or a lost folder does
//!
//! A put that can't be appended or synced is refused, and the journal is cut back to what was kept, at once or before
//! its next use, so a later put finds a sound journal. A journal that can't become an object stays, is tried again every
//! [`ROLL_RETRY`], and takes more records until it has [`JOURNAL_BYTES_MAX`].

mod journal;
mod recovery;
mod roller;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lakehouse::{Clock, Context, Error, Kind, Name, Result};
use tokio::sync::{Mutex, Semaphore, oneshot};

use super::durable::{disk_error, ensure_folder, ensure_root};
use super::lock::FolderLock;
use super::queue::LocalQueue;
use super::{CALL_BYTES_MAX, DeliveryStream, check_call};
use journal::{Disk, Machine};
use roller::Roller;
use writer::{Order, Put, Writer};

/// The most bytes that wait for one table's writer. More puts wait for room.
pub const WAITING_BYTES_MAX: usize = 4 * CALL_BYTES_MAX;

/// The most bytes of a journal that can't be delivered: Firehose's largest buffer, 128 MiB
/// (<https://docs.aws.amazon.com/firehose/latest/dev/limits.html>). A put beyond it is refused.
pub const JOURNAL_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// How long a put waits at most, for room and for the disk together.
pub const PUT_WAIT_MAX: Duration = Duration::from_secs(60);

/// How long a close waits at most for the last deliveries.
pub const CLOSE_WAIT_MAX: Duration = Duration::from_secs(60);

/// How long after a failed delivery of a journal it is tried again.
pub const ROLL_RETRY: Duration = Duration::from_secs(1);

/// When a journal becomes a bronze object: at whichever comes first. Firehose calls these its buffering hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalDeliveryOptions {
    /// From this many bytes on.
    pub roll_bytes: u64,
    /// This long after its first record.
    pub roll_age: Duration,
}

impl Default for LocalDeliveryOptions {
    /// 8 MiB or 500 ms: fresh on a laptop, and still few objects under load.
    fn default() -> Self {
        Self { roll_bytes: 8 * 1024 * 1024, roll_age: Duration::from_millis(500) }
    }
}

/// What a stream did for one table since it was opened. What an earlier process left behind is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryStats {
    /// Records that were acked.
    pub records_accepted: u64,
    /// Their bytes.
    pub bytes_accepted: u64,
    /// Objects that were put in place in bronze.
    pub objects_delivered: u64,
    /// Their bytes.
    pub bytes_delivered: u64,
}

/// [`DeliveryStats`] while they change.
#[derive(Debug, Default)]
struct Counters {
    records_accepted: AtomicU64,
    bytes_accepted: AtomicU64,
    objects_delivered: AtomicU64,
    bytes_delivered: AtomicU64,
}

/// The way to one table's writer.
#[derive(Debug)]
struct Door {
    orders: mpsc::Sender<Order>,
    /// Bytes of room before the writer; closed when the stream is.
    room: Arc<Semaphore>,
    counters: Arc<Counters>,
}

/// The embedded delivery stream over a data folder. See the module's documentation.
///
/// Dropping it without [`close`](DeliveryStream::close) waits for the writers but delivers nothing more: what was
/// accepted stays in the journals, and the next start delivers it.
#[derive(Debug)]
pub struct LocalDelivery {
    doors: RwLock<BTreeMap<Name, Arc<Door>>>,
    opener: Opener,
    /// Empty once the stream is closed.
    writers: Mutex<Vec<JoinHandle<()>>>,
    /// Each writer holds it too.
    lock: Arc<FolderLock>,
}

impl LocalDelivery {
    /// Opens `data`, which is made if it is missing, and delivers what an earlier process had accepted. This is file
    /// work: call it where waiting is fine.
    ///
    /// # Errors
    /// `Conflict` if another process uses the folder, `Unavailable` if it can't be read or written, `Invalid` if what
    /// lies in it is damaged.
    pub fn open(
        data: &Path,
        tables: impl IntoIterator<Item = Name>,
        options: LocalDeliveryOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Arc<LocalQueue>)> {
        Self::open_on(Arc::new(Machine), data, tables, options, clock)
    }

    fn open_on(
        disk: Arc<dyn Disk>,
        data: &Path,
        tables: impl IntoIterator<Item = Name>,
        options: LocalDeliveryOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Arc<LocalQueue>)> {
        ensure_root(data).map_err(|error| disk_error("make the data folder", data, error))?;
        let lock = Arc::new(FolderLock::take(data)?);
        let tables: Vec<Name> = tables.into_iter().collect();
        let queue = Arc::new(LocalQueue::open(data, &tables)?);
        recovery::warn_of_strangers(data, &tables);

        let opener = Opener { data: data.to_owned(), disk, queue: Arc::clone(&queue), options, clock };
        let mut stream = Self { doors: RwLock::default(), opener, writers: Mutex::new(Vec::new()), lock };
        for table in tables {
            let (door, thread) = stream.opener.open(&table, Arc::clone(&stream.lock))?;
            stream.writers.get_mut().push(thread);
            stream.doors.get_mut().unwrap_or_else(PoisonError::into_inner).insert(table, door);
        }
        Ok((stream, queue))
    }

    /// Carries one more table from now on. This is file work: call it where waiting is fine.
    ///
    /// # Errors
    /// As [`LocalDelivery::open`], and `Unavailable` if the stream is closed.
    pub fn carry(&self, table: &Name) -> Result<()> {
        // Held all along: two callers must not open the same journal, nor one behind a close.
        let mut writers = self.writers.blocking_lock();
        if self.known(table).is_some() {
            return Ok(());
        }
        if self.is_closed() {
            return Err(closed());
        }
        self.opener.queue.add(&self.opener.data, table)?;
        let (door, thread) = self.opener.open(table, Arc::clone(&self.lock))?;
        writers.push(thread);
        self.doors.write().unwrap_or_else(PoisonError::into_inner).insert(table.clone(), door);
        Ok(())
    }

    /// Whether it carries a table.
    pub fn carries(&self, table: &Name) -> bool {
        self.known(table).is_some()
    }

    fn is_closed(&self) -> bool {
        self.all_doors().iter().any(|(_, door)| door.room.is_closed())
    }

    fn known(&self, table: &Name) -> Option<Arc<Door>> {
        self.doors.read().unwrap_or_else(PoisonError::into_inner).get(table).cloned()
    }

    fn all_doors(&self) -> Vec<(Name, Arc<Door>)> {
        let doors = self.doors.read().unwrap_or_else(PoisonError::into_inner);
        doors.iter().map(|(table, door)| (table.clone(), Arc::clone(door))).collect()
    }

    /// What was accepted and delivered so far, table by table.
    pub fn stats(&self) -> BTreeMap<Name, DeliveryStats> {
        self.all_doors().into_iter().map(|(table, door)| (table, door.counters.read())).collect()
    }

    /// Refuses new puts, and tells each writer that is still there to deliver and end.
    fn order_close(&self) -> Vec<oneshot::Receiver<Result<()>>> {
        let order = |(_, door): (Name, Arc<Door>)| {
            door.room.close();
            let (reply, answer) = oneshot::channel();
            door.orders.send(Order::Close(reply)).ok().map(|()| answer)
        };
        self.all_doors().into_iter().filter_map(order).collect()
    }

    fn door(&self, table: &Name) -> Result<Arc<Door>> {
        self.known(table).ok_or_else(|| {
            let known: Vec<String> = self.all_doors().into_iter().map(|(name, _)| name.to_string()).collect();
            Error::not_found(format!("the delivery stream carries no table {table}, only: {}", known.join(", ")))
        })
    }
}

#[async_trait]
impl DeliveryStream for LocalDelivery {
    async fn put(&self, table: &Name, records: Vec<Bytes>) -> Result<()> {
        let door = self.door(table)?;
        let bytes = check_call(&records)?;
        tokio::time::timeout(PUT_WAIT_MAX, door.put(records, bytes)).await.map_err(|_| {
            Error::unavailable(format!(
                "the journal of table {table} did not take {bytes} bytes within {} s; they may have been kept: \
                 send them again",
                PUT_WAIT_MAX.as_secs()
            ))
        })?
    }

    async fn close(&self) -> Result<()> {
        // Whoever closes at the same time waits here until it is done.
        let mut writers = self.writers.lock().await;
        let answers = self.order_close();
        // A disk that hangs must not keep the process: then the writers are left to themselves, with the lock.
        let writers = std::mem::take(&mut *writers);
        let delivered = tokio::time::timeout(CLOSE_WAIT_MAX, all(answers)).await.map_err(|_| {
            Error::unavailable(format!(
                "the journals were not delivered within {} s; they are kept, and delivered at the next start",
                CLOSE_WAIT_MAX.as_secs()
            ))
        })?;
        let joined = tokio::task::spawn_blocking(move || join(writers))
            .await
            .context(Kind::Internal, || "waiting for the journal writers was stopped".to_owned())?;
        delivered.and(joined)
    }
}

impl Drop for LocalDelivery {
    fn drop(&mut self) {
        // Without their doors the writers end.
        self.doors.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        if let Err(error) = join(std::mem::take(self.writers.get_mut())) {
            tracing::error!("{error}");
        }
    }
}

/// Opens the journals of tables.
struct Opener {
    data: PathBuf,
    disk: Arc<dyn Disk>,
    queue: Arc<LocalQueue>,
    options: LocalDeliveryOptions,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("data", &self.data).finish_non_exhaustive()
    }
}

impl Opener {
    /// Delivers what an earlier process left of a table, and starts its writer, which holds the folder's lock.
    fn open(&self, table: &Name, lock: Arc<FolderLock>) -> Result<(Arc<Door>, JoinHandle<()>)> {
        let below = Path::new("journal").join(table.as_str());
        let journals = ensure_folder(&self.data, &below)
            .map_err(|error| disk_error("open the journal", &self.data.join(&below), error))?;
        let roller = Roller::new(&self.data, table.clone(), Arc::clone(&self.queue), Arc::clone(&self.clock));
        let last_number = recovery::deliver_leftovers(&journals, &roller)?.max(self.queue.last_id(table));
        let counters = Arc::new(Counters::default());
        let writer =
            Writer::new(roller, journals, self.options, Arc::clone(&self.disk), Arc::clone(&counters), last_number);
        let (orders, inbox) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name(format!("journal-{table}"))
            .spawn(move || {
                writer.run(&inbox);
                drop(lock);
            })
            .context(Kind::Unavailable, || format!("can't start the journal writer of table {table}"))?;
        Ok((Arc::new(Door { orders, room: Arc::new(Semaphore::new(WAITING_BYTES_MAX)), counters }), thread))
    }
}

impl Door {
    async fn put(&self, records: Vec<Bytes>, bytes: usize) -> Result<()> {
        if records.is_empty() && !self.room.is_closed() {
            return Ok(());
        }
        // A call is far smaller than all the room, so it fits a u32 and can be had.
        let wanted = u32::try_from(bytes).unwrap_or(u32::MAX);
        let room = self.room.clone().acquire_many_owned(wanted).await.map_err(|_| closed())?;
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Put(Put { records, bytes: bytes as u64, room, reply })).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

impl Counters {
    fn accepted(&self, records: usize, bytes: u64) {
        self.records_accepted.fetch_add(records as u64, Ordering::Relaxed);
        self.bytes_accepted.fetch_add(bytes, Ordering::Relaxed);
    }

    fn delivered(&self, bytes: u64) {
        self.objects_delivered.fetch_add(1, Ordering::Release);
        self.bytes_delivered.fetch_add(bytes, Ordering::Release);
    }

    fn read(&self) -> DeliveryStats {
        // What is delivered was accepted, so it is read first: never is more delivered than accepted.
        let bytes_delivered = self.bytes_delivered.load(Ordering::Acquire);
        let objects_delivered = self.objects_delivered.load(Ordering::Acquire);
        DeliveryStats {
            records_accepted: self.records_accepted.load(Ordering::Acquire),
            bytes_accepted: self.bytes_accepted.load(Ordering::Acquire),
            objects_delivered,
            bytes_delivered,
        }
    }
}

fn closed() -> Error {
    Error::unavailable("the delivery stream is closed; send again when the server is back")
}

/// The first failure among the writers' answers, once all are there.
async fn all(answers: Vec<oneshot::Receiver<Result<()>>>) -> Result<()> {
    let mut outcome = Ok(());
    for answer in answers {
        // A writer that ended without an answer panicked, which shows when it is joined.
        outcome = outcome.and(answer.await.unwrap_or(Ok(())));
    }
    outcome
}

/// Waits until all writers have ended.
fn join(writers: Vec<JoinHandle<()>>) -> Result<()> {
    let panics = writers.into_iter().map(JoinHandle::join).filter(std::thread::Result::is_err).count();
    if panics == 0 {
        return Ok(());
    }
    Err(Error::internal(format!(
        "{panics} journal writers panicked; what they had accepted is kept, and delivered at the next start"
    )))
}
