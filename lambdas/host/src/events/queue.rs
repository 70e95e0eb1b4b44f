//! Batches of an SQS queue.

use std::collections::BTreeMap;

use lakehouse::{Context as _, Kind, Result};
use serde::Deserialize;
use serde_json::Value;

use super::{Content, notice};

/// The source that SQS names in its records.
const SOURCE: &str = "aws:sqs";

/// A message of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// By which a failure is told.
    pub id: String,
    /// Its group in a FIFO queue.
    pub group: Option<String>,
    /// How often it was received, this time included.
    pub tries: u32,
    /// What it says.
    pub body: String,
}

impl Message {
    /// What the body tells.
    pub fn content(&self) -> Content {
        notice::of_body(&self.body)
    }
}

#[derive(Deserialize)]
struct Batch {
    #[serde(rename = "Records")]
    records: Vec<Record>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    message_id: String,
    body: String,
    /// SQS writes numbers as texts here.
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

/// Whether an event is a queue's batch.
pub(super) fn is_batch(event: &Value) -> bool {
    let records = event.get("Records").and_then(Value::as_array);
    let source = records.and_then(|records| records.first()?.get("eventSource")?.as_str());
    source == Some(SOURCE)
}

/// The messages of a batch, in its order.
pub(super) fn messages(event: Value) -> Result<Vec<Message>> {
    let batch: Batch =
        serde_json::from_value(event).context(Kind::Invalid, || "the queue's batch has a hole".to_owned())?;
    let messages = batch.records.into_iter().map(|mut record| Message {
        id: record.message_id,
        group: record.attributes.remove("MessageGroupId"),
        tries: record.attributes.get("ApproximateReceiveCount").and_then(|tries| tries.parse().ok()).unwrap_or(1),
        body: record.body,
    });
    Ok(messages.collect())
}
