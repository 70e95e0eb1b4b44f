//! A stream of numbered batches, which may go on for days.
//!
//! Batch `n` makes frames numbered from `n` times [`FRAMES_PER_BATCH_MAX`] on, which follow from the batch alone: a
//! batch that is sent again, over another connection or to another server, makes the same frames again, and silver
//! takes each once.

use arrow::array::RecordBatch;
use async_trait::async_trait;
use lakehouse::{Error, Result};
use proto::Receipt;
use proto::frame::FRAMES_PER_BATCH_MAX;

use super::intake::Intake;
use super::sending::{Numbering, Sending};
use crate::door::{OpenStream, Rejected};

/// The highest number of a batch: the numbers of its frames, doubled, are kept in 63 bits.
pub const OFFSET_MAX: u64 = (1 << 40) - 1;

/// A stream under way.
pub(super) struct Stream {
    intake: Intake,
    sending: Sending,
    /// The number of the next batch; none has come before the first.
    next: Option<u64>,
}

impl Stream {
    pub(super) fn new(intake: Intake, sending: Sending) -> Self {
        Self { intake, sending, next: None }
    }

    fn check_offset(&self, offset: u64) -> Result<()> {
        let table = self.intake.table.name.as_str();
        match self.next {
            Some(next) if next != offset => Err(Error::invalid(format!(
                "batch {offset} of the stream into table {table:?} comes where batch {next} is expected; number batches \
                 one by one, and begin anew behind the last offset that was acknowledged"
            ))),
            _ if offset > OFFSET_MAX => Err(Error::invalid(format!(
                "batch {offset} of the stream into table {table:?}: the highest offset is {OFFSET_MAX}; choose another \
                 ingest id and begin at 0"
            ))),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl OpenStream for Stream {
    fn ingest_id(&self) -> &str {
        &self.sending.receipt().ingest_id
    }

    async fn push(&mut self, offset: u64, batch: RecordBatch) -> Result<Rejected> {
        self.check_offset(offset)?;
        let (batch, rejected) = self.intake.admit(batch, |row| format!("row {} of batch {offset}", row + 1))?;
        let (first, end) = (offset * FRAMES_PER_BATCH_MAX, (offset + 1) * FRAMES_PER_BATCH_MAX);
        let numbering = Numbering { first, end: Some(end), is_last: false };
        self.sending.send(vec![batch], numbering, Some(offset)).await?;
        self.next = Some(offset + 1);
        Ok(rejected)
    }

    async fn kept(&mut self) -> Result<u64> {
        loop {
            // What went wrong is told behind what is kept, by the wait.
            let _ = self.sending.settle_ready();
            if let Some(offset) = self.sending.take_completed() {
                return Ok(offset);
            }
            self.sending.settle_next().await?;
        }
    }

    async fn flush(&mut self) -> Result<()> {
        self.sending.settle_all().await
    }

    fn take_kept(&mut self) -> Option<u64> {
        self.sending.take_completed()
    }

    fn receipt(&self) -> &Receipt {
        self.sending.receipt()
    }
}
