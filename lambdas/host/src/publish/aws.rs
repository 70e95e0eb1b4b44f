//! EventBridge and SQS: the only module that names the AWS SDK.
//!
//! Clients are made at their first use, so that a call that tells nobody anything does not pay for them at its start.
//! The SDK tries a call again if that can help; what one call leaves undone in part is an error here.

use std::time::Duration;

use async_trait::async_trait;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use lakehouse::{Context as _, Error, Kind, Result};
use tokio::sync::OnceCell;

use super::{Bus, BusEvent, Queue, QueueMessage, SOURCE};

/// The most events of one call (<https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html>).
const EVENTS_PER_CALL_MAX: usize = 10;

/// The most messages of one call
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>).
const MESSAGES_PER_CALL_MAX: usize = 10;

/// How long a call may take, with all its tries.
const CALL_SECONDS_MAX: u64 = 15;

/// How long one try of it may take.
const TRY_SECONDS_MAX: u64 = 5;

async fn config() -> SdkConfig {
    let timeouts = aws_config::timeout::TimeoutConfig::builder()
        .operation_timeout(Duration::from_secs(CALL_SECONDS_MAX))
        .operation_attempt_timeout(Duration::from_secs(TRY_SECONDS_MAX))
        .build();
    aws_config::defaults(BehaviorVersion::latest()).timeout_config(timeouts).load().await
}

/// A bus of EventBridge.
pub struct EventBridge {
    bus: String,
    client: OnceCell<aws_sdk_eventbridge::Client>,
}

impl EventBridge {
    /// The bus with this name or ARN.
    pub fn new(bus: impl Into<String>) -> Self {
        Self { bus: bus.into(), client: OnceCell::new() }
    }
}

#[async_trait]
impl Bus for EventBridge {
    async fn put(&self, events: &[BusEvent]) -> Result<()> {
        let client = self.client.get_or_init(|| async { aws_sdk_eventbridge::Client::new(&config().await) }).await;
        for events in events.chunks(EVENTS_PER_CALL_MAX) {
            let entries = events.iter().map(|event| {
                PutEventsRequestEntry::builder()
                    .event_bus_name(&self.bus)
                    .source(SOURCE)
                    .detail_type(&event.detail_type)
                    .detail(event.detail.to_string())
                    .build()
            });
            let sent = client.put_events().set_entries(Some(entries.collect())).send().await;
            let sent = sent.context(Kind::Unavailable, || {
                format!("can't send events to bus {:?}; see that it is there and events:PutEvents is granted", self.bus)
            })?;
            if let Some(failed) = sent.entries().iter().find(|entry| entry.error_code().is_some()) {
                return Err(Error::unavailable(format!(
                    "bus {:?} did not take {} of {} events: {} {}",
                    self.bus,
                    sent.failed_entry_count(),
                    events.len(),
                    failed.error_code().unwrap_or_default(),
                    failed.error_message().unwrap_or_default()
                )));
            }
        }
        Ok(())
    }
}

/// A FIFO queue of SQS.
pub struct Sqs {
    url: String,
    client: OnceCell<aws_sdk_sqs::Client>,
}

impl Sqs {
    /// The queue with this URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), client: OnceCell::new() }
    }
}

#[async_trait]
impl Queue for Sqs {
    async fn send(&self, messages: &[QueueMessage]) -> Result<()> {
        let client = self.client.get_or_init(|| async { aws_sdk_sqs::Client::new(&config().await) }).await;
        for messages in messages.chunks(MESSAGES_PER_CALL_MAX) {
            let entries = messages.iter().enumerate().map(|(position, message)| {
                SendMessageBatchRequestEntry::builder()
                    .id(position.to_string())
                    .message_group_id(&message.group)
                    .message_deduplication_id(&message.deduplication)
                    .message_body(&message.body)
                    .build()
            });
            let entries = entries
                .collect::<Result<Vec<_>, _>>()
                .context(Kind::Internal, || "a message of the queue can't be made".to_owned())?;
            let sent = client.send_message_batch().queue_url(&self.url).set_entries(Some(entries)).send().await;
            let sent = sent.context(Kind::Unavailable, || {
                format!("can't send to queue {}; see that it is there and sqs:SendMessage is granted", self.url)
            })?;
            if let Some(failed) = sent.failed().first() {
                return Err(Error::unavailable(format!(
                    "queue {} did not take {} of {} messages: {} {}",
                    self.url,
                    sent.failed().len(),
                    messages.len(),
                    failed.code(),
                    failed.message().unwrap_or_default()
                )));
            }
        }
        Ok(())
    }
}
