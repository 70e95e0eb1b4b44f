//! What every Lambda of Mallard needs and none should write twice: how it is started, told what to do, and heard.
//!
//! ```text
//!  environment ─► Settings ─┐
//!                           ├─► Handler::call(event, Call) ─► answer
//!  Lambda ─► Call (id, deadline) ─┘        │
//!                                          ├─► logs:    JSON lines, with the call's id
//!                                          ├─► metrics: CloudWatch's embedded format
//!                                          └─► publish: events to EventBridge, messages to SQS
//! ```
//!
//! [`run`] is the whole of a binary: under Lambda it serves calls for ever, with `--invoke event.json` it serves one.
//! [`events`] reads what comes in, [`place`] finds the table of a bronze object. This crate knows nothing of merges,
//! models or Delta.

mod deadline;
mod logs;
mod memory;
mod shell;

pub mod events;
pub mod metrics;
pub mod place;
pub mod publish;
pub mod settings;

pub use deadline::Call;
pub use memory::peak_bytes;
pub use metrics::{Metric, Metrics};
pub use settings::Settings;
pub use shell::{Handler, Host, run};
