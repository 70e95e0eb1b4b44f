//! File steps that are still there after a power cut: what was written is synced, and so is the folder that names it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use lakehouse::Error;

/// Syncs a folder: the names in it are then kept.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Makes the folder `root`, and those above it, and syncs each.
pub(super) fn ensure_root(root: &Path) -> io::Result<()> {
    fs::create_dir_all(root)?;
    for above in root.canonicalize()?.ancestors().skip(1) {
        // One that can't be synced by this process was not made by it.
        let _ = sync_folder(above);
    }
    Ok(())
}

/// Makes the folder `below` under `root`, and syncs each folder on the way, whether or not it was there: an earlier
/// process may have made it and died before it was synced.
pub(super) fn ensure_folder(root: &Path, below: &Path) -> io::Result<PathBuf> {
    let mut folder = root.to_path_buf();
    for part in below.components() {
        let parent = folder.clone();
        folder.push(part);
        match fs::create_dir(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(ErrorKind::NotADirectory.into()),
            Err(error) => return Err(error),
        }
        sync_folder(&parent)?;
    }
    Ok(folder)
}

/// Puts a file in place as a whole: under its name there is either its full content, or what was there before.
pub(super) fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = draft_of(path);
    let written = (|| {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    })();
    if written.is_err() {
        // On a full disk the draft is in the way of others; if it can't go, the next attempt overwrites it.
        let _ = fs::remove_file(&draft);
    }
    written?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// What a half-made file is called until it is put in place.
pub(super) fn draft_of(path: &Path) -> PathBuf {
    path.with_extension("draft")
}

/// Removes a file for good. One that is not there is removed already.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    path.parent().map_or(Ok(()), sync_folder)
}

/// `Unavailable`, naming what was tried, where, why it failed and what to do.
pub(super) fn disk_error(tried: &str, path: &Path, error: io::Error) -> Error {
    let cause = error.kind();
    let cure = match cause {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space on its disk, then try again",
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => "make the folder writable for this process",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => "move away what lies in its place",
        ErrorKind::NotFound => "put the data folder back, or restart the server",
        _ => "check its disk",
    };
    Error::unavailable(format!("can't {tried} {}: {cause}; {cure}", path.display())).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_error_names_the_place_the_cause_and_the_cure() {
        let error = disk_error("write", Path::new("data/journal/t"), ErrorKind::StorageFull.into());
        assert_eq!(
            error.to_string(),
            "can't write data/journal/t: no storage space; free some space on its disk, then try again"
        );
    }

    #[test]
    fn a_file_that_can_not_be_put_in_place_leaves_no_draft() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("x"), "in the way").unwrap();

        replace_file(&path, b"content").unwrap_err();
        assert!(!draft_of(&path).exists());

        fs::remove_dir_all(&path).unwrap();
        replace_file(&path, b"content").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"content");
    }

    #[test]
    fn a_file_in_the_place_of_a_folder_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("bronze"), "a file").unwrap();
        let error = ensure_folder(root.path(), Path::new("bronze/t")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotADirectory);
    }
}
