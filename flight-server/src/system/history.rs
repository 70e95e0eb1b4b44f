//! The stories of a table's commits, read once each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use deltalake::DeltaTable;
use lakehouse::delta::{self, Told};
use lakehouse::{Name, Result};
use serde::de::DeserializeOwned;

/// How many of a table's newest commits are told.
pub(super) const COMMITS_MAX: usize = 10_000;

/// Commits of a table, newest first.
pub(super) type History<T> = Arc<Vec<Arc<Told<T>>>>;

/// The newest commits of each table of a layer.
pub(super) struct Histories<T>(Mutex<BTreeMap<Name, Known<T>>>);

/// The commits from version `oldest` to `newest`.
struct Known<T> {
    newest: u64,
    oldest: u64,
    commits: History<T>,
}

impl<T> Clone for Known<T> {
    fn clone(&self) -> Self {
        Self { newest: self.newest, oldest: self.oldest, commits: Arc::clone(&self.commits) }
    }
}

impl<T> Default for Histories<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: DeserializeOwned> Histories<T> {
    /// The commits of a table up to its loaded version: the newest `depth` of them, at most [`COMMITS_MAX`], or more if
    /// they are known.
    pub(super) async fn of(&self, name: &Name, table: &DeltaTable, depth: usize) -> Result<History<T>> {
        let newest = delta::version(table);
        let depth = depth.min(COMMITS_MAX);
        let oldest = (newest + 1).saturating_sub(depth as u64);
        let known = self.known(name).filter(|known| {
            // Otherwise the table was made anew, or too little of it is known to add to that.
            known.newest <= newest && known.oldest <= oldest && newest - known.newest <= depth as u64
        });
        let missing = match &known {
            Some(known) => usize::try_from(newest - known.newest).unwrap_or(depth),
            None => depth,
        };
        if let (0, Some(known)) = (missing, &known) {
            return Ok(Arc::clone(&known.commits));
        }
        let told = delta::history::<T>(table, missing).await?;
        let mut commits: Vec<Arc<Told<T>>> = told.into_iter().map(Arc::new).collect();
        let mut all = Known { newest, oldest, commits: History::default() };
        if let Some(known) = known {
            all.oldest = known.oldest.max((newest + 1).saturating_sub(COMMITS_MAX as u64));
            commits.extend(known.commits.iter().filter(|commit| commit.version >= all.oldest).cloned());
        }
        all.commits = Arc::new(commits);
        self.lock().insert(name.clone(), all.clone());
        Ok(all.commits)
    }

    fn known(&self, name: &Name) -> Option<Known<T>> {
        self.lock().get(name).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Name, Known<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
