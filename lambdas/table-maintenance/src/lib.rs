//! Keeps Delta tables in good order: few files, short logs, nothing on disk that nobody can ask for.
//!
//! ```text
//!  a table ─► expire ─► compact ─► checkpoint ─► clean the log ─► vacuum ─► a row a step in maintenance.runs
//!             old rows  small files,  many commits   versions before    files of no
//!                       deleted rows                 log_retention      version since vacuum_after
//! ```
//!
//! It runs beside merges, refreshes and readers, and beside itself, with nothing between them but Delta's log. Whatever
//! replaces files is written first and committed on exactly the version in which its old files were still as they were
//! read (see `landing`); whatever deletes files keeps all that a version within the retention names, and all that is
//! too young to tell (see `vacuum`). A run that dies leaves nothing but files that a later one takes away.

mod expiry;
mod job;
mod landing;
mod log;
mod maintainer;
mod plan;
mod removal;
mod report;
mod rewriting;
mod rows;
mod sorting;
mod tally;
#[cfg(test)]
mod tests;
mod vacuum;
mod zorder;

pub use maintainer::{Maintainer, Settings};
pub use report::{Action, Ending, RUNS, Report, Step, runs_schema};
