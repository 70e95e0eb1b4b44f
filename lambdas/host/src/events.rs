//! What a Lambda can be called with: batches of a queue, notices of new objects, and requests.
//!
//! | event | becomes |
//! | --- | --- |
//! | SQS batch (`Records` of `aws:sqs`) | [`Event::Batch`]; what a body says, [`Message::content`] tells |
//! | EventBridge's "Object Created", S3's own notification, `s3:TestEvent` | [`Event::Told`] |
//! | a [`Request`], such as `{"table": "orders", "from": "2026-01-31T00:00:00Z"}` | [`Event::Asked`] |
//!
//! Bodies are read one by one, so that a broken one is a failure of its message and not of the batch.

mod notice;
mod queue;
mod request;

use lakehouse::{Error, Name, Result};
use serde_json::Value;

pub use queue::Message;
pub use request::{Request, body_of};

/// What a Lambda was called with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Messages of a queue, in its order.
    Batch(Vec<Message>),
    /// What happened to objects, told without a queue.
    Told(Content),
    /// Something to be done.
    Asked(Request),
}

/// What a message or a direct call tells of objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Objects that are new.
    Objects(Vec<Notice>),
    /// Nothing to be done, for the reason given.
    Ignored(String),
    /// Nobody knows what, for the reason given.
    Unreadable(String),
}

/// An object that is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What its key is relative to.
    pub origin: Origin,
    /// Its key, decoded.
    pub key: String,
    /// When it was written, in microseconds since the epoch, if that is told.
    pub delivered_at_us: Option<i64>,
}

/// What an object's key is relative to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A bucket.
    Bucket(String),
    /// The lake, and the object is of this table.
    Table(Name),
}

impl Event {
    /// Reads an event.
    ///
    /// # Errors
    /// `Invalid` if it is of no kind that is known; the message says which are.
    pub fn parse(event: Value) -> Result<Self> {
        if queue::is_batch(&event) {
            return queue::messages(event).map(Self::Batch);
        }
        match notice::content(&event) {
            Some(Content::Unreadable(reason)) => Err(Error::invalid(format!("the event can't be read: {reason}"))),
            Some(content) => Ok(Self::Told(content)),
            None => request::parse(event).map(Self::Asked),
        }
    }
}

#[cfg(test)]
mod tests;
