//! An ingest that has an end: its frames are numbered one by one, its last one says so.

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use async_trait::async_trait;
use lakehouse::Result;
use proto::Receipt;

use super::intake::Intake;
use super::sending::{Numbering, Sending};
use crate::door::{OpenIngest, Rejected};
use crate::engine::batch_bytes;

/// Bytes in memory of the rows that are framed together.
const GATHERED_BYTES: usize = 2 << 20;

/// The most rows that are framed together.
const GATHERED_ROWS: usize = 64 << 10;

/// An ingest under way.
pub(super) struct Ingest {
    intake: Intake,
    sending: Sending,
    gathered: Gathered,
    next_frame: u64,
    rows_seen: u64,
}

impl Ingest {
    pub(super) fn new(intake: Intake, sending: Sending) -> Self {
        Self { intake, sending, gathered: Gathered::default(), next_frame: 0, rows_seen: 0 }
    }

    async fn send(&mut self, rows: Vec<RecordBatch>, is_last: bool) -> Result<()> {
        let numbering = Numbering { first: self.next_frame, end: None, is_last };
        self.next_frame += self.sending.send(rows, numbering, None).await?;
        Ok(())
    }
}

#[async_trait]
impl OpenIngest for Ingest {
    fn ingest_id(&self) -> &str {
        &self.sending.receipt().ingest_id
    }

    fn check(&self, batch: &RecordBatch) -> Result<Rejected> {
        self.intake.check(batch)
    }

    async fn push(&mut self, batch: RecordBatch) -> Result<Rejected> {
        let before = self.rows_seen;
        self.rows_seen += batch.num_rows() as u64;
        let (batch, rejected) = self.intake.admit(batch, |row| format!("row {}", before + row + 1))?;
        for piece in cut(batch) {
            if let Some(full) = self.gathered.add(piece) {
                self.send(full, false).await?;
            }
        }
        self.gathered.stand_alone();
        self.sending.settle_ready()?;
        Ok(rejected)
    }

    async fn finish(&mut self) -> Result<Receipt> {
        let rest = self.gathered.take();
        // If nothing waits, a frame without rows says that it was the last one.
        if !rest.is_empty() || self.next_frame > 0 {
            self.send(rest, true).await?;
        }
        self.sending.settle_all().await?;
        if self.next_frame == 0 {
            // Without a frame, nothing else tells of it.
            self.sending.note_receipt();
        }
        Ok(self.sending.receipt().clone())
    }

    async fn give_up(&mut self) -> u64 {
        // A parcel that is not kept ends the wait: those behind it don't count without it.
        let _ = self.sending.settle_all().await;
        self.accepted_rows()
    }

    fn accepted_rows(&self) -> u64 {
        self.sending.receipt().rows
    }
}

/// Rows that wait to be framed together.
#[derive(Default)]
struct Gathered {
    batches: Vec<RecordBatch>,
    bytes: usize,
    rows: usize,
    /// How many of the batches keep nothing alive but themselves.
    alone: usize,
}

impl Gathered {
    /// Takes some rows. If they are enough with those that wait, gives all of these.
    fn add(&mut self, piece: RecordBatch) -> Option<Vec<RecordBatch>> {
        self.bytes += batch_bytes(&piece);
        self.rows += piece.num_rows();
        self.batches.push(piece);
        (self.bytes >= GATHERED_BYTES || self.rows >= GATHERED_ROWS).then(|| self.take())
    }

    fn take(&mut self) -> Vec<RecordBatch> {
        (self.bytes, self.rows, self.alone) = (0, 0, 0);
        std::mem::take(&mut self.batches)
    }

    /// Copies what waits, unless it was before: a slice keeps the whole message alive that it came in.
    fn stand_alone(&mut self) {
        for batch in self.batches.iter_mut().skip(self.alone) {
            *batch = alone(batch);
        }
        self.alone = self.batches.len();
    }
}

/// Cuts a batch into pieces of about [`GATHERED_BYTES`]; none of no rows.
fn cut(batch: RecordBatch) -> Vec<RecordBatch> {
    let rows = batch.num_rows();
    if rows == 0 {
        return Vec::new();
    }
    let row_bytes = batch_bytes(&batch).div_ceil(rows).max(1);
    let piece = (GATHERED_BYTES / row_bytes).clamp(1, GATHERED_ROWS);
    (0..rows).step_by(piece).map(|start| batch.slice(start, piece.min(rows - start))).collect()
}

/// A copy of some rows that does not keep the batch alive that they are a slice of.
fn alone(piece: &RecordBatch) -> RecordBatch {
    let rows = UInt32Array::from_iter_values(0..u32::try_from(piece.num_rows()).unwrap_or(u32::MAX));
    // Not every type can be copied so; what can't stays a slice until it is framed.
    take_record_batch(piece, &rows).unwrap_or_else(|_| piece.clone())
}
