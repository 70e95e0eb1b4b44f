//! From frames to a receipt: what ingests and streams have in common.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use lakehouse::{Clock, Error, Kind, Name, Result};
use proto::Receipt;
use proto::frame::{Compression, Frame, FrameOrigin};

use super::accepted::{AcceptedIngest, AcceptedIngests};
use super::billing::Billing;
use super::framing;
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

/// Numbers the frames of some rows: the first frame's number, then what the last one says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbering {
    pub(super) first: u64,
    /// The number of the frame that follows; 0: the next number.
    pub(super) next: u64,
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
    underway: Underway,
    receipt: Receipt,
    accepted_at_us: i64,
}

impl Sending {
    pub(super) fn new(shared: Arc<Shared>, table: Name, schema: SchemaRef, ingest_id: String) -> Self {
        let receipt = Receipt { ingest_id, table: table.to_string(), ..Receipt::default() };
        Self { shared, table, schema, underway: Underway::default(), receipt, accepted_at_us: 0 }
    }

    /// What is kept so far.
    pub(super) fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// Frames rows and sends them. Gives the number of frames; the batch `completes` is kept once they are.
    pub(super) async fn send(
        &mut self,
        rows: Vec<RecordBatch>,
        numbering: Numbering,
        completes: Option<u64>,
    ) -> Result<u64> {
        let row_bytes: usize = rows.iter().map(batch_bytes).sum();
        let row_count: usize = rows.iter().map(RecordBatch::num_rows).sum();
        let frames = self.encode(rows, numbering, row_bytes).await?;
        let count = frames.len() as u64;
        let average = (row_bytes / row_count.max(1)) as u64;
        let mut loads = loads(frames).into_iter().peekable();
        while let Some(load) = loads.next() {
            let rows = load.iter().map(|frame| frame.rows).sum();
            let frames: Vec<Bytes> = load.into_iter().map(|frame| frame.bytes).collect();
            let bytes = frames.iter().map(|frame| frame.len() as u64).sum();
            let count = frames.len() as u64;
            let shipment = self.shared.shipping.ship(&self.table, frames).await?;
            let completes = if loads.peek().is_none() { completes } else { None };
            self.underway.add(Parcel { shipment, rows, row_bytes: rows * average, frames: count, bytes, completes });
        }
        Ok(count)
    }

    async fn encode(&self, rows: Vec<RecordBatch>, numbering: Numbering, row_bytes: usize) -> Result<Vec<Encoded>> {
        let (schema, shared) = (Arc::clone(&self.schema), Arc::clone(&self.shared));
        let origin = FrameOrigin {
            table: self.table.to_string(),
            ingest_id: self.receipt.ingest_id.clone(),
            frame: numbering.first,
            received_at_us: 0,
        };
        let work = move || encode(&shared, &origin, &schema, rows, numbering);
        if row_bytes <= FRAMED_AT_ONCE_BYTES {
            return work();
        }
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Error::internal("the thread that frames rows died").because(error))?
    }

    /// Notes what is kept by now, without waiting. Gives the newest batch that was completed.
    pub(super) fn settle_ready(&mut self) -> Result<Option<u64>> {
        let mut completed = None;
        while let Some(parcel) = self.underway.ready()? {
            completed = parcel.completes.or(completed);
            self.note(parcel);
        }
        Ok(completed)
    }

    /// Waits for the oldest parcel under way, for ever if there is none. Gives the batch that it completed. May be
    /// dropped and called again.
    pub(super) async fn settle_next(&mut self) -> Result<Option<u64>> {
        let parcel = self.underway.next().await?;
        let completed = parcel.completes;
        self.note(parcel);
        Ok(completed)
    }

    /// Waits for all that is under way.
    pub(super) async fn settle_all(&mut self) -> Result<Option<u64>> {
        let mut completed = None;
        while !self.underway.is_empty() {
            completed = self.settle_next().await?.or(completed);
        }
        Ok(completed)
    }

    fn note(&mut self, parcel: Parcel) {
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

fn encode(
    shared: &Shared,
    origin: &FrameOrigin,
    schema: &SchemaRef,
    rows: Vec<RecordBatch>,
    numbering: Numbering,
) -> Result<Vec<Encoded>> {
    let failed = |error| Error::new(Kind::Internal, "a frame can't be encoded").because(error);
    let mut frames = framing::frames(origin, schema, rows, shared.compression)?;
    if frames.is_empty() {
        // Without a frame, the batch's number would be missing for ever.
        frames.push(Frame::from_batches(origin.clone(), schema, &[], shared.compression).map_err(failed)?);
    }
    let last = frames.len() - 1;
    let mut encoded = Vec::with_capacity(frames.len());
    for (position, mut frame) in frames.into_iter().enumerate() {
        frame.header.frame = numbering.first + position as u64;
        frame.header.received_at_us = shared.received_us();
        if position == last {
            (frame.header.next_frame, frame.header.is_last) = (numbering.next, numbering.is_last);
        }
        encoded.push(Encoded { rows: frame.header.rows, bytes: frame.encode().map_err(failed)? });
    }
    Ok(encoded)
}

/// Splits frames into what may be handed over at once.
fn loads(frames: Vec<Encoded>) -> Vec<Vec<Encoded>> {
    let mut loads: Vec<Vec<Encoded>> = Vec::new();
    let mut bytes = 0;
    for frame in frames {
        match loads.last_mut() {
            Some(load) if bytes + frame.bytes.len() <= CALL_BYTES_MAX => {
                bytes += frame.bytes.len();
                load.push(frame);
            }
            _ => {
                bytes = frame.bytes.len();
                loads.push(vec![frame]);
            }
        }
    }
    loads
}
