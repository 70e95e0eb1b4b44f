//! Delivers the journals that an earlier process left behind.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use lakehouse::{Name, Result};
use proto::frame::{Damage, FrameReader, Item};

use super::journal::number_of;
use super::roller::Roller;
use crate::delivery::durable::disk_error;

/// Fewer bytes than a frame's magic, so what begins a frame can't be told from other bytes yet.
const UNTOLD_BYTES_MAX: usize = 3;

/// Rolls every journal in `folder`, oldest first, and gives the highest number that was in use, or 0.
pub(super) fn deliver_leftovers(folder: &Path, roller: &Roller) -> Result<u64> {
    let mut journals = leftovers(folder).map_err(|error| disk_error("list the journals in", folder, error))?;
    journals.sort();
    for (number, path) in &journals {
        let kept = cut_torn_tail(path).map_err(|error| disk_error("recover the journal", path, error))?;
        if kept == 0 {
            fs::remove_file(path).map_err(|error| disk_error("remove the empty journal", path, error))?;
            continue;
        }
        roller.roll(path, *number, kept)?;
        tracing::info!("delivered {kept} bytes of table {} that an earlier process had accepted", roller.table());
    }
    Ok(journals.last().map_or(0, |(number, _)| *number))
}

fn leftovers(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut journals = Vec::new();
    for file in fs::read_dir(folder)? {
        let path = file?.path();
        match number_of(&path) {
            Some(number) => journals.push((number, path)),
            None => tracing::warn!("{} is no journal; it is left alone", path.display()),
        }
    }
    Ok(journals)
}

/// Cuts off a frame that the end of the journal cuts short, syncs the rest, and gives its length.
fn cut_torn_tail(path: &Path) -> io::Result<u64> {
    let content = Bytes::from(fs::read(path)?);
    let length = content.len();
    let kept = whole_len(content);
    let file = OpenOptions::new().write(true).open(path)?;
    if kept < length {
        tracing::info!("cut a torn frame of {} bytes, never acked, off {}", length - kept, path.display());
        file.set_len(kept as u64)?;
    }
    // What the dead process wrote may not be synced yet, and its folder's name for it neither; the roll syncs that.
    file.sync_all()?;
    Ok(kept as u64)
}

/// How much of a journal is left without a torn tail: without a frame that begins well and is cut short by the end. Any
/// other damage may have happened to what was acked, so it stays.
fn whole_len(journal: Bytes) -> usize {
    let length = journal.len();
    match FrameReader::new(journal).last() {
        Some(Item::Damaged { offset, reason: Damage::Truncated { .. }, .. }) => offset,
        Some(Item::Damaged { offset, len, reason: Damage::NoFrame }) if len <= UNTOLD_BYTES_MAX => offset,
        _ => length,
    }
}

/// Says which tables have journals or queue entries but are not carried any more. Nothing is done about them: they are
/// delivered when the table is declared again.
pub(super) fn warn_of_strangers(data: &Path, tables: &[Name]) {
    for kind in ["journal", "queue"] {
        let Ok(folders) = fs::read_dir(data.join(kind)) else { continue };
        for folder in folders.flatten().map(|entry| entry.path()) {
            let is_known = tables.iter().any(|table| folder.file_name() == Some(OsStr::new(table.as_str())));
            let is_empty = fs::read_dir(&folder).map_or(true, |mut files| files.next().is_none());
            if !is_known && !is_empty {
                tracing::warn!("{} waits for a table that is not declared; declare it again", folder.display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::contract::frame;

    fn joined(parts: &[&[u8]]) -> Bytes {
        Bytes::from(parts.concat())
    }

    #[test]
    fn a_tail_cut_at_any_byte_leaves_the_whole_frames_before_it() {
        let (first, second) = (frame("p", 0, 100), frame("p", 1, 100));
        for cut in 0..second.len() {
            let journal = joined(&[&first, &second[..cut]]);
            assert_eq!(whole_len(journal), first.len(), "cut at {cut}");
        }
        assert_eq!(whole_len(joined(&[&first, &second])), first.len() + second.len());
        assert_eq!(whole_len(Bytes::new()), 0);
    }

    #[test]
    fn damage_that_the_end_did_not_make_is_not_cut() {
        let (first, second) = (frame("p", 0, 100), frame("p", 1, 100));
        let mut rotten = second.to_vec();
        rotten[50] ^= 1;
        for journal in [
            joined(&[&first, &rotten]),
            joined(&[&rotten, &first]),
            joined(&[&first, &rotten, &second[..30]]),
            joined(&[&first, b"{\"a\":1}\n"]),
            joined(&[&first, &[0; 4096]]),
        ] {
            assert_eq!(whole_len(journal.clone()), journal.len());
        }
    }

    #[test]
    fn damage_inside_does_not_hide_a_torn_tail() {
        let (first, second) = (frame("p", 0, 100), frame("p", 1, 100));
        let journal = joined(&[b"rubbish", &first, &second[..60]]);
        assert_eq!(whole_len(journal), 7 + first.len());
    }
}
