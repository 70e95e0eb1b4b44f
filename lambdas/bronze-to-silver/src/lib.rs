//! Merges bronze objects into silver Delta tables: exactly once, newest sequence first, nothing lost.
//!
//! ```text
//!  bronze objects ─► frames ─► DuckDB: unify, transform, judge, newest per key ─► changes ─► files, vectors, txn
//!                      │                              │                                         │
//!                 already merged?               bad rows ─► quarantine                  deletes ─► tombstones
//!               (Delta txn, skipped)            (first, so that nothing vanishes)       (before the merge)
//! ```
//!
//! The order of the commits makes a death at any point harmless: quarantine and tombstones are written first, each
//! idempotent, then one silver commit carries the rows and the `txn` of every frame that they came from. Whatever comes
//! again is recognised by those.

mod bronze;
mod check;
mod keys;
mod ledger;
mod merger;
mod ndjson;
mod poison;
mod quarantine;
mod replay;
mod scan;
mod sql;
mod stage;
mod tombstones;
mod writing;

pub use bronze::BronzeObject;
pub use check::check;
pub use merger::{Merger, Outcome, Settings, Work};
pub use poison::{Merging, Queued, Report, merge_around};
pub use quarantine::quarantine_schema;
pub use replay::Replayed;
