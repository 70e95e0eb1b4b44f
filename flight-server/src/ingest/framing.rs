//! Rows to frames, as a pure function of the rows: whoever sends the same batches again sends the same frames.
//!
//! Frames are kept small beside a record ([`FRAME_BYTES_AIM`]), so that records fill up nearly to their limit whatever
//! the rows are like. How many rows make such a frame is learnt from the frames before it, within the same rows.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::Schema;
use lakehouse::{Error, Result};
use proto::frame::{Compression, Frame, FrameError, FrameOrigin};

use crate::engine::batch_bytes;

/// The bytes that a frame is to have: at most this is left free in a record of 1,000 KiB.
pub(super) const FRAME_BYTES_AIM: usize = 80 << 10;

/// Bytes in memory of the rows of a first frame, from which the next ones are judged.
const FIRST_BYTES: usize = 128 << 10;

/// Bytes in memory that the rows of a frame may have on average, however well they compress: whoever merges them holds
/// them decoded.
const FRAME_MEMORY_BYTES_MAX: usize = 2 << 20;

/// The most rows of a frame.
const FRAME_ROWS_MAX: usize = 64 << 10;

/// Batches that are smaller than this on average, in bytes in memory, are laid together before they are framed.
const SMALL_BATCH_BYTES: usize = 16 << 10;

/// The frames of some rows, in order. Their numbers are those of `origin` until they get their own.
///
/// # Errors
/// `Invalid` if a single row does not fit into a frame, or the rows can't be framed at all.
pub(super) fn frames(
    origin: &FrameOrigin,
    schema: &Schema,
    rows: Vec<RecordBatch>,
    compression: Compression,
) -> Result<Vec<Frame>> {
    let rows = laid_together(rows);
    let total: usize = rows.iter().map(RecordBatch::num_rows).sum();
    let bytes: usize = rows.iter().map(batch_bytes).sum();
    let mut frames = Vec::new();
    let most = rows_in(FRAME_MEMORY_BYTES_MAX, bytes, total);
    let (mut at, mut count) = (0, rows_in(FIRST_BYTES, bytes, total));
    while at < total {
        // No frame of a few last rows.
        let rest = total - at;
        let taken = if rest <= count + count / 4 { rest.min(most) } else { count };
        match Frame::from_batches(origin.clone(), schema, &slice(&rows, at, taken), compression) {
            Ok(frame) => {
                count = rows_in(FRAME_BYTES_AIM, frame.encoded_len(), taken).min(most);
                at += taken;
                frames.push(frame);
            }
            Err(error) if asks_for_fewer_rows(&error) && taken > 1 => count = taken / 2,
            Err(error) => return Err(refusal(&origin.table, error)),
        }
    }
    Ok(frames)
}

/// Whether a single row is more than a frame can hold.
pub(super) fn is_too_large(origin: &FrameOrigin, row: &RecordBatch, compression: Compression) -> bool {
    Frame::from_batches(origin.clone(), row.schema_ref(), std::slice::from_ref(row), compression)
        .is_err_and(|error| asks_for_fewer_rows(&error))
}

/// How many rows make `wanted` bytes, if `rows` make `bytes`.
fn rows_in(wanted: usize, bytes: usize, rows: usize) -> usize {
    (wanted.saturating_mul(rows) / bytes.max(1)).clamp(1, FRAME_ROWS_MAX)
}

/// Small batches as one: each batch of a frame costs some hundred bytes.
fn laid_together(rows: Vec<RecordBatch>) -> Vec<RecordBatch> {
    let bytes: usize = rows.iter().map(batch_bytes).sum();
    let Some(first) = rows.first().filter(|_| rows.len() > 1 && bytes / rows.len() < SMALL_BATCH_BYTES) else {
        return rows;
    };
    // Not every type can be laid together; what can't is framed as it came.
    match concat_batches(first.schema_ref(), &rows) {
        Ok(one) => vec![one],
        Err(_) => rows,
    }
}

/// `len` rows of `batches`, from row `from` on.
fn slice(batches: &[RecordBatch], mut from: usize, mut len: usize) -> Vec<RecordBatch> {
    let mut slices = Vec::new();
    for batch in batches {
        let rows = batch.num_rows();
        if from < rows && len > 0 {
            let taken = len.min(rows - from);
            slices.push(batch.slice(from, taken));
            len -= taken;
        }
        from = from.saturating_sub(rows);
    }
    slices
}

fn asks_for_fewer_rows(error: &FrameError) -> bool {
    matches!(error, FrameError::TooLarge { .. } | FrameError::TooManyRows { .. } | FrameError::DecodedTooLarge { .. })
}

fn refusal(table: &str, error: FrameError) -> Error {
    let message = if asks_for_fewer_rows(&error) {
        format!("a single row of the ingest into table {table:?} is too large; make its values smaller")
    } else {
        format!("the rows of the ingest into table {table:?} can't be framed")
    };
    Error::invalid(message).because(error)
}

#[cfg(test)]
mod tests;
