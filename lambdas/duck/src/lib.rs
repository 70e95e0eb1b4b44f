//! The one place that names DuckDB.
//!
//! DuckDB transforms, Delta stores: a [`Duck`] is an in-memory DuckDB database in a sandbox, to which Arrow batches
//! are handed and from which Arrow batches are taken. It never opens a socket, and no file but its own spill.
//!
//! ```text
//!   RecordBatch (arrow 59) ──C Data Interface──► DuckDB table ──SQL──► StructArray (arrow 58) ──C Data Interface──► RecordBatch
//! ```
//!
//! What takes too long, and what nobody waits for any more, is interrupted (the `watch` module).
//!
//! All `unsafe` of the project is in the `bridge` module.

mod bridge;
mod connection;
mod error;
mod references;
mod settings;
mod stop;
mod watch;

pub use connection::Duck;
pub use error::locate;
pub use references::TableReference;
pub use settings::Settings;
pub use stop::{StopOnDrop, Stopper};

/// `name` as a quoted SQL identifier.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `text` as a quoted SQL string.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
