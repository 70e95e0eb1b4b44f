//! Rows out of quarantine, merged after a fix: each once, whatever dies in between.
//!
//! ```text
//!  quarantine ──claim: replay_id──► claimed rows ─► frames of ingest replay:<id> ─► merge ─► silver
//!      ▲                                 │                                            └──► quarantine, if still bad
//!      │                                 └─ damaged stretches, poison objects ─► their objects, merged anew
//!      └──mark: replayed_at──────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The claim is one commit. From then on the rows of a replay are fixed, and so are its frames: which rows, in which
//! order, under which numbers ([`cutting`]). So it can be done again from the start at any time: silver's ledger tells
//! the frames that are in, quarantine's the rows that came back to it. Each replay first ends those that did not.
//!
//! A row comes out of its bronze object, as the producer sent it; if that is gone, out of the JSON that quarantine has.
//! It keeps its place in the order of arrival: a row that was overtaken while it lay in quarantine changes nothing.

mod claim;
mod cutting;
mod filter;
mod objects;
mod originals;
mod returned;
mod rows;

use std::sync::Arc;

use datafusion::execution::SessionState;
use datafusion::logical_expr::Expr;
use lakehouse::definition::Table;
use lakehouse::delta::{self, Transactions};
use lakehouse::{Error, Kind, Name, Result};
use serde::Serialize;
use tracing::{info, warn};
use uuid::{NoContext, Timestamp, Uuid};

use crate::merger::{Merger, Outcome};
use crate::quarantine;

/// How often a replay goes on after it lost a commit race.
const ATTEMPTS_MAX: u32 = 5;

/// Memory for reading quarantine in order, in bytes: beside that of the merges that run meanwhile.
const READ_MEMORY_BYTES: usize = 64 << 20;

/// What that may spill, in bytes.
const READ_SPILL_BYTES_MAX: u64 = 8 << 30;

/// What a replay did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// Rows of quarantine that were taken out, those of earlier replays that had not ended included.
    pub rows: u64,
    /// Rows that were merged by this call. An object that was set aside counts with all its rows.
    pub merged: u64,
    /// Rows, stretches and objects that can still not be used, and are in quarantine anew.
    pub quarantined_again: u64,
    /// The newest version of the silver table that it committed.
    pub version: Option<u64>,
}

impl Replayed {
    fn add(&mut self, outcome: &Outcome) {
        self.merged += outcome.story.rows_in.saturating_sub(outcome.story.quarantined);
        self.quarantined_again += outcome.story.quarantined;
        self.version = outcome.version.or(self.version);
    }
}

impl Merger {
    /// Merges what lies in a table's quarantine: all of it, or the rows for which `filter` is true, a condition in SQL
    /// over [`quarantine_schema`](crate::quarantine_schema). Each row is taken once; what is still bad comes back to
    /// quarantine as a new row.
    ///
    /// # Errors
    /// `NotFound` for an unknown table; `Invalid` for a filter that is none; `Stopped` if the definition stops the rows;
    /// `Unavailable`, `Exhausted` and `Conflict` if it should be called again. It then goes on where it ended.
    pub async fn replay(&self, table: &Name, filter: Option<&str>) -> Result<Replayed> {
        replay(self, &self.table(table)?, filter).await
    }
}

/// See [`Merger::replay`].
pub(crate) async fn replay(merger: &Merger, table: &Arc<Table>, filter: Option<&str>) -> Result<Replayed> {
    let session = delta::session(READ_MEMORY_BYTES, READ_SPILL_BYTES_MAX);
    let filter = filter.map(|filter| filter::parse(&session, filter)).transpose()?;
    let mut replay = Replay::new(merger, table, session);
    let mut attempt = 1;
    loop {
        match replay.run(filter.as_ref()).await {
            Err(error) if error.kind() == Kind::Conflict && attempt < ATTEMPTS_MAX => {
                warn!(table = %table.name, attempt, error = error.chain(), "a replay lost a commit race; it goes on");
                attempt += 1;
            }
            Err(error) => return Err(error),
            Ok(()) => {
                let Replayed { rows, merged, quarantined_again, version } = replay.replayed;
                info!(table = %table.name, rows, merged, quarantined_again, version, "replayed");
                return Ok(replay.replayed);
            }
        }
    }
}

/// A replay under way.
struct Replay<'a> {
    merger: &'a Merger,
    table: &'a Arc<Table>,
    /// Reads and marks quarantine's rows.
    session: Arc<SessionState>,
    /// What the silver table had recorded when it was last looked at.
    in_silver: Transactions,
    /// Its own claim.
    id: String,
    /// Whether that is made: there is one a call, or what comes back would be taken again.
    has_claimed: bool,
    replayed: Replayed,
}

impl<'a> Replay<'a> {
    fn new(merger: &'a Merger, table: &'a Arc<Table>, session: Arc<SessionState>) -> Self {
        Self {
            merger,
            table,
            session,
            in_silver: Transactions::default(),
            id: new_id(merger.clock().now_us()),
            has_claimed: false,
            replayed: Replayed::default(),
        }
    }

    async fn run(&mut self, filter: Option<&Expr>) -> Result<()> {
        let Some(delta) = quarantine::open_whole(self.merger.lake(), self.table).await? else { return Ok(()) };
        for id in claim::unfinished(&delta, &self.session).await? {
            self.finish(&id).await?;
            // It may be there though its commit seemed to fail.
            self.has_claimed |= id == self.id;
        }
        if self.has_claimed {
            return Ok(());
        }
        let Some(delta) = quarantine::open_whole(self.merger.lake(), self.table).await? else { return Ok(()) };
        let (id, now_us) = (self.id.clone(), self.merger.clock().now_us());
        let claimed = claim::claim(delta, &self.session, filter, &id, now_us).await?;
        self.has_claimed = true;
        if claimed > 0 { self.finish(&id).await } else { Ok(()) }
    }

    /// Merges the rows of a claim, and marks them.
    async fn finish(&mut self, id: &str) -> Result<()> {
        self.merge_rows(id).await?;
        self.merge_objects(id).await?;
        let Some(delta) = quarantine::open_whole(self.merger.lake(), self.table).await? else { return Ok(()) };
        self.replayed.rows += claim::mark(delta, &self.session, id, self.merger.clock().now_us()).await?;
        Ok(())
    }
}

/// Whether a merge failed over what it was given: it fails again.
fn is_poison(error: &Error) -> bool {
    matches!(error.kind(), Kind::Invalid | Kind::Internal)
}

/// The ingest id of a replay's frames.
fn ingest_id(id: &str) -> String {
    format!("replay:{id}")
}

/// Ids ascend, so that replays that did not end are ended in their order.
fn new_id(now_us: i64) -> String {
    let us = u64::try_from(now_us).unwrap_or(0);
    let nanos = u32::try_from(us % 1_000_000).unwrap_or(0) * 1_000;
    Uuid::new_v7(Timestamp::from_unix(NoContext, us / 1_000_000, nanos)).to_string()
}

#[cfg(test)]
mod tests;
