//! What each commit tells about itself: the source of the system tables.
//!
//! A story lies in the commit that it tells of (see [`crate::delta::Commit`]), so the two can't disagree, and any server
//! can tell it without a database of its own. Fields may be added, never changed: old commits stay readable.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What one commit to a silver table merged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MergeStory {
    /// The ingests that have frames in it.
    pub ingests: Vec<IngestStory>,
    /// The bronze objects that were read.
    pub objects: Vec<String>,
    /// Rows of the frames merged.
    pub rows_in: u64,
    /// Rows that remained after taking the newest change of each key.
    pub changes: u64,
    /// Of these, deletes.
    pub deletes: u64,
    /// Rows whose key was new.
    pub inserted: u64,
    /// Rows that replaced one.
    pub updated: u64,
    /// Changes that a stored row or a tombstone had overtaken.
    pub late: u64,
    /// Rows sent to quarantine.
    pub quarantined: u64,
    /// Rows that failed an expectation with `on_fail = "warn"`, by its name.
    pub warned: BTreeMap<String, u64>,
    /// From start of the merge to its commit, in milliseconds.
    pub duration_ms: u64,
}

/// An ingest's part in one commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IngestStory {
    /// Its id.
    pub ingest_id: String,
    /// Rows of its frames in this commit, whether merged, superseded or quarantined.
    pub rows: u64,
    /// Its frames in this commit.
    pub frames: u64,
    /// Their bytes in bronze.
    pub bytes: u64,
    /// When the first of them was received, in microseconds since the epoch.
    pub accepted_at_us: i64,
    /// When the last of them was in bronze, in microseconds since the epoch.
    pub delivered_at_us: i64,
    /// Of its rows, those sent to quarantine.
    pub quarantined: u64,
    /// How many frames it has in all: the number of the one that is marked last, plus one. None as long as that one is
    /// not merged: a stream has no last one.
    pub total_frames: Option<u64>,
    /// The first number that is not merged without a gap, this commit included: the ledger's own. None in commits that
    /// do not tell it.
    pub merged_to: Option<u64>,
}

/// What one commit to a gold table published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RefreshStory {
    /// The versions that the model read, by `schema.table`.
    pub read: BTreeMap<String, u64>,
    /// A fingerprint of the model's SQL and mode: another one means that it must be computed anew.
    pub model: String,
    /// Rows of the result.
    pub rows: u64,
    /// Rows that failed an expectation with `on_fail = "warn"`, by its name.
    pub warned: BTreeMap<String, u64>,
    /// From start of the refresh to its commit, in milliseconds.
    pub duration_ms: u64,
}
