//! The delivery stream of AWS: Kinesis Data Firehose, by PutRecordBatch.
//!
//! A record that the service accepted is kept, and the service makes bronze objects of records at its leisure: by size
//! or age, as each delivery stream was set up. Each table has a delivery stream of its own, or several, since one takes
//! only so much ([`StreamNames`]).
//!
//! ```text
//!  put(table, records) ──► the table's lane with the fewest puts ──► turn ──► call ──► all taken: Ok
//!                                                                      ▲        │
//!                                                              wait ───┘◄───────┤ some failed: these again, first
//!                                                                               └ for good, or too late: error
//! ```
//!
//! * A call can fail for some of its records, and these alone are sent again (`load`).
//! * A stream that is full is found by its answers, and given what it takes from then on (`pace`).
//! * A call whose answer is lost may have landed. It is made again, so a record can come twice: frames are numbered, and
//!   silver takes each once.
//! * A table that has no stream is known by the service's answer, not before.

#[cfg(test)]
pub(crate) mod fake;
mod lane;
mod load;
mod names;
mod pace;
mod service;
#[cfg(test)]
mod tests;
mod traffic;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fastrand::Rng;
use lakehouse::{Error, Kind, Name, Result};
use tokio::time::{Instant, timeout};

use super::{DeliveryStream, check_call};
use lane::{Lane, Terms, Trouble};
use load::{Load, Taken};
use pace::{Backoff, Pace};
use service::{Client, Service};
use traffic::Traffic;

#[cfg(test)]
pub(crate) use service::client_of;

pub use names::StreamNames;

/// How long a put may take by default.
pub const PUT_DEADLINE: Duration = Duration::from_secs(60);

/// The longest that a put may be given.
pub const PUT_DEADLINE_MAX: Duration = Duration::from_secs(3_600);

/// How long one call may take by default: 4 MiB at 3 Mbit/s.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// The ceiling of the first wait after nothing was taken, by default.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// The highest ceiling of such a wait, by default.
pub const BACKOFF_MOST: Duration = Duration::from_secs(5);

/// How records get to their delivery streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirehoseOptions {
    /// How each table's streams are named.
    pub streams: StreamNames,
    /// How long a put may take, its waits included; at most [`PUT_DEADLINE_MAX`].
    pub deadline: Duration,
    /// How long one call may take.
    pub call_timeout: Duration,
    /// The ceiling of the first wait after nothing was taken; it doubles from wait to wait.
    pub backoff_first: Duration,
    /// The highest ceiling of such a wait.
    pub backoff_most: Duration,
}

impl FirehoseOptions {
    /// The defaults for these streams.
    pub fn new(streams: StreamNames) -> Self {
        Self {
            streams,
            deadline: PUT_DEADLINE,
            call_timeout: CALL_TIMEOUT,
            backoff_first: BACKOFF_FIRST,
            backoff_most: BACKOFF_MOST,
        }
    }
}

/// What was sent since the stream was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FirehoseStats {
    /// Records that the service accepted, each counted once.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their bytes as they are billed: each record rounded up to [`BILLED_UNIT_BYTES`](super::BILLED_UNIT_BYTES). A
    /// record that landed more than once, since an answer was lost, is billed each time; that can't be seen here.
    pub billed_bytes: u64,
    /// Calls made.
    pub calls: u64,
    /// Records sent again, counted each time.
    pub resent_records: u64,
    /// Calls that found a stream full.
    pub throttles: u64,
}

/// Counts for [`FirehoseStats`].
#[derive(Debug, Default)]
struct Counters(Mutex<FirehoseStats>);

/// A table's way to its streams.
struct Lanes {
    lanes: Vec<Lane>,
    turns: AtomicUsize,
}

/// A [`DeliveryStream`] over delivery streams of AWS.
pub struct Firehose {
    service: Service,
    options: FirehoseOptions,
    rng: Mutex<Rng>,
    lanes: Mutex<HashMap<Name, Arc<Lanes>>>,
    traffic: Traffic,
    counters: Counters,
}

impl Firehose {
    /// Connects as all AWS tools do: endpoint (`AWS_ENDPOINT_URL_FIREHOSE`, `AWS_ENDPOINT_URL`), region and credentials
    /// from the environment, the AWS profile, or the machine's or container's role.
    ///
    /// # Errors
    /// `Invalid` without a region, `Unavailable` without credentials. Whether the streams exist is seen with the first
    /// put.
    pub async fn connect(options: FirehoseOptions) -> Result<Self> {
        let service = Service::connect(options.call_timeout).await?;
        Ok(Self::over(service, options, Rng::new()))
    }

    /// Uses `client`, whose own retries should be off, and draws waits from `rng`.
    pub fn with_client(client: Client, options: FirehoseOptions, rng: Rng) -> Self {
        Self::over(Service::new(client), options, rng)
    }

    fn over(service: Service, mut options: FirehoseOptions, rng: Rng) -> Self {
        options.deadline = options.deadline.min(PUT_DEADLINE_MAX);
        Self {
            service,
            options,
            rng: Mutex::new(rng),
            lanes: Mutex::default(),
            traffic: Traffic::default(),
            counters: Counters::default(),
        }
    }

    /// What was sent so far.
    pub fn stats(&self) -> FirehoseStats {
        *self.counters.lock()
    }

    /// The lanes of a table; they are made with its first put.
    fn lanes(&self, table: &Name) -> Result<Arc<Lanes>> {
        let mut all = self.lock_lanes();
        if let Some(lanes) = all.get(table) {
            return Ok(lanes.clone());
        }
        let backoff = Backoff { first: self.options.backoff_first, most: self.options.backoff_most };
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        let names = self.options.streams.of(table)?;
        let lanes = names.into_iter().map(|stream| Lane::new(stream, Pace::new(backoff, rng.fork()))).collect();
        let lanes = Arc::new(Lanes { lanes, turns: AtomicUsize::new(0) });
        all.insert(table.clone(), lanes.clone());
        Ok(lanes)
    }

    fn lock_lanes(&self) -> MutexGuard<'_, HashMap<Name, Arc<Lanes>>> {
        // No code panics while it holds the lock, and each change is a single insert or remove.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl DeliveryStream for Firehose {
    async fn put(&self, table: &Name, records: Vec<Bytes>) -> Result<()> {
        check_call(&records)?;
        let Some(_under_way) = self.traffic.begin() else {
            return Err(Error::unavailable("the delivery stream is closed; send the records to another server"));
        };
        if records.is_empty() {
            return Ok(());
        }
        let FirehoseOptions { deadline: patience, call_timeout, .. } = self.options;
        let terms = Terms { deadline: Instant::now() + patience, patience, call_timeout };
        let lanes = self.lanes(table)?;
        let Some(lane) = lanes.choose() else {
            return Err(Error::internal(format!("table {table} has no delivery stream")));
        };
        let outcome = lane.put(&self.service, Load::new(records), terms, &self.counters).await;
        outcome.inspect_err(|error| {
            if error.kind() == Kind::NotFound {
                // Names that lead nowhere are not kept.
                self.lock_lanes().remove(table);
            }
            tracing::warn!("records of table {table} were not delivered: {}", error.chain());
        })
    }

    fn calls_at_once(&self, _table: &Name) -> usize {
        self.options.streams.streams_per_table()
    }

    /// What the service accepted it delivers by itself: waits for the puts under way, not for bronze.
    async fn close(&self) -> Result<()> {
        self.traffic.close();
        tracing::info!(stats = ?self.stats(), "handing over to Firehose ends");
        if timeout(self.options.deadline, self.traffic.still()).await.is_err() {
            return Err(Error::unavailable(format!(
                "{} puts were still under way after {:?}; their producers were told nothing, and send again",
                self.traffic.under_way(),
                self.options.deadline
            )));
        }
        Ok(())
    }
}

impl Lanes {
    /// The lane with the fewest puts; among equals, each in turn.
    fn choose(&self) -> Option<&Lane> {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed).checked_rem(self.lanes.len())?;
        let (before, from) = self.lanes.split_at_checked(turn)?;
        from.iter().chain(before).min_by_key(|lane| lane.puts())
    }
}

impl Counters {
    fn called(&self, resent: u64) {
        let mut stats = self.lock();
        stats.calls += 1;
        stats.resent_records += resent;
    }

    fn taken(&self, taken: Taken) {
        let mut stats = self.lock();
        stats.records += taken.records;
        stats.bytes += taken.bytes as u64;
        stats.billed_bytes += taken.billed_bytes;
    }

    fn troubled(&self, trouble: Trouble) {
        self.lock().throttles += u64::from(trouble == Trouble::Full);
    }

    fn lock(&self) -> MutexGuard<'_, FirehoseStats> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
