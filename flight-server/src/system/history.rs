//! The stories of a table's commits, read once each.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use deltalake::DeltaTable;
use lakehouse::delta::{self, Told};
use lakehouse::story::MergeStory;
use lakehouse::{Name, Result};

/// How many of a table's newest commits are told.
pub(super) const COMMITS_MAX: usize = 10_000;

/// The newest commits of each silver table, newest first.
#[derive(Default)]
pub(super) struct Histories(Mutex<BTreeMap<Name, VecDeque<Told<MergeStory>>>>);

impl Histories {
    /// The commits of a table up to its loaded version.
    pub(super) async fn of(&self, name: &Name, table: &DeltaTable) -> Result<Vec<Told<MergeStory>>> {
        let newest = delta::version(table);
        let known = self.lock().get(name).and_then(|known| known.front().map(|told| told.version));
        let missing = match known {
            Some(known) if known <= newest => usize::try_from(newest - known).unwrap_or(COMMITS_MAX),
            // The table was made anew.
            _ => {
                self.lock().remove(name);
                COMMITS_MAX
            }
        };
        let told = if missing == 0 { Vec::new() } else { delta::history(table, missing.min(COMMITS_MAX)).await? };
        let mut histories = self.lock();
        let known = histories.entry(name.clone()).or_default();
        for commit in told.into_iter().rev() {
            if known.front().is_none_or(|front| front.version < commit.version) {
                known.push_front(commit);
            }
        }
        known.truncate(COMMITS_MAX);
        Ok(known.iter().cloned().collect())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Name, VecDeque<Told<MergeStory>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
