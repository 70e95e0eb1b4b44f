//! The Flight SQL server.
//!
//! [`flight`] speaks the protocol, [`http`] JSON beside it; rows go in by the [`door`]; [`engine`] queries, [`ingest`] takes rows in, [`delivery`] keeps them until they lie
//! in bronze, [`system`] tells what happened. Feature `local` adds the rest of the lakehouse, in the same process.

pub mod config;
pub mod delivery;
pub mod door;
pub mod engine;
pub mod flight;
pub mod http;
pub mod ingest;
#[cfg(feature = "local")]
pub mod local;
pub mod replays;
pub mod results;
mod run;
pub mod system;

pub use run::run;
