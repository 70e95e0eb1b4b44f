//! Rows out of quarantine again: what the transports know of it.
//!
//! Only a process that merges can replay. Over Flight it is an action, [`ACTION`], whose body and answer are JSON:
//! `{"table": "orders", "where": "rule = 'not_negative'"}` (without `where`: all rows) and [`Replayed`].

use async_trait::async_trait;
use lakehouse::{Name, Result};
use serde::{Deserialize, Serialize};

/// The action's name.
pub const ACTION: &str = "mallard.replay";

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// The table whose rows are to be merged.
    pub table: String,
    /// Which of its rows: a condition in SQL over the columns of `system.quarantine`. All, if there is none.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// Rows of quarantine that were taken out.
    pub rows: u64,
    /// Rows that were merged.
    pub merged: u64,
    /// Rows that can still not be used, and are in quarantine anew.
    pub quarantined_again: u64,
    /// The table's newest version, if it has a new one.
    pub version: Option<u64>,
}

/// What merges quarantine's rows.
#[async_trait]
pub trait Replays: Send + Sync + 'static {
    /// Merges the rows of a table's quarantine that `filter` names, each once.
    ///
    /// # Errors
    /// `NotFound` for an unknown table, `Invalid` for a filter that is none, `Stopped` if the definition stops the rows;
    /// `Unavailable`, `Exhausted` and `Conflict` if it should be called again.
    async fn replay(&self, table: &Name, filter: Option<&str>) -> Result<Replayed>;
}
