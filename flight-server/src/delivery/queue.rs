//! Which bronze objects wait to be merged: what an SQS FIFO queue with a group for each table is on AWS.
//!
//! Each waiting object has an entry on disk, `<data>/queue/<table>/<number>`, so that a restart forgets none:
//!
//! ```json
//! {"object": "bronze/flights/2026/01/31/08/flights-1-…", "bytes": 8388608, "delivered_at_us": 1769846400000000}
//! ```
//!
//! Numbers ascend in the order of delivery, also over restarts. An entry is written before its object is put in place,
//! so there is no moment at which an object lies in bronze unannounced. An entry without an object is therefore a
//! delivery that did not happen: it is dropped on opening, since its journal is still there and is delivered anew. An
//! entry whose work was done, but that was not removed before a crash, is pending again: at least once.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fs, io};

use lakehouse::{Context, Error, Kind, Name, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::durable::{disk_error, ensure_folder, remove_file, replace_file};

/// A bronze object that waits to be merged into its silver table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedObject {
    /// The table whose frames it holds.
    pub table: Name,
    /// Ascends in the order of delivery, also over restarts.
    pub id: u64,
    /// Where it lies, relative to the data folder: `bronze/<table>/…`.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// When it was put in place, in microseconds since the Unix epoch.
    pub delivered_at_us: i64,
}

/// What an entry's file holds.
#[derive(Serialize, Deserialize)]
struct Entry {
    object: String,
    bytes: u64,
    delivered_at_us: i64,
}

/// The objects that wait, table by table, oldest first.
#[derive(Debug)]
pub struct LocalQueue {
    folder: PathBuf,
    waiting: Mutex<HashMap<Name, BTreeMap<u64, QueuedObject>>>,
    announced: watch::Sender<u64>,
}

impl LocalQueue {
    /// Reads the entries that an earlier process left below `data`.
    pub(super) fn open(data: &Path, tables: &[Name]) -> Result<Self> {
        let folder = data.join("queue");
        let queue = Self { folder, waiting: Mutex::default(), announced: watch::Sender::new(0) };
        for table in tables {
            queue.add(data, table)?;
        }
        Ok(queue)
    }

    /// Reads the entries of a table that an earlier process left below `data`.
    pub(super) fn add(&self, data: &Path, table: &Name) -> Result<()> {
        let below = Path::new("queue").join(table.as_str());
        let entries =
            ensure_folder(data, &below).map_err(|error| disk_error("open the queue", &data.join(&below), error))?;
        let entries = read_entries(data, &entries, table)?;
        self.lock().insert(table.clone(), entries);
        Ok(())
    }

    /// The objects of a table that wait, oldest first. A table that is not carried has none.
    pub fn pending(&self, table: &Name) -> Vec<QueuedObject> {
        self.lock().get(table).map(|objects| objects.values().cloned().collect()).unwrap_or_default()
    }

    /// Takes an object off the queue, once what it holds is in silver. Doing so twice is fine.
    ///
    /// # Errors
    /// `Unavailable` if the entry can't be removed; the object then stays pending.
    pub async fn done(&self, object: &QueuedObject) -> Result<()> {
        let entry = self.entry_path(&object.table, object.id);
        let path = entry.clone();
        tokio::task::spawn_blocking(move || remove_file(&path))
            .await
            .context(Kind::Internal, || format!("removing the queue entry {} was stopped", entry.display()))?
            .map_err(|error| disk_error("remove the queue entry", &entry, error))?;
        if let Some(objects) = self.lock().get_mut(&object.table) {
            objects.remove(&object.id);
        }
        Ok(())
    }

    /// Wakes whenever an object of any table was added; the value counts them. Look at [`pending`](Self::pending)
    /// before the first wait: what was there already wakes nobody.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.announced.subscribe()
    }

    /// Writes the entry of an object that is about to be put in place. An entry of the same number is replaced: it
    /// belongs to an attempt that failed.
    pub(super) fn write_entry(&self, object: &QueuedObject) -> Result<()> {
        let path = self.entry_path(&object.table, object.id);
        let entry = Entry { object: object.key.clone(), bytes: object.bytes, delivered_at_us: object.delivered_at_us };
        serde_json::to_vec(&entry)
            .map_err(io::Error::from)
            .and_then(|json| replace_file(&path, &json))
            .map_err(|error| disk_error("write the queue entry", &path, error))
    }

    /// Shows an object to those who wait, once it is in place.
    pub(super) fn announce(&self, object: QueuedObject) {
        self.lock().entry(object.table.clone()).or_default().insert(object.id, object);
        self.announced.send_modify(|count| *count += 1);
    }

    /// The highest number in use for a table, or 0.
    pub(super) fn last_id(&self, table: &Name) -> u64 {
        self.lock().get(table).and_then(|objects| objects.keys().next_back().copied()).unwrap_or_default()
    }

    fn entry_path(&self, table: &Name, id: u64) -> PathBuf {
        self.folder.join(table.as_str()).join(format!("{id:020}"))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, BTreeMap<u64, QueuedObject>>> {
        // No code panics while it holds the lock, and each change is a single insert or remove.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a table's entries, and clears away those that announce nothing.
fn read_entries(data: &Path, folder: &Path, table: &Name) -> Result<BTreeMap<u64, QueuedObject>> {
    let unreadable = |error| disk_error("read the queue", folder, error);
    let mut objects = BTreeMap::new();
    for file in fs::read_dir(folder).map_err(unreadable)? {
        let path = file.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "draft") {
            remove_file(&path).map_err(unreadable)?;
            continue;
        }
        let Some(id) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()) else {
            tracing::warn!("{} is no queue entry; it is left alone", path.display());
            continue;
        };
        let entry = read_entry(&path, table)?;
        if data.join(&entry.object).is_file() {
            let Entry { object: key, bytes, delivered_at_us } = entry;
            objects.insert(id, QueuedObject { table: table.clone(), id, key, bytes, delivered_at_us });
        } else {
            tracing::info!("dropped the queue entry {}: its object {} does not exist", path.display(), entry.object);
            remove_file(&path).map_err(unreadable)?;
        }
    }
    Ok(objects)
}

/// Reads one entry. Entries are put in place whole, so one that can't be read was damaged later; to pass over it would
/// leave its rows out of silver without a word.
fn read_entry(path: &Path, table: &Name) -> Result<Entry> {
    let json = fs::read(path).map_err(|error| disk_error("read the queue entry", path, error))?;
    serde_json::from_slice(&json).map_err(|error| {
        Error::invalid(format!(
            "the queue entry {} is damaged; write the name of its object into it again \
             ({{\"object\": \"bronze/{table}/…\", \"bytes\": …, \"delivered_at_us\": …}}), \
             or remove it if all objects of table {table} are merged",
            path.display()
        ))
        .because(error)
    })
}
