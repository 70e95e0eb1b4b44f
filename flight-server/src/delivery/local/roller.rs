//! Turns a journal into a bronze object, in steps that can each be the last one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use lakehouse::{Clock, Name, Result};
use uuid::{NoContext, Timestamp, Uuid};

use crate::delivery::durable::{disk_error, ensure_folder, sync_folder};
use crate::delivery::queue::{LocalQueue, QueuedObject};

/// Delivers the journals of one table.
#[derive(Clone)]
pub(super) struct Roller {
    data: PathBuf,
    table: Name,
    queue: Arc<LocalQueue>,
    clock: Arc<dyn Clock>,
}

impl Roller {
    pub(super) fn new(data: &Path, table: Name, queue: Arc<LocalQueue>, clock: Arc<dyn Clock>) -> Self {
        Self { data: data.to_path_buf(), table, queue, clock }
    }

    pub(super) fn table(&self) -> &Name {
        &self.table
    }

    /// A number for the next journal.
    pub(super) fn number_after(&self, last: u64) -> u64 {
        u64::try_from(self.clock.now_us()).unwrap_or_default().max(last + 1)
    }

    /// Puts a synced journal of `bytes` in its place in bronze and announces it.
    ///
    /// # Errors
    /// `Unavailable` if the journal is still where it was; the call can be repeated.
    pub(super) fn roll(&self, journal: &Path, number: u64, bytes: u64) -> Result<()> {
        let now_us = self.clock.now_us();
        let begun = i64::try_from(number).ok().and_then(DateTime::from_timestamp_micros).unwrap_or_default();
        let hour = format!("bronze/{}/{}", self.table, begun.format("%Y/%m/%d/%H"));
        let key = format!("{hour}/{}", self.object_name(begun, now_us));
        let object = QueuedObject { table: self.table.clone(), id: number, key, bytes, delivered_at_us: now_us };

        let folder = ensure_folder(&self.data, Path::new(&hour))
            .map_err(|error| disk_error("make the bronze folder", &self.data.join(&hour), error))?;
        self.queue.write_entry(&object)?;
        let place = self.data.join(&object.key);
        fs::rename(journal, &place).map_err(|error| disk_error("put the journal in its place,", &place, error))?;

        // From here on the object is in place. If the rename can't be synced a power cut may undo it; then the journal
        // is back, and is delivered once more.
        let synced = journal.parent().map_or(Ok(()), sync_folder).and_then(|()| sync_folder(&folder));
        if let Err(error) = synced {
            tracing::warn!("{}", disk_error("sync the folders of", &place, error).chain());
        }
        self.queue.announce(object);
        Ok(())
    }

    /// As Firehose names objects: stream, version, time, and something unique.
    fn object_name(&self, begun: DateTime<Utc>, now_us: i64) -> String {
        let now_us = u64::try_from(now_us).unwrap_or_default();
        let nanos = u32::try_from(now_us % 1_000_000 * 1_000).unwrap_or_default();
        let unique = Uuid::new_v7(Timestamp::from_unix(NoContext, now_us / 1_000_000, nanos));
        format!("{}-1-{}-{unique}", self.table, begun.format("%Y-%m-%d-%H-%M-%S"))
    }
}
