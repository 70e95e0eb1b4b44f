//! One table's objects: all in one merge, and one by one if that fails and one of them may be to blame.
//!
//! ```text
//!  all at once ──ok──► done
//!      │ invalid, internal                          (conflict, unavailable, stopped, …: all come again)
//!      ▼
//!  one by one, in order ──ok──► done, next
//!      │ invalid, internal
//!      ├── tried often enough ──► set aside: in quarantine as a whole, done, next
//!      └── not yet ──► it and all behind it come again
//! ```

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use async_trait::async_trait;
use bronze_to_silver::{BronzeObject, Merger, Outcome};
use futures::FutureExt as _;
use host::Call;
use lakehouse::{Error, Kind, Name, Result};

/// An object that waits, and how often it was tried, this time included; 0 if nobody counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Queued {
    pub(super) object: BronzeObject,
    pub(super) tries: u32,
}

/// What became of a table's objects.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// The keys that need not come again.
    pub(super) done: BTreeSet<String>,
    /// What was merged, merge by merge.
    pub(super) outcomes: Vec<Outcome>,
    /// The keys that went to quarantine as a whole.
    pub(super) set_aside: Vec<String>,
    /// Why the rest is not done; `None`: there was no time, or there is no rest.
    pub(super) failure: Option<Error>,
}

impl Report {
    /// Whether nothing needs to come again.
    pub(super) fn is_whole(&self, queued: &[Queued]) -> bool {
        queued.iter().all(|queued| self.done.contains(&queued.object.key))
    }

    /// The newest version that was committed.
    pub(super) fn version(&self) -> Option<u64> {
        self.outcomes.iter().filter_map(|outcome| outcome.version).max()
    }

    fn take(&mut self, outcome: Outcome) {
        self.done.extend(outcome.done.iter().cloned());
        self.outcomes.push(outcome);
    }
}

/// What merges.
#[async_trait]
pub(super) trait Merging: Send + Sync {
    /// Merges objects, and begins no commit behind `until`.
    async fn attempt(&self, table: &Name, objects: &[BronzeObject], until: Option<Instant>) -> Result<Outcome>;

    /// Puts an object into quarantine as a whole.
    async fn give_up(&self, table: &Name, object: &BronzeObject, reason: &str) -> Result<()>;
}

#[async_trait]
impl Merging for Merger {
    async fn attempt(&self, table: &Name, objects: &[BronzeObject], until: Option<Instant>) -> Result<Outcome> {
        // A panic in a library may be the object's fault, and is treated as such.
        let merged = AssertUnwindSafe(self.merge_until(table, objects, until)).catch_unwind().await;
        merged.unwrap_or_else(|_| Err(Error::internal("the merge panicked; see the log")))
    }

    async fn give_up(&self, table: &Name, object: &BronzeObject, reason: &str) -> Result<()> {
        self.set_aside(table, object, reason).await
    }
}

/// Merges what waits for a table, as far as the call's time goes.
pub(super) async fn merge_all(
    merging: &dyn Merging,
    table: &Name,
    queued: &[Queued],
    tries_max: u32,
    call: &Call,
) -> Report {
    let mut report = Report::default();
    let objects = distinct(queued);
    if objects.is_empty() || call.is_late() {
        return report;
    }
    match attempt(merging, table, &objects, call).await {
        Ok(outcome) => report.take(outcome),
        Err(error) if may_be_poison(&error) => {
            // Alone, it needs no second try to be known.
            let alone = (objects.len() == 1).then_some(error);
            one_by_one(merging, table, queued, tries_max, call, alone, &mut report).await;
        }
        Err(error) => report.failure = Some(error),
    }
    report
}

async fn one_by_one(
    merging: &dyn Merging,
    table: &Name,
    queued: &[Queued],
    tries_max: u32,
    call: &Call,
    mut known: Option<Error>,
    report: &mut Report,
) {
    for Queued { object, .. } in queued {
        if report.done.contains(&object.key) {
            continue;
        }
        if call.is_late() {
            return;
        }
        let attempted = match known.take() {
            Some(error) => Err(error),
            None => attempt(merging, table, std::slice::from_ref(object), call).await,
        };
        match attempted {
            Ok(outcome) => {
                report.take(outcome);
                if !report.done.contains(&object.key) {
                    return;
                }
            }
            Err(error) => {
                // The same object may wait in several messages.
                let same = queued.iter().filter(|other| other.object.key == object.key);
                let tries = same.map(|other| other.tries).max().unwrap_or_default();
                if !(may_be_poison(&error) && tries >= tries_max) {
                    report.failure = Some(of_object(error, &object.key));
                    return;
                }
                let reason = error.chain();
                if let Err(error) = merging.give_up(table, object, &reason).await {
                    report.failure = Some(of_object(error, &object.key));
                    return;
                }
                tracing::error!(%table, object = object.key, tries, reason, "the object is in quarantine whole");
                report.done.insert(object.key.clone());
                report.set_aside.push(object.key.clone());
            }
        }
    }
}

/// A merge that ends in time, or an error.
async fn attempt(merging: &dyn Merging, table: &Name, objects: &[BronzeObject], call: &Call) -> Result<Outcome> {
    match call.in_time(merging.attempt(table, objects, call.until)).await {
        Some(merged) => merged,
        None => Err(Error::new(
            Kind::Timeout,
            format!(
                "the merge of {} objects of table {table} did not end in time; give the function more time or memory, \
                 or its queue smaller batches",
                objects.len()
            ),
        )),
    }
}

/// Whether what was read may be the reason, so that trying again gives the same.
fn may_be_poison(error: &Error) -> bool {
    matches!(error.kind(), Kind::Invalid | Kind::Internal)
}

fn of_object(error: Error, key: &str) -> Error {
    Error::new(error.kind(), format!("object {key} can't be merged")).because(error)
}

/// The objects, each once, in order.
fn distinct(queued: &[Queued]) -> Vec<BronzeObject> {
    let mut seen = BTreeSet::new();
    queued.iter().map(|queued| &queued.object).filter(|object| seen.insert(object.key.as_str())).cloned().collect()
}

#[cfg(test)]
mod tests;
