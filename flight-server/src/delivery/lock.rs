//! One process per data folder: two writers would roll each other's journals.
//!
//! The lock is the operating system's advisory lock on `<data>/lock`. It goes with the process, however that ends, so no
//! stale lock can keep a restart out. The file stays and means nothing by itself.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use lakehouse::{Error, Kind, Result};

use super::durable::disk_error;

/// Holds a data folder for this process, until it is dropped.
#[derive(Debug)]
pub(super) struct FolderLock {
    file: File,
}

impl FolderLock {
    /// Takes the folder, which must exist.
    ///
    /// # Errors
    /// `Conflict` if another process holds it, `Unavailable` if the lock file can't be made.
    pub(super) fn take(folder: &Path) -> Result<Self> {
        let path = folder.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| disk_error("open the lock file", &path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { file }),
            Err(TryLockError::WouldBlock) => Err(Error::new(
                Kind::Conflict,
                format!(
                    "another flight-server uses the data folder {}; stop it, or choose another folder",
                    folder.display()
                ),
            )),
            Err(TryLockError::Error(error)) => Err(disk_error("lock", &path, error)),
        }
    }
}

impl Drop for FolderLock {
    /// Closing the file is not enough: a child process that is just being started has it open for a moment too.
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            tracing::warn!("the lock on a data folder lasts until this process ends: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_held_by_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let held = FolderLock::take(folder.path()).unwrap();

        let refusal = FolderLock::take(folder.path()).unwrap_err();
        assert_eq!(refusal.kind(), Kind::Conflict);
        assert_eq!(
            refusal.to_string(),
            format!(
                "another flight-server uses the data folder {}; stop it, or choose another folder",
                folder.path().display()
            )
        );

        drop(held);
        FolderLock::take(folder.path()).unwrap();
    }

    #[test]
    fn a_folder_is_free_at_once_even_if_a_child_process_still_has_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let held = FolderLock::take(folder.path()).unwrap();
        let of_child = held.file.try_clone().unwrap();
        drop(held);
        FolderLock::take(folder.path()).unwrap();
        drop(of_child);
    }
}
