//! The delivery stream: it takes over rows that a producer was told are safe.
//!
//! A producer gets its receipt only when its rows lie somewhere that outlives this process (*acked means kept*). Bronze
//! objects are far too large to write one for each small ingest, so a stream stands between: it keeps each record at
//! once, and gathers records into objects at its leisure.
//!
//! ```text
//!  ingest ──put(table, records)──► DeliveryStream ──by size or age──► bronze object ──► queue ──► bronze-to-silver
//!         ◄──────── Ok: kept ─────
//! ```
//!
//! [`DeliveryStream`] is the seam. On a laptop [`LocalDelivery`] keeps records in journal files below the data folder,
//! and [`LocalQueue`] tells which objects wait to be merged; on AWS, [`Firehose`] hands them to the service of that name.
//! Each implementation runs the same contract suite.
//!
//! This module knows tables by name and records by length. What lies in a record is looked at in one place only: after a
//! crash, to find where the last whole frame ends.

#[cfg(test)]
mod contract;
mod durable;
mod firehose;
mod local;
mod lock;
mod queue;

use async_trait::async_trait;
use bytes::Bytes;
use lakehouse::{Error, Name, Result};

pub use firehose::{Firehose, FirehoseOptions, FirehoseStats, StreamNames};
#[cfg(test)]
pub(crate) use firehose::{client_of, fake};
pub use local::{DeliveryStats, LocalDelivery, LocalDeliveryOptions};
pub use queue::{LocalQueue, QueuedObject};

/// The largest record, in bytes: 1,000 KiB, "before base64-encoding"
/// (<https://docs.aws.amazon.com/firehose/latest/dev/limits.html>).
pub const RECORD_BYTES_MAX: usize = 1_000 * 1024;

/// The most records in one [`put`](DeliveryStream::put): PutRecordBatch takes up to 500
/// (<https://docs.aws.amazon.com/firehose/latest/dev/limits.html>).
pub const CALL_RECORDS_MAX: usize = 500;

/// The most bytes in one [`put`](DeliveryStream::put): PutRecordBatch takes up to 4 MiB
/// (<https://docs.aws.amazon.com/firehose/latest/dev/limits.html>).
pub const CALL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a record is billed in multiples of, in bytes: 5 KB (<https://aws.amazon.com/firehose/pricing/>).
pub const BILLED_UNIT_BYTES: u64 = 5 * 1024;

const _: () = assert!(proto::frame::FRAME_BYTES_MAX <= RECORD_BYTES_MAX, "each frame fits a record");

/// Takes records for tables, keeps them, and delivers them to bronze, in the order in which a producer put them.
#[async_trait]
pub trait DeliveryStream: Send + Sync + 'static {
    /// Keeps `records`, each made of whole frames: at most [`CALL_RECORDS_MAX`] records of at most
    /// [`RECORD_BYTES_MAX`], together at most [`CALL_BYTES_MAX`]. `Ok` only once every record is kept.
    ///
    /// A record may arrive in bronze more than once, and after an error some of the records may have been kept: send
    /// them all again, under the same ingest id and frame numbers, and silver takes each frame once.
    ///
    /// # Errors
    /// `Exhausted` over a limit, `NotFound` for a table that the stream does not carry (as far as it knows), `Unavailable` if records can't
    /// be kept now, or the stream is closed.
    async fn put(&self, table: &Name, records: Vec<Bytes>) -> Result<()>;

    /// How many calls for a table may be under way at once and still all get on. With more than one, they may overtake
    /// each other.
    fn calls_at_once(&self, _table: &Name) -> usize {
        1
    }

    /// Refuses new records, and returns when what was accepted lies where it outlives this process: in bronze, or with
    /// a service that delivers by itself. Closing twice is fine.
    ///
    /// # Errors
    /// `Unavailable` if something could not be delivered; it stays kept.
    async fn close(&self) -> Result<()>;
}

/// Checks one call against the limits that all streams share, and gives its size in bytes.
fn check_call(records: &[Bytes]) -> Result<usize> {
    if let Some((n, record)) = records.iter().enumerate().find(|(_, record)| record.len() > RECORD_BYTES_MAX) {
        return Err(Error::exhausted(format!(
            "record {n} of a delivery call has {} bytes; the most is {RECORD_BYTES_MAX}: put fewer rows in a frame",
            record.len()
        )));
    }
    if records.len() > CALL_RECORDS_MAX {
        return Err(Error::exhausted(format!(
            "a delivery call has {} records; the most is {CALL_RECORDS_MAX}: send them in several calls",
            records.len()
        )));
    }
    let bytes = records.iter().map(Bytes::len).sum();
    if bytes > CALL_BYTES_MAX {
        return Err(Error::exhausted(format!(
            "a delivery call has {bytes} bytes; the most is {CALL_BYTES_MAX}: send its records in several calls"
        )));
    }
    Ok(bytes)
}
