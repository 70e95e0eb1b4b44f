//! Flight SQL: the one protocol that clients speak.
//!
//! This module carries and translates; it decides nothing about data. Each method is three beats: decode the command,
//! call the [engine](crate::engine) or the [door for ingests](crate::door), encode the answer.
//!
//! ```text
//! gRPC ─► server ─► transport (FlightService) ─► service (Flight SQL routing) ─► statements │ prepared │ metadata
//!                        └─ DoPut, actions, polls ────────────────────────────► ingest │ stream │ put │ actions │ poll
//! ```
//!
//! No state stays here between calls: tickets and prepared handles carry theirs, sealed ([`tickets`], [`seal`]), a
//! client's options are a cookie ([`session`]). So any server with the same key answers any call. Errors become gRPC codes in one place
//! ([`status`]).

mod actions;
mod batches;
mod deadline;
mod inflow;
mod ingest;
mod metadata;
mod poll;
mod preflight;
mod prepared;
mod put;
mod seal;
mod server;
mod service;
mod session;
mod sql_info;
mod statements;
mod status;
mod stopping;
mod stream;
#[cfg(test)]
mod tests;
mod tickets;
mod transport;
mod updates;
mod xdbc;

pub use ingest::{INGEST_ID_HEADER, PARTIAL_HEADER};
pub use preflight::DECODED_BYTES_MAX;
pub use seal::{Key, Sealer};
pub use server::{MESSAGE_BYTES_MAX, SHUTDOWN_GRACE, ServerOptions, server};
pub use service::Parts;
pub(crate) use session::{ANYONE, set_headers};
pub(crate) use status::code;
pub use status::status;
pub use tickets::{PREPARED_LIFETIME, TICKET_LIFETIME};
pub use transport::FlightService;
pub(crate) use updates::ingest_change;
