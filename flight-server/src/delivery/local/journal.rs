//! One journal file: it is only ever appended to, and knows how much of it is kept.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::delivery::durable::sync_folder;

/// The ending of a journal's name. Its stem is the journal's number.
pub(super) const ENDING: &str = "open";

/// The two steps in which a full disk shows, so that tests can have one.
pub(super) trait Disk: Debug + Send + Sync + 'static {
    /// Appends all of `bytes`, or fails and may have appended some.
    fn append(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    /// Returns once all that was appended is kept.
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// The machine's disk.
#[derive(Debug)]
pub(super) struct Machine;

impl Disk for Machine {}

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    disk: Arc<dyn Disk>,
    file: File,
    path: PathBuf,
    number: u64,
    /// The bytes that are kept. What lies behind them in the file was never acked.
    kept: u64,
    /// When the first record was kept.
    since: Option<Instant>,
    /// Whether an append failed and was not cut off yet.
    is_torn: bool,
}

impl Journal {
    /// Begins journal `number` in `folder`, and keeps its name.
    pub(super) fn begin(disk: Arc<dyn Disk>, folder: &Path, number: u64) -> io::Result<Self> {
        let path = path_of(folder, number);
        let file = OpenOptions::new().create_new(true).append(true).open(&path)?;
        if let Err(error) = sync_folder(folder) {
            // Nothing is in it; if it can't go, the next start removes it.
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(Self { disk, file, path, number, kept: 0, since: None, is_torn: false })
    }

    /// Appends `records` in order and returns once all are kept. After an error none of them counts as kept.
    pub(super) fn append<'a>(&mut self, records: impl Iterator<Item = &'a Bytes>) -> io::Result<()> {
        self.mend()?;
        let mut bytes = 0;
        self.is_torn = true;
        let appended = (|| {
            for record in records {
                self.disk.append(&mut self.file, record)?;
                bytes += record.len() as u64;
            }
            self.disk.sync(&self.file)
        })();
        if let Err(error) = appended {
            // If this fails too it is tried again before the journal's next use.
            let _ = self.mend();
            return Err(error);
        }
        self.is_torn = false;
        self.kept += bytes;
        self.since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Cuts off what a failed append left. After a failed sync this also writes the last page that holds kept bytes
    /// anew, since the cut changes it.
    pub(super) fn mend(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.kept)?;
            self.file.sync_all()?;
            self.is_torn = false;
        }
        Ok(())
    }

    /// Whether someone else removed the file; what is appended then is kept nowhere.
    pub(super) fn is_removed(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.nlink() == 0)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn kept(&self) -> u64 {
        self.kept
    }

    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }
}

/// Where journal `number` lies.
pub(super) fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:020}.{ENDING}"))
}

/// The number of the journal at `path`, if it is one.
pub(super) fn number_of(path: &Path) -> Option<u64> {
    if path.extension()? != ENDING {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok()
}
