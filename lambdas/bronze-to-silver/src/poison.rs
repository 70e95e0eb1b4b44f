//! Merges what waits for a table around the objects that can't be merged, so that none of them blocks it.
//!
//! ```text
//!  all at once ──ok──► done
//!      │ invalid, internal, exhausted               (conflict, unavailable, stopped, …: all come again)
//!      ▼
//!  the first half, then the second, each halved again if it fails, until one object fails alone:
//!      ├── tried often enough ──► set aside: in quarantine as a whole, done; the rest goes on
//!      └── not yet ──► it and all behind it come again
//! ```
//!
//! So a poison object among `n` costs some `log n` merges, and not `n`. What is broken stays so. What is too much, for
//! the memory or for the time, may be less so the next time, and gets twice as many tries; it is tried alone then, with
//! all of the time that there is.
//!
//! Who calls counts the tries: a queue tells how often it gave an object out, a process can remember
//! [`Report::blamed`].

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use async_trait::async_trait;
use futures::FutureExt as _;
use lakehouse::{Error, Kind, Name, Result};

use crate::bronze::BronzeObject;
use crate::merger::{Merger, Outcome};

/// How many times as many tries as a broken object one gets that is too much for a merge.
const TRIES_IF_TOO_MUCH: u32 = 2;

/// An object that waits, and how often it was tried, this time included; 0 if nobody counts: it is never set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Which.
    pub object: BronzeObject,
    /// How often.
    pub tries: u32,
}

/// What became of a table's objects.
#[derive(Debug, Default)]
pub struct Report {
    /// The keys that need not come again.
    pub done: BTreeSet<String>,
    /// What was merged, merge by merge.
    pub outcomes: Vec<Outcome>,
    /// The keys that went to quarantine as a whole.
    pub set_aside: Vec<String>,
    /// The key of the object that failed alone, by its own fault as it seems, and comes again.
    pub blamed: Option<String>,
    /// Why the rest is not done; `None`: there was no time, or there is no rest.
    pub failure: Option<Error>,
}

impl Report {
    /// Whether nothing of this needs to come again.
    pub fn is_whole(&self, queued: &[Queued]) -> bool {
        queued.iter().all(|queued| self.done.contains(&queued.object.key))
    }

    /// The newest version that was committed.
    pub fn version(&self) -> Option<u64> {
        self.outcomes.iter().filter_map(|outcome| outcome.version).max()
    }

    fn take(&mut self, outcome: Outcome) {
        self.done.extend(outcome.done.iter().cloned());
        self.outcomes.push(outcome);
    }

    fn fail(&mut self, object: &BronzeObject, error: Error) {
        let message = format!("object {} can't be merged", object.key);
        self.failure = Some(Error::new(error.kind(), message).because(error));
    }
}

/// What merges.
#[async_trait]
pub trait Merging: Send + Sync {
    /// Merges objects, and begins no commit behind `until`.
    ///
    /// # Errors
    /// As [`Merger::merge`]; `Timeout` if it did not end in time.
    async fn attempt(&self, table: &Name, objects: &[BronzeObject], until: Option<Instant>) -> Result<Outcome>;

    /// Puts an object into quarantine as a whole.
    ///
    /// # Errors
    /// As [`Merger::set_aside`].
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

/// Merges what waits for a table, in its order, until `until`. An object that can't be merged is set aside after
/// `tries_max` tries, or comes again with all behind it.
pub async fn merge_around(
    merging: &dyn Merging,
    table: &Name,
    queued: &[Queued],
    tries_max: u32,
    until: Option<Instant>,
) -> Report {
    let objects = distinct(queued);
    let mut report = Report::default();
    let mut is_first = true;
    // What comes next is on top.
    let mut left = pieces(&objects, tries_max);
    left.reverse();
    while let Some(piece) = left.pop() {
        if is_late(until) {
            break;
        }
        let is_last_chance = std::mem::take(&mut is_first) && is_last_chance(piece, tries_max);
        match attempt(merging, table, piece, until, is_last_chance).await {
            Ok(outcome) => {
                report.take(outcome);
                if !report.is_whole(piece) {
                    break;
                }
            }
            Err(error) => match piece {
                [alone] => {
                    let is_over = is_over(&error, alone.tries, tries_max, is_last_chance);
                    settle(merging, table, alone, error, is_over, &mut report).await;
                    if report.failure.is_some() {
                        break;
                    }
                }
                _ if may_be_of_one(&error) && !is_late(until) => {
                    let (first, rest) = piece.split_at(piece.len() / 2);
                    left.extend([rest, first]);
                }
                _ => {
                    report.failure = Some(error);
                    break;
                }
            },
        }
    }
    report
}

/// What becomes of an object that failed alone.
async fn settle(merging: &dyn Merging, table: &Name, alone: &Queued, error: Error, is_over: bool, report: &mut Report) {
    let Queued { object, tries } = alone;
    if !is_over {
        report.blamed = may_be_of_one(&error).then(|| object.key.clone());
        return report.fail(object, error);
    }
    let reason = error.chain();
    match merging.give_up(table, object, &reason).await {
        Err(error) => report.fail(object, error),
        Ok(()) => {
            tracing::error!(%table, object = object.key, tries, reason, "the object is in quarantine whole");
            report.done.insert(object.key.clone());
            report.set_aside.push(object.key.clone());
        }
    }
}

/// A merge of some objects. With their last chance they must be through by `until`, so that there is time to set them
/// aside.
async fn attempt(
    merging: &dyn Merging,
    table: &Name,
    piece: &[Queued],
    until: Option<Instant>,
    is_last_chance: bool,
) -> Result<Outcome> {
    let objects: Vec<BronzeObject> = piece.iter().map(|queued| queued.object.clone()).collect();
    let merged = merging.attempt(table, &objects, until);
    match until.filter(|_| is_last_chance) {
        None => merged.await,
        Some(until) => tokio::time::timeout_at(until.into(), merged).await.unwrap_or_else(|_| {
            let message = "the merge of this object alone does not end in the time that there is; replay it with more \
                           time or memory";
            Err(Error::new(Kind::Timeout, message))
        }),
    }
}

/// Whether what was read may be the reason, all of it or one object.
fn may_be_of_one(error: &Error) -> bool {
    matches!(error.kind(), Kind::Invalid | Kind::Internal | Kind::Exhausted | Kind::Timeout)
}

/// Whether an object that failed alone is tried no more.
fn is_over(error: &Error, tries: u32, tries_max: u32, is_last_chance: bool) -> bool {
    match error.kind() {
        Kind::Invalid | Kind::Internal => tries >= tries_max,
        Kind::Exhausted => tries >= tries_max.saturating_mul(TRIES_IF_TOO_MUCH),
        // Others may have had the time before it, or there may be none left to set it aside.
        Kind::Timeout => is_last_chance,
        _ => false,
    }
}

/// Whether these are one object that was tried so often that it is not tried again if it takes too long.
fn is_last_chance(piece: &[Queued], tries_max: u32) -> bool {
    matches!(piece, [alone] if alone.tries >= tries_max.saturating_mul(TRIES_IF_TOO_MUCH))
}

fn is_late(until: Option<Instant>) -> bool {
    until.is_some_and(|until| Instant::now() >= until)
}

/// The objects, each once, in order, with the most tries that are told of it: it may wait in several messages.
fn distinct(queued: &[Queued]) -> Vec<Queued> {
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    let mut distinct: Vec<Queued> = Vec::with_capacity(queued.len());
    for one in queued {
        let place = *places.entry(one.object.key.as_str()).or_insert(distinct.len());
        match distinct.get_mut(place) {
            Some(known) => known.tries = known.tries.max(one.tries),
            None => distinct.push(one.clone()),
        }
    }
    distinct
}

/// What is tried together: all, but for objects that were tried so often that together they never get through.
fn pieces(objects: &[Queued], tries_max: u32) -> Vec<&[Queued]> {
    let is_suspect = |queued: &Queued| queued.tries > tries_max;
    objects.chunk_by(|before, behind| !is_suspect(before) && !is_suspect(behind)).collect()
}

#[cfg(test)]
mod tests;
