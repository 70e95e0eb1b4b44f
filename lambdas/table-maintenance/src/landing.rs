//! Commits new files in the place of old ones, beside writers that know nothing of it.
//!
//! Writing files takes minutes, a commit a moment, and merges commit all the time. So files are written first, as if
//! there was nobody else, and then it is looked whether what they were made of is still there:
//!
//! ```text
//!  version 7 ── files A, B are read ─────── A+B is written ──────────────┐
//!  version 8 ── a merge adds C                                           ├─► newest is 9: A is still there, B has
//!  version 9 ── a merge marks rows of B as deleted                       │   another vector: A+B is left out
//!                                                                        └─► had B been as it was: A+B is committed
//!                                                                            as version 10, or never
//! ```
//!
//! Each commit is made on exactly the version that was looked at. If there is a newer one by then, all of it is looked at
//! again. delta-rs's own OPTIMIZE does not do so: it lets itself be rebased, and then does not see that another
//! compaction has moved the same files.

use std::collections::HashMap;

use deltalake::kernel::Add;
use deltalake::protocol::DeltaOperation;
use deltalake::{DeltaTable, Path};
use lakehouse::delta::{self, Changes, Commit, DataFile};
use lakehouse::{Error, Kind, Result};
use serde_json::Value;
use tracing::info;

use crate::job::Job;
use crate::rewriting::Rewritten;
use crate::tally::Tally;

/// How often a commit is tried: each time, somebody else was quicker.
const ATTEMPTS_MAX: u32 = 10;

/// What is committed.
pub(crate) struct Landing {
    operation: DeltaOperation,
    /// Whether the new files have other rows than the old ones.
    pub(crate) data_change: bool,
}

impl Landing {
    /// The same rows in files of about so many bytes.
    pub(crate) fn same_rows(target_bytes: u64) -> Self {
        let target_size = i64::try_from(target_bytes).unwrap_or(i64::MAX);
        Self { operation: DeltaOperation::Optimize { predicate: None, target_size }, data_change: false }
    }

    /// Without the rows of which `predicate` tells.
    pub(crate) fn fewer_rows(predicate: String) -> Self {
        Self { operation: DeltaOperation::Delete { predicate: Some(predicate) }, data_change: true }
    }
}

/// Commits what was `rewritten` of the files of `read`, those whose old files are as they were. The others are counted as
/// overtaken; the next run looks at their table as it is then.
///
/// # Errors
/// `Conflict` if others are quicker every time; `Unavailable` if the storage fails: then it may be committed all the same.
pub(crate) async fn land(
    job: &Job<'_>,
    read: &DeltaTable,
    mut rewritten: Vec<Rewritten>,
    landing: &Landing,
    tally: &mut Tally,
) -> Result<()> {
    let mut attempt = 0;
    while !rewritten.is_empty() {
        attempt += 1;
        let table = job.open().await?;
        let files: HashMap<Path, DataFile> =
            delta::data_files(&table)?.into_iter().map(|file| (file.path(), file)).collect();
        // A commit may be there though its storage said that it lost.
        let (landed, open): (Vec<_>, Vec<_>) = rewritten.into_iter().partition(|it| is_there(&it.added, &files));
        count(&landed, delta::version(&table), tally);
        let is_same = is_same_table(read, &table)?;
        let (current, overtaken): (Vec<_>, Vec<_>) = open
            .into_iter()
            .partition(|it| is_same && it.sources.iter().all(|source| is_as_it_was(&source.file, &files)));
        tally.overtaken += overtaken.len() as u64;
        if current.is_empty() {
            return Ok(());
        }
        match commit(table, &current, landing, job.now_us).await {
            Ok(table) => {
                count(&current, delta::version(&table), tally);
                return Ok(());
            }
            Err(error) if error.kind() == Kind::Conflict && attempt < ATTEMPTS_MAX => {
                info!(table = %job.name, attempt, "others were quicker; looking again");
                rewritten = current;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn commit(table: DeltaTable, current: &[Rewritten], landing: &Landing, now_us: i64) -> Result<DeltaTable> {
    let mut changes = Changes::default();
    for rewritten in current {
        for source in &rewritten.sources {
            changes.remove(&source.file, landing.data_change);
        }
        changes.add(rewritten.added.clone());
    }
    let commit = Commit { transactions: Vec::new(), story: Value::Null, at_us: now_us };
    changes.commit(table, landing.operation.clone(), &commit).await
}

/// Whether all new files are part of the table.
fn is_there(added: &[Add], files: &HashMap<Path, DataFile>) -> bool {
    !added.is_empty() && added.iter().all(|add| files.contains_key(&path_of(add)))
}

/// As the store has it: what is percent-encoded there stays so.
fn path_of(add: &Add) -> Path {
    Path::parse(&add.path).unwrap_or_else(|_| Path::from(add.path.as_str()))
}

/// Whether a file is part of the table, with the same rows deleted.
fn is_as_it_was(file: &DataFile, files: &HashMap<Path, DataFile>) -> bool {
    files.get(&file.path()).is_some_and(|now| now.vector() == file.vector())
}

/// Whether the rows that were read have the columns that the table has now.
fn is_same_table(read: &DeltaTable, now: &DeltaTable) -> Result<bool> {
    let partitions = |table: &DeltaTable| {
        let snapshot = table.snapshot().map_err(|error| delta::convert("the table is not loaded", error))?;
        Ok::<_, Error>(snapshot.metadata().partition_columns().to_vec())
    };
    Ok(delta::stored_schema(read)? == delta::stored_schema(now)? && partitions(read)? == partitions(now)?)
}

fn count(landed: &[Rewritten], version: u64, tally: &mut Tally) {
    for rewritten in landed {
        let old = rewritten.sources.iter().map(|source| source.file.bytes()).sum();
        tally.gone(rewritten.sources.len() as u64, old);
        let new = rewritten.added.iter().map(|add| u64::try_from(add.size).unwrap_or_default()).sum();
        tally.came(rewritten.added.len() as u64, new);
        let live = |source: &crate::rows::Source| {
            source.file.rows().unwrap_or_default().saturating_sub(source.file.deleted_rows())
        };
        tally.rows += rewritten.sources.iter().map(live).sum::<u64>();
        tally.version = Some(version);
    }
}
