//! From frames to a receipt: what ingests and streams have in common.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use lakehouse::{Clock, Error, Name, Result};
use proto::Receipt;
use proto::frame::{Compression, FRAME_BYTES_MAX, FRAMES_PER_BATCH_MAX, FrameOrigin};

use tokio::sync::Semaphore;

use super::accepted::{AcceptedIngest, AcceptedIngests};
use super::billing::Billing;
use super::framing::{self, Framing};
use super::shipping::Shipping;
use super::underway::{Parcel, Underway};
use crate::delivery::CALL_BYTES_MAX;
use crate::engine::batch_bytes;

/// Rows of at most this many bytes in memory are framed where they are; more on a thread of their own.
const FRAMED_AT_ONCE_BYTES: usize = 64 << 10;

/// What all ingests of a door share.
pub(super) struct Shared {
    pub(super) shipping: Shipping,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) compression: Compression,
    pub(super) accepted: Arc<AcceptedIngests>,
    pub(super) billing: Arc<Billing>,
    /// How many threads may frame rows at once.
    pub(super) framings: Arc<Semaphore>,
    /// The newest time that a frame was given.
    pub(super) last_received_us: AtomicI64,
}

impl Shared {
    /// A time for a frame: no two have the same, so frames have an order even if the clock jumps.
    fn received_us(&self) -> i64 {
        let now_us = self.clock.now_us();
        let previous = self.last_received_us.fetch_max(now_us, Ordering::SeqCst);
        if previous < now_us { now_us } else { self.last_received_us.fetch_add(1, Ordering::SeqCst) + 1 }
    }
}

/// Numbers the frames of some rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbering {
    pub(super) first: u64,
    /// Where numbers end that may be used; the number that follows the last frame, if there is an end.
    pub(super) end: Option<u64>,
    /// Whether no frames follow in the ingest.
    pub(super) is_last: bool,
}

/// An encoded frame, and its rows.
struct Encoded {
    bytes: Bytes,
    rows: u64,
}

/// The rows of one ingest on their way.
pub(super) struct Sending {
    shared: Arc<Shared>,
    table: Name,
    schema: SchemaRef,
    /// What each frame costs beside its rows, in bytes.
    fixed: usize,
    underway: Underway,
    receipt: Receipt,
    /// The newest batch that is kept and was not taken yet.
    completed: Option<u64>,
    accepted_at_us: i64,
}

impl Sending {
    /// # Errors
    /// `Invalid` if the schema is too large to come with each frame.
    pub(super) fn new(shared: Arc<Shared>, table: Name, schema: SchemaRef, ingest_id: String) -> Result<Self> {
        let receipt = Receipt { ingest_id, table: table.to_string(), ..Receipt::default() };
        let fixed = framing::fixed_bytes(&origin(&receipt, 0), &schema, shared.compression)?;
        let underway = Underway::default();
        Ok(Self { shared, table, schema, fixed, underway, receipt, completed: None, accepted_at_us: 0 })
    }

    /// What is kept so far.
    pub(super) fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// Frames rows and sends them, a call's worth at a time. Gives the number of frames; the batch `completes` is kept
    /// once they are. If it fails or is dropped, some of them may have been sent.
    pub(super) async fn send(
        &mut self,
        rows: Vec<RecordBatch>,
        numbering: Numbering,
        completes: Option<u64>,
    ) -> Result<u64> {
        let row_bytes: usize = rows.iter().map(batch_bytes).sum();
        let row_count: usize = rows.iter().map(RecordBatch::num_rows).sum();
        let average = (row_bytes / row_count.max(1)) as u64;
        let (origin, schema) = (origin(&self.receipt, numbering.first), Arc::clone(&self.schema));
        let framing = Framing::new(origin, schema, rows, self.shared.compression, self.fixed);
        let mut work = Work { framing, numbering, number: numbering.first };
        loop {
            self.underway.check()?;
            let (rest, frames) = self.encode(work, row_bytes).await?;
            work = rest;
            let rows = frames.iter().map(|frame| frame.rows).sum();
            let frames: Vec<Bytes> = frames.into_iter().map(|frame| frame.bytes).collect();
            let bytes = frames.iter().map(|frame| frame.len() as u64).sum();
            let count = frames.len() as u64;
            let shipment = self.shared.shipping.ship(&self.table, frames).await?;
            let is_done = work.framing.is_done();
            let completes = completes.filter(|_| is_done);
            self.underway.add(Parcel { shipment, rows, row_bytes: rows * average, frames: count, bytes, completes });
            if is_done {
                return Ok(work.number - numbering.first);
            }
        }
    }

    async fn encode(&self, mut work: Work, row_bytes: usize) -> Result<(Work, Vec<Encoded>)> {
        let shared = Arc::clone(&self.shared);
        if row_bytes <= FRAMED_AT_ONCE_BYTES {
            let frames = work.encode(&shared)?;
            return Ok((work, frames));
        }
        let turn = Arc::clone(&self.shared.framings).acquire_owned().await;
        let encoding = tokio::task::spawn_blocking(move || {
            let frames = work.encode(&shared)?;
            drop(turn);
            Ok((work, frames))
        });
        encoding.await.map_err(|error| Error::internal("the thread that frames rows died").because(error))?
    }

    /// The newest batch that is kept by now, if it was not taken before.
    pub(super) fn take_completed(&mut self) -> Option<u64> {
        self.completed.take()
    }

    /// Notes what is kept by now, without waiting.
    pub(super) fn settle_ready(&mut self) -> Result<()> {
        while let Some(parcel) = self.underway.ready()? {
            self.note(parcel);
        }
        Ok(())
    }

    /// Waits for the oldest parcel under way, for ever if there is none. May be dropped and called again.
    pub(super) async fn settle_next(&mut self) -> Result<()> {
        let parcel = self.underway.next().await?;
        self.note(parcel);
        Ok(())
    }

    /// Waits for all that is under way.
    pub(super) async fn settle_all(&mut self) -> Result<()> {
        while !self.underway.is_empty() {
            self.settle_next().await?;
        }
        self.underway.check()
    }

    fn note(&mut self, parcel: Parcel) {
        self.completed = parcel.completes.or(self.completed);
        self.receipt.rows += parcel.rows;
        self.receipt.frames += parcel.frames;
        self.receipt.bytes += parcel.bytes;
        self.shared.billing.kept(&self.table, parcel.rows, parcel.row_bytes);
        self.note_receipt();
    }

    /// Notes what is kept so far.
    pub(super) fn note_receipt(&mut self) {
        if self.accepted_at_us == 0 {
            self.accepted_at_us = self.shared.clock.now_us();
        }
        let accepted = AcceptedIngest { receipt: self.receipt.clone(), accepted_at_us: self.accepted_at_us };
        self.shared.accepted.note(accepted);
    }
}

fn origin(receipt: &Receipt, frame: u64) -> FrameOrigin {
    FrameOrigin { table: receipt.table.clone(), ingest_id: receipt.ingest_id.clone(), frame, received_at_us: 0 }
}

/// Rows on their way to frames, and the number of the next frame.
struct Work {
    framing: Framing,
    numbering: Numbering,
    number: u64,
}

impl Work {
    /// The next frames, a call's worth.
    fn encode(&mut self, shared: &Shared) -> Result<Vec<Encoded>> {
        // One more frame than is aimed at still fits the call.
        let mut frames = self.framing.next(CALL_BYTES_MAX - FRAME_BYTES_MAX)?;
        if frames.is_empty() {
            // Without a frame, the batch's number would be missing for ever.
            frames.push(self.framing.empty()?);
        }
        let is_done = self.framing.is_done();
        let last = frames.len() - 1;
        let mut encoded = Vec::with_capacity(frames.len());
        for (position, mut frame) in frames.into_iter().enumerate() {
            let number = self.number;
            if self.numbering.end.is_some_and(|end| number >= end) {
                return Err(Error::invalid(format!(
                    "a batch of the stream into table {:?} makes more than {FRAMES_PER_BATCH_MAX} frames; send smaller \
                     batches",
                    frame.header.table
                )));
            }
            self.number += 1;
            frame.header.frame = number;
            frame.header.received_at_us = shared.received_us();
            if is_done && position == last {
                frame.header.next_frame = self.numbering.end.unwrap_or_default();
                frame.header.is_last = self.numbering.is_last;
            }
            let bytes = frame.encode().map_err(|error| Error::internal("a frame can't be encoded").because(error))?;
            encoded.push(Encoded { rows: frame.header.rows, bytes });
        }
        Ok(encoded)
    }
}
