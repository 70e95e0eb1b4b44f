//! Rows to frames, as a pure function of the rows: whoever sends the same batches again sends the same frames.
//!
//! Frames are kept small beside a record ([`FRAME_BYTES_AIM`]), so that records fill up nearly to their limit whatever
//! the rows are like. How many rows make such a frame is learnt from the frames before it, within the same rows. What a
//! frame costs whatever its rows are, its schema above all, is left out of that: else frames of wide tables would have
//! fewer and fewer rows.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Fields, Schema, SchemaRef};
use lakehouse::{Error, Result};
use proto::frame::{Compression, FRAME_BYTES_MAX, Frame, FrameError, FrameOrigin};

use crate::engine::batch_bytes;

/// The bytes that a frame is to have, and about the most that is left free in a record of 1,000 KiB. The rows of a first
/// frame, from which the next ones are judged, have as many in memory: so it is not larger, however badly they compress.
pub(super) const FRAME_BYTES_AIM: usize = 76 << 10;

/// The most that a frame may cost beside its rows, in bytes.
const FIXED_BYTES_MAX: usize = 256 << 10;

/// What a column costs in a frame beside its values, in bytes: its node, and up to three buffers, each with its place,
/// its length and its padding (<https://arrow.apache.org/docs/format/Columnar.html#recordbatch-message>).
const COLUMN_BYTES: usize = 16 + 3 * (16 + 8 + 8);

/// How many times its fixed bytes a frame is to have, if that is more than [`FRAME_BYTES_AIM`].
const FIXED_SHARE: usize = 4;

/// What the header may grow by when a frame gets its number and its time, in bytes.
const HEADER_ROOM_BYTES: usize = 64;

/// Bytes in memory that the rows of a frame may have on average, however well they compress: whoever merges them holds
/// them decoded.
const FRAME_MEMORY_BYTES_MAX: usize = 2 << 20;

/// The most rows of a frame.
const FRAME_ROWS_MAX: usize = 64 << 10;

/// Batches that are smaller than this on average, in bytes in memory, are laid together before they are framed.
const SMALL_BATCH_BYTES: usize = 16 << 10;

/// Rows that become frames, some at a time.
pub(super) struct Framing {
    origin: FrameOrigin,
    schema: SchemaRef,
    compression: Compression,
    rows: Vec<RecordBatch>,
    total: usize,
    at: usize,
    /// Bytes of a frame beside its rows.
    fixed: usize,
    /// Rows of the next frame, and between which numbers these are kept.
    count: usize,
    least: usize,
    most: usize,
}

impl Framing {
    /// The frames of `rows`, whose numbers are that of `origin` until they get their own; `fixed` is what
    /// [`fixed_bytes`] gives for `schema`.
    pub(super) fn new(
        origin: FrameOrigin,
        schema: SchemaRef,
        rows: Vec<RecordBatch>,
        compression: Compression,
        fixed: usize,
    ) -> Self {
        let rows = laid_together(rows);
        let total: usize = rows.iter().map(RecordBatch::num_rows).sum();
        let bytes: usize = rows.iter().map(batch_bytes).sum();
        let least = rows_in(aim(fixed), bytes, total);
        let most = rows_in(FRAME_MEMORY_BYTES_MAX, bytes, total).max(least);
        Self { origin, schema, compression, rows, total, at: 0, fixed, count: least, least, most }
    }

    /// Whether all rows are framed.
    pub(super) fn is_done(&self) -> bool {
        self.at >= self.total
    }

    /// A frame without rows.
    pub(super) fn empty(&self) -> Result<Frame> {
        encoded(&self.origin, &self.schema, &[], self.compression).map_err(|error| refusal(&self.origin.table, error))
    }

    /// The next frames, about `bytes_max` of them; at least one unless all rows are framed.
    ///
    /// # Errors
    /// `Invalid` if a single row does not fit into a frame, or the rows can't be framed at all.
    pub(super) fn next(&mut self, bytes_max: usize) -> Result<Vec<Frame>> {
        let (mut frames, mut bytes) = (Vec::new(), 0);
        while !self.is_done() && bytes < bytes_max {
            let frame = self.next_frame()?;
            bytes += frame.encoded_len();
            frames.push(frame);
        }
        Ok(frames)
    }

    fn next_frame(&mut self) -> Result<Frame> {
        loop {
            // No frame of a few last rows.
            let rest = self.total - self.at;
            let taken = if rest <= self.count + self.count / 4 { rest.min(self.most) } else { self.count };
            match encoded(&self.origin, &self.schema, &slice(&self.rows, self.at, taken), self.compression) {
                Ok(frame) => {
                    let bytes = frame.encoded_len().saturating_sub(self.fixed);
                    self.count = rows_in(aim(self.fixed), bytes, taken).clamp(self.least, self.most);
                    self.at += taken;
                    return Ok(frame);
                }
                Err(error) if asks_for_fewer_rows(&error) && taken > 1 => {
                    self.count = taken / 2;
                    // What is left may be as large.
                    self.least = self.least.min(self.count);
                }
                Err(error) => return Err(refusal(&self.origin.table, error)),
            }
        }
    }
}

/// What a frame of this schema costs beside its rows, in bytes, about.
///
/// # Errors
/// `Invalid` if the schema is too large to come with each frame.
pub(super) fn fixed_bytes(origin: &FrameOrigin, schema: &Schema, compression: Compression) -> Result<usize> {
    let empty = Frame::from_batches(origin.clone(), schema, &[], compression).map(|frame| frame.encoded_len());
    let schema_bytes = empty.unwrap_or(FRAME_BYTES_MAX);
    let fixed = schema_bytes + columns(schema.fields()) * COLUMN_BYTES;
    if schema_bytes > FIXED_BYTES_MAX {
        return Err(Error::invalid(format!(
            "the schema of the ingest into table {:?} takes {schema_bytes} bytes, and comes with each frame; the most is \
             {FIXED_BYTES_MAX}: use fewer columns, or shorter names",
            origin.table
        )));
    }
    Ok(fixed)
}

/// How many columns there are, those inside of others included.
fn columns(fields: &Fields) -> usize {
    fields.iter().map(|field| 1 + nested(field.data_type())).sum()
}

fn nested(data_type: &DataType) -> usize {
    match data_type {
        DataType::Struct(fields) => columns(fields),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::Map(item, _) => 1 + nested(item.data_type()),
        _ => 0,
    }
}

fn aim(fixed: usize) -> usize {
    FRAME_BYTES_AIM.max(FIXED_SHARE * fixed).min(FRAME_BYTES_MAX / 2)
}

fn encoded(
    origin: &FrameOrigin,
    schema: &Schema,
    rows: &[RecordBatch],
    compression: Compression,
) -> Result<Frame, FrameError> {
    let frame = Frame::from_batches(origin.clone(), schema, rows, compression)?;
    let bytes = frame.encoded_len() + HEADER_ROOM_BYTES;
    if bytes > FRAME_BYTES_MAX { Err(FrameError::TooLarge { bytes }) } else { Ok(frame) }
}

/// Whether a single row is more than a frame can hold.
pub(super) fn is_too_large(origin: &FrameOrigin, row: &RecordBatch, compression: Compression) -> bool {
    encoded(origin, row.schema_ref(), std::slice::from_ref(row), compression)
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
