//! Deletes files that no version has which may still be read.
//!
//! A file is needed by the newest version, by one of the versions that were the newest within the retention, or by a
//! commit that is under way. Two versions tell all of the first two kinds:
//!
//! ```text
//!  ───── retention begins ─────────────────────────────► now
//!    │      └ version 7 is the newest                      └ version 12 is the newest
//!    └ what was written before, by a margin, and is
//!      neither in version 7 nor in version 12, goes
//! ```
//!
//! What versions 8 to 11 have was in version 7, or came with a commit after it, and then it was written after the margin
//! began: no commit takes as long. Deletion vectors are files like others; delta-rs's own vacuum takes those away which
//! versions within the retention need, and data files that left the table more than once, so it is not used.

use std::collections::HashSet;
use std::time::Duration;

use deltalake::logstore::object_store::{ObjectMeta, ObjectStore as _};
use deltalake::{DeltaTable, Path};
use futures::TryStreamExt as _;
use lakehouse::delta::{self, vectors};
use lakehouse::{Context as _, Kind, Result};

use crate::job::{CLOCKS_APART_MAX, Job};
use crate::log::Log;
use crate::removal::remove;
use crate::tally::Tally;

/// The longest that a commit may take, from its first file on.
const COMMIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Files that go in one run; the next one takes more.
const FILES_MAX: usize = 100_000;

/// Deletes what is not needed any more.
pub(crate) async fn vacuum(job: &Job<'_>) -> Result<Tally> {
    let kept_for = job.policy.maintenance.vacuum_after.saturating_add(CLOCKS_APART_MAX);
    let table = job.open().await?;
    let Some(oldest) = oldest_kept(job, &table, job.before_us(kept_for)).await? else { return Ok(Tally::default()) };
    let mut needed = names(&table)?;
    needed.extend(names(&oldest)?);
    let before_ms = job.before_us(kept_for.saturating_add(COMMIT_MAX)) / 1_000;

    let unreadable = || format!("can't list the files of {}.{}", job.layer, job.name);
    let store = table.object_store();
    let (mut tally, mut unneeded) = (Tally::default(), Vec::new());
    let mut listed = store.list(None);
    while let Some(object) = listed.try_next().await.context(Kind::Unavailable, unreadable)? {
        if !is_data(&object.location) {
            continue;
        }
        tally.files_before += 1;
        tally.bytes_before += object.size;
        if unneeded.len() < FILES_MAX && is_unneeded(&object, &needed, before_ms) {
            unneeded.push((object.location, object.size));
        }
    }
    (tally.files_after, tally.bytes_after) = (tally.files_before, tally.bytes_before);
    tally.version = Some(delta::version(&table));
    remove(job, store.as_ref(), unneeded, &mut tally).await?;
    Ok(tally)
}

/// The version that was the newest at `from_us`, or the first that there is; `None` if there is no telling.
async fn oldest_kept(job: &Job<'_>, table: &DeltaTable, from_us: i64) -> Result<Option<DeltaTable>> {
    match job.lake.open_at(job.layer, job.name, from_us).await {
        Ok(oldest) => return Ok(Some(oldest)),
        Err(error) if error.kind() == Kind::NotFound => {}
        Err(error) => return Err(error),
    }
    let Some(earliest) = Log::list(table).await?.earliest() else { return Ok(None) };
    Ok(Some(job.lake.open_version(job.layer, job.name, earliest).await?))
}

/// The names of all files that a version has. They are unique, so that the folders need not be compared, which writers
/// spell in several ways.
fn names(table: &DeltaTable) -> Result<HashSet<String>> {
    let mut names = HashSet::new();
    for file in delta::data_files(table)? {
        names.extend(file.path().filename().map(str::to_owned));
        if let Some(vector) = file.vector()
            && let Some(path) = vectors::path_of(&vector)?
        {
            names.extend(path.filename().map(str::to_owned));
        }
    }
    Ok(names)
}

/// Whether a file is a data file or a deletion vector, by its name. What lies in hidden folders is not ours.
fn is_data(path: &Path) -> bool {
    let is_hidden = path.parts().any(|part| part.as_ref().starts_with(['_', '.']));
    let name = path.filename().unwrap_or_default();
    let is_vector = name.starts_with("deletion_vector_") && name.ends_with(".bin");
    !is_hidden && (is_vector || name.ends_with(".parquet"))
}

fn is_unneeded(object: &ObjectMeta, needed: &HashSet<String>, before_ms: i64) -> bool {
    let is_old = object.last_modified.timestamp_millis() < before_ms;
    is_old && object.location.filename().is_some_and(|name| !needed.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_data_files_and_vectors_are_looked_at() {
        let is_data = |path: &str| is_data(&Path::parse(path).unwrap());
        assert!(is_data("part-00000-1.zstd.parquet"));
        assert!(is_data("day=2026-01-01/part-00000-1.parquet"));
        assert!(is_data("ab/deletion_vector_1.bin"));
        for other in
            ["_delta_log/00000000000000000001.checkpoint.parquet", "_change_data/a.parquet", "notes.txt", ".a.parquet"]
        {
            assert!(!is_data(other), "{other}");
        }
    }
}
