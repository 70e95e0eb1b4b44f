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
        let numbering = Numbering { first: self.next_frame, next: 0, is_last };
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
        let mut pieces = cut(batch);
        if pieces.len() > 1
            && let Some(last) = pieces.last_mut()
        {
            *last = alone(last);
        }
        for piece in pieces {
            if let Some(full) = self.gathered.add(piece) {
                self.send(full, false).await?;
            }
        }
        self.sending.settle_ready()?;
        Ok(rejected)
    }

    async fn finish(&mut self) -> Result<Receipt> {
        let rest = self.gathered.take();
        if !rest.is_empty() {
            self.send(rest, true).await?;
        }
        self.sending.settle_all().await?;
        if self.next_frame == 0 {
            // Without a frame, nothing else tells of it.
            self.sending.note_receipt();
        }
        Ok(self.sending.receipt().clone())
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
}

impl Gathered {
    /// Takes some rows. If they are too many together with those that wait, gives these. So something waits at the end
    /// of every ingest that has rows.
    fn add(&mut self, piece: RecordBatch) -> Option<Vec<RecordBatch>> {
        let bytes = batch_bytes(&piece);
        let is_full = self.bytes + bytes > GATHERED_BYTES || self.rows + piece.num_rows() > GATHERED_ROWS;
        let full = (is_full && !self.batches.is_empty()).then(|| self.take());
        self.bytes += bytes;
        self.rows += piece.num_rows();
        self.batches.push(piece);
        full
    }

    fn take(&mut self) -> Vec<RecordBatch> {
        (self.bytes, self.rows) = (0, 0);
        std::mem::take(&mut self.batches)
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
