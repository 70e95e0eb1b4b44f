//! Keeps gold models fresh: each is one DuckDB SELECT, checked before it is published, and published in one commit.
//!
//! ```text
//!  silver/gold Delta ──Arrow──► DuckDB: the model's SELECT ─► result ─► expectations ─► one Delta commit, with the
//!   (one version each)                                                                 versions that were read
//! ```
//!
//! The versions that a model has read lie in its own last commit. So a refresh that finds them unchanged does nothing,
//! and a refresh that dies before its commit is simply done again.

mod plan;
mod publish;
mod refresher;
mod sources;

pub use plan::{Plan, Step};
pub use refresher::{Outcome, Refresher, Settings, State};
