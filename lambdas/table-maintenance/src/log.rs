//! Keeps a table's log short: a checkpoint, so that readers need not read many commits, and no commits from before
//! anybody may ask for.
//!
//! ```text
//!  commits      0 1 2 3 4 5 6 7 8 9
//!  checkpoints        ▲       ▲
//!  asked for            └ may be read as of from here on: version 4 was the newest then
//!  needed             └ version 3 is a checkpoint, 4 is read from it: 0, 1 and 2 go
//! ```
//!
//! delta-rs cleans logs on its own after a commit, by the times of files. It keeps what was committed within the retention,
//! and may lose the version that was the newest when the retention began, so Mallard's commits tell it not to.

use std::collections::{BTreeMap, BTreeSet};

use deltalake::checkpoints::create_checkpoint;
use deltalake::logstore::object_store::{ObjectMeta, ObjectStore as _};
use deltalake::{DeltaTable, Path};
use futures::TryStreamExt as _;
use lakehouse::lake::read_log;
use lakehouse::{Context as _, Kind, Layer, Result, delta};
use serde_json::Value;

use crate::job::{CLOCKS_APART_MAX, Job};
use crate::removal::remove;
use crate::tally::Tally;

/// Commits behind the last checkpoint that are worth a new one.
const COMMITS_MAX: u64 = 20;

/// How many commits a refresh looks at for what the last one told.
const STORIES_MAX: usize = 20;

/// Where a table's log lies.
const FOLDER: &str = "_delta_log";

/// Digits of a version in a file's name.
const VERSION_DIGITS: usize = 20;

/// The files of a log.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// With the version that a file tells of: of several, the last.
    files: Vec<(u64, ObjectMeta)>,
    commits: BTreeSet<u64>,
    checkpoints: BTreeSet<u64>,
}

/// What a file of a log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum File {
    Commit(u64),
    /// A checkpoint in one file, or one of several.
    Checkpoint {
        version: u64,
        parts: u64,
    },
    /// A checksum, or several commits in one file.
    Other(u64),
}

impl File {
    /// What a file called so is; `None`: nothing that is known.
    fn of(name: &str) -> Option<Self> {
        let (version, rest) = numbered(name)?;
        let kind: Vec<&str> = rest.split('.').collect();
        match kind.as_slice() {
            ["json"] => Some(Self::Commit(version)),
            ["crc"] => Some(Self::Other(version)),
            [last, "compacted", "json"] => Some(Self::Other(last.parse().ok()?)),
            ["checkpoint", "parquet"] | ["checkpoint", _, "parquet" | "json"] => {
                Some(Self::Checkpoint { version, parts: 1 })
            }
            ["checkpoint", _, parts, "parquet"] => Some(Self::Checkpoint { version, parts: parts.parse().ok()? }),
            _ => None,
        }
    }

    fn version(self) -> u64 {
        match self {
            Self::Commit(version) | Self::Checkpoint { version, .. } | Self::Other(version) => version,
        }
    }
}

fn numbered(name: &str) -> Option<(u64, &str)> {
    let (digits, rest) = name.split_once('.')?;
    (digits.len() == VERSION_DIGITS).then(|| digits.parse().ok()).flatten().map(|version| (version, rest))
}

impl Log {
    /// Lists the log of a table.
    pub(crate) async fn list(table: &DeltaTable) -> Result<Self> {
        let folder = Path::from(FOLDER);
        let unreadable = || format!("can't list the Delta log of {}", table.table_url().path());
        let store = table.log_store().object_store(None);
        let listed: Vec<ObjectMeta> =
            store.list(Some(&folder)).try_collect().await.context(Kind::Unavailable, unreadable)?;
        // What lies in folders below is needed by checkpoints that name it.
        let listed = listed.into_iter().filter(|object| object.location.parts().count() == 2);
        Ok(Self::of(listed))
    }

    fn of(listed: impl IntoIterator<Item = ObjectMeta>) -> Self {
        let mut log = Self::default();
        let mut parts: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        for object in listed {
            let Some(file) = object.location.filename().and_then(File::of) else { continue };
            match file {
                File::Commit(version) => {
                    log.commits.insert(version);
                }
                File::Checkpoint { version, parts: whole } => *parts.entry((version, whole)).or_default() += 1,
                File::Other(_) => {}
            }
            log.files.push((file.version(), object));
        }
        let whole = parts.into_iter().filter(|((_, whole), found)| found >= whole);
        log.checkpoints = whole.map(|((version, _), _)| version).collect();
        log.files.sort_by_key(|(version, _)| *version);
        log
    }

    /// The first version that can be read.
    pub(crate) fn earliest(&self) -> Option<u64> {
        if self.commits.first() == Some(&0) { Some(0) } else { self.checkpoints.first().copied() }
    }

    /// The files that nobody needs who reads `version` or a newer one, oldest first.
    fn unneeded(&self, version: u64) -> Vec<&ObjectMeta> {
        let Some(checkpoint) = self.checkpoints.range(..=version).next_back() else { return Vec::new() };
        self.files.iter().take_while(|(version, _)| version < checkpoint).map(|(_, object)| object).collect()
    }
}

/// Makes a checkpoint if the last one is far behind.
pub(crate) async fn checkpoint(job: &Job<'_>) -> Result<Tally> {
    let table = job.open().await?;
    let log = Log::list(&table).await?;
    let version = delta::version(&table);
    let mut tally = tally_of(&log);
    tally.version = Some(version);
    let behind = version - log.checkpoints.range(..=version).next_back().copied().unwrap_or_default();
    if behind < COMMITS_MAX {
        return Ok(tally);
    }
    let made = read_log(async move { create_checkpoint(&table, None).await }).await?;
    made.map_err(|error| delta::convert(&format!("can't make a checkpoint of {}.{}", job.layer, job.name), error))?;
    tally.came(1, 0);
    Ok(tally)
}

/// Takes away what is older than the log's retention.
pub(crate) async fn clean(job: &Job<'_>) -> Result<Tally> {
    let from_us = job.before_us(job.policy.maintenance.log_retention.saturating_add(CLOCKS_APART_MAX));
    let log = Log::list(&job.open().await?).await?;
    let mut tally = tally_of(&log);
    let table = match job.lake.open_at(job.layer, job.name, from_us).await {
        Ok(table) => table,
        // All versions that there are, are younger.
        Err(error) if error.kind() == Kind::NotFound => return Ok(tally),
        Err(error) => return Err(error),
    };
    let kept_from = delta::version(&table).min(last_told(job).await?);
    let unneeded = log.unneeded(kept_from);
    let files = unneeded.iter().map(|object| (object.location.clone(), object.size)).collect();
    remove(job, table.log_store().object_store(None).as_ref(), files, &mut tally).await?;
    Ok(tally)
}

/// The last version of a model that tells of a refresh: without it, the model would be computed anew though nothing has
/// changed. Of other tables, no commit is needed for what it tells.
async fn last_told(job: &Job<'_>) -> Result<u64> {
    if job.layer != Layer::Gold {
        return Ok(u64::MAX);
    }
    let told = delta::history::<Value>(&job.open().await?, STORIES_MAX).await?;
    let last = told.into_iter().find(|commit| commit.story.as_ref().is_some_and(|story| !story.is_null()));
    Ok(last.map_or(u64::MAX, |commit| commit.version))
}

fn tally_of(log: &Log) -> Tally {
    Tally::at(log.files.len() as u64, log.files.iter().map(|(_, object)| object.size).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(names: &[&str]) -> Log {
        let table = Path::from(FOLDER);
        Log::of(names.iter().map(|name| ObjectMeta {
            location: table.clone().join(*name),
            last_modified: Default::default(),
            size: 1,
            e_tag: None,
            version: None,
        }))
    }

    fn named(version: u64, rest: &str) -> String {
        format!("{version:020}.{rest}")
    }

    #[test]
    fn a_log_is_cut_at_the_last_whole_checkpoint_that_is_needed() {
        let mut names: Vec<String> = (0..10).map(|version| named(version, "json")).collect();
        names.extend([
            named(3, "checkpoint.parquet"),
            // One of two parts is missing.
            named(5, "checkpoint.0000000001.0000000002.parquet"),
            named(7, "checkpoint.0000000001.0000000002.parquet"),
            named(7, "checkpoint.0000000002.0000000002.parquet"),
            named(1, "crc"),
            format!("{:020}.{:020}.compacted.json", 1, 4),
            "_last_checkpoint".to_owned(),
        ]);
        let log = log(&names.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(log.checkpoints, BTreeSet::from([3, 7]));
        assert_eq!(log.earliest(), Some(0));
        let gone = |version| -> Vec<String> {
            let objects = log.unneeded(version);
            objects.iter().map(|object| object.location.filename().unwrap_or_default().to_owned()).collect()
        };
        assert_eq!(gone(2), Vec::<String>::new());
        let to_three =
            ["json", "json", "crc", "json"].iter().zip([0, 1, 1, 2]).map(|(rest, version)| named(version, rest));
        assert_eq!(gone(6), to_three.collect::<Vec<_>>());
        assert!(gone(9).contains(&named(6, "json")) && !gone(9).contains(&named(7, "json")));
    }

    #[test]
    fn a_log_that_was_cut_begins_at_its_first_checkpoint() {
        let names = [named(4, "json"), named(5, "json"), named(5, "checkpoint.parquet"), named(6, "json")];
        assert_eq!(log(&names.each_ref().map(String::as_str)).earliest(), Some(5));
    }

    #[test]
    fn files_that_are_no_part_of_a_log_stay() {
        for name in ["_last_checkpoint", "5.json", "notes.txt", "00000000000000000005.json.tmp", "_commit_1.json.tmp"] {
            assert_eq!(File::of(name), None, "{name}");
        }
        let uuid = "80a083e8-7026-4e79-81be-64bd76c43a11";
        let checkpoint = File::Checkpoint { version: 5, parts: 1 };
        assert_eq!(File::of(&named(5, &format!("checkpoint.{uuid}.parquet"))), Some(checkpoint));
    }
}
