//! What a Lambda tells others: events to a bus, messages to a FIFO queue.
//!
//! The seams are two small traits; [`aws`] alone names the SDK. A commit stands whether or not its event could be sent,
//! so an [`Outbox`] keeps what could not, and sends it with the next one: a refresh that is told late is better than a
//! merge that is done twice.

pub mod aws;

use std::sync::Arc;

use async_trait::async_trait;
use lakehouse::Result;
use serde_json::Value;
use tokio::sync::Mutex;

/// The source that our events name.
pub const SOURCE: &str = "mallard";

/// The most events that wait to be sent; then the oldest are dropped, since the newest says as much of its table.
const UNSENT_MAX: usize = 100;

/// An event for a bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusEvent {
    /// What kind it is, such as `silver committed`.
    pub detail_type: String,
    /// What happened.
    pub detail: Value,
}

/// A bus that takes events.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Sends events, in order. Some may have been taken although there is an error.
    ///
    /// # Errors
    /// `Unavailable` if one was not taken.
    async fn put(&self, events: &[BusEvent]) -> Result<()>;
}

/// A message for a FIFO queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueMessage {
    /// Messages of a group are received in the order in which they were sent.
    pub group: String,
    /// A message with the same within five minutes is taken and dropped.
    pub deduplication: String,
    /// What it says.
    pub body: String,
}

impl QueueMessage {
    /// A message of `group` that is told apart from others by `key`.
    pub fn new(group: &str, key: &str, body: &Value) -> Self {
        Self { group: group.to_owned(), deduplication: fingerprint(key), body: body.to_string() }
    }
}

/// A FIFO queue that takes messages.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Sends messages, in order. Some may have been taken although there is an error.
    ///
    /// # Errors
    /// `Unavailable` if one was not taken.
    async fn send(&self, messages: &[QueueMessage]) -> Result<()>;
}

/// A key as 32 hexadecimal digits: FNV-1a of 128 bits, since a deduplication id has at most 128 characters
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>).
fn fingerprint(key: &str) -> String {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = key.bytes().fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
    format!("{hash:032x}")
}

/// Events on their way to a bus.
pub struct Outbox {
    bus: Option<Arc<dyn Bus>>,
    unsent: Mutex<Vec<BusEvent>>,
}

impl Outbox {
    /// An outbox to `bus`; without one, nothing is told.
    pub fn new(bus: Option<Arc<dyn Bus>>) -> Self {
        Self { bus, unsent: Mutex::default() }
    }

    /// Whether there is anyone to tell.
    pub fn is_open(&self) -> bool {
        self.bus.is_some()
    }

    /// Sends an event, behind those that could not be sent before. Gives how many still wait.
    pub async fn post(&self, event: BusEvent) -> usize {
        if self.is_open() {
            self.unsent.lock().await.push(event);
        }
        self.flush().await
    }

    /// Sends what waits. Gives how many still wait.
    pub async fn flush(&self) -> usize {
        let Some(bus) = &self.bus else { return 0 };
        let mut unsent = self.unsent.lock().await;
        if unsent.is_empty() {
            return 0;
        }
        match bus.put(&unsent).await {
            Ok(()) => unsent.clear(),
            Err(error) => {
                tracing::error!(events = unsent.len(), error = error.chain(), "events can't be sent; they wait");
                let excess = unsent.len().saturating_sub(UNSENT_MAX);
                unsent.drain(..excess);
            }
        }
        unsent.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as StdMutex;

    use lakehouse::Error;
    use serde_json::json;

    use super::*;

    /// A bus that fails as often as it is told to, and remembers.
    #[derive(Default)]
    struct FaultyBus {
        failures: StdMutex<usize>,
        taken: StdMutex<Vec<BusEvent>>,
    }

    #[async_trait]
    impl Bus for FaultyBus {
        async fn put(&self, events: &[BusEvent]) -> Result<()> {
            let mut failures = self.failures.lock().unwrap();
            if *failures > 0 {
                *failures -= 1;
                return Err(Error::unavailable("the bus is down"));
            }
            self.taken.lock().unwrap().extend_from_slice(events);
            Ok(())
        }
    }

    fn event(version: usize) -> BusEvent {
        BusEvent { detail_type: "silver committed".to_owned(), detail: json!({ "version": version }) }
    }

    #[tokio::test]
    async fn events_that_could_not_be_sent_go_before_the_next_one() {
        let bus = Arc::new(FaultyBus { failures: StdMutex::new(2), ..FaultyBus::default() });
        let outbox = Outbox::new(Some(bus.clone()));
        assert_eq!(outbox.post(event(1)).await, 1);
        assert_eq!(outbox.post(event(2)).await, 2);
        assert_eq!(outbox.post(event(3)).await, 0);
        assert_eq!(*bus.taken.lock().unwrap(), [event(1), event(2), event(3)]);
        assert_eq!(outbox.flush().await, 0);
        assert_eq!(bus.taken.lock().unwrap().len(), 3, "sent once");
    }

    #[tokio::test]
    async fn the_oldest_events_go_when_too_many_wait() {
        let bus = Arc::new(FaultyBus { failures: StdMutex::new(UNSENT_MAX + 1), ..FaultyBus::default() });
        let outbox = Outbox::new(Some(bus.clone()));
        for version in 0..=UNSENT_MAX {
            outbox.post(event(version)).await;
        }
        assert_eq!(outbox.flush().await, 0);
        assert_eq!(bus.taken.lock().unwrap().first(), Some(&event(1)));
    }

    #[tokio::test]
    async fn without_a_bus_nothing_waits() {
        assert_eq!(Outbox::new(None).post(event(1)).await, 0);
    }

    #[test]
    fn keys_have_fingerprints_of_a_length_that_the_queue_takes() {
        // From the reference of the hash.
        assert_eq!(fingerprint(""), "6c62272e07bb014262b821756295c58d");
        assert_eq!(fingerprint("a"), "d228cb696f1a8caf78912b704e4a8964");
        assert_ne!(fingerprint("bronze/t/1"), fingerprint("bronze/t/2"));
    }
}
