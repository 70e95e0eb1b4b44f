//! Which rows of a batch are taken: the check of values at the door, and what is said of those that don't fit.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::DataType;
use lakehouse::definition::{Column, Table};
use lakehouse::schema::{self, BadRows, BadValue};
use lakehouse::{Error, Result};
use proto::frame::{Compression, FRAME_BYTES_MAX, FrameOrigin};

use super::framing;
use crate::door::{BAD_ROWS_TOLD_MAX, BadRow, Rejected};
use crate::engine::batch_bytes;

/// How many bad rows an error names.
const BAD_ROWS_IN_ERROR_MAX: usize = 10;

/// A row of at most this many bytes in memory fits a frame, however badly it compresses: a frame has its schema beside
/// it.
const ROW_BYTES_SURE: usize = FRAME_BYTES_MAX / 2;

/// Judges the rows of one ingest.
pub(super) struct Intake {
    pub(super) table: Arc<Table>,
    pub(super) columns: Vec<Column>,
    pub(super) is_partial: bool,
    pub(super) compression: Compression,
}

impl Intake {
    /// The rows of a batch that can't be taken.
    pub(super) fn check(&self, batch: &RecordBatch) -> Result<Rejected> {
        Ok(told(&self.judge(batch)?))
    }

    /// The rows of a batch that are taken, and those that are not. `place` says where a row (from 0) stands.
    pub(super) fn admit(&self, batch: RecordBatch, place: impl Fn(u64) -> String) -> Result<(RecordBatch, Rejected)> {
        let bad = self.judge(&batch)?;
        let Some(good) = &bad.mask else { return Ok((batch, Rejected::default())) };
        let rejected = told(&bad);
        if !self.is_partial || rejected.count > rejected.rows.len() as u64 {
            return Err(Error::invalid(refusal(&self.table, &rejected, place)));
        }
        let kept = filter_record_batch(&batch, good)
            .map_err(|error| Error::internal("can't leave rows out of a batch").because(error))?;
        Ok((kept, rejected))
    }

    fn judge(&self, batch: &RecordBatch) -> Result<BadRows> {
        let bad = schema::bad_rows(&self.table, &self.columns, batch, BAD_ROWS_TOLD_MAX)?;
        let large = self.too_large(batch);
        if large.is_empty() {
            return Ok(bad);
        }
        let is_good = |row| bad.mask.as_ref().is_none_or(|mask| mask.value(row));
        let mask: BooleanArray =
            (0..batch.num_rows()).map(|row| Some(is_good(row) && large.binary_search(&row).is_err())).collect();
        let mut told = bad.told.clone();
        told.extend(large.iter().filter(|row| is_good(**row)).map(|row| BadValue {
            row: *row,
            column: String::new(),
            reason: format!("the row is larger than a frame can be ({FRAME_BYTES_MAX} bytes); make its values smaller"),
        }));
        told.sort_by_key(|value| value.row);
        told.truncate(BAD_ROWS_TOLD_MAX);
        let count = (mask.len() - mask.true_count()) as u64;
        Ok(BadRows { mask: Some(mask), count, told })
    }

    /// The rows that no frame can hold, in order.
    fn too_large(&self, batch: &RecordBatch) -> Vec<usize> {
        if largest_row_bytes(batch) <= ROW_BYTES_SURE {
            return Vec::new();
        }
        let origin = FrameOrigin { table: self.table.name.to_string(), ..origin() };
        let is_too_large = |row: &usize| {
            let row = batch.slice(*row, 1);
            batch_bytes(&row) > ROW_BYTES_SURE && framing::is_too_large(&origin, &row, self.compression)
        };
        (0..batch.num_rows()).filter(is_too_large).collect()
    }
}

/// The longest header that a frame can have.
fn origin() -> FrameOrigin {
    let ingest_id = "x".repeat(super::INGEST_ID_BYTES_MAX);
    FrameOrigin { table: String::new(), ingest_id, frame: u64::MAX, received_at_us: i64::MAX }
}

/// No row has more bytes in memory than this.
fn largest_row_bytes(batch: &RecordBatch) -> usize {
    fn longest<O: Into<i64> + Copy>(offsets: &[O]) -> usize {
        let lengths = offsets.iter().zip(offsets.iter().skip(1)).map(|(from, to)| (*to).into() - (*from).into());
        usize::try_from(lengths.max().unwrap_or(0)).unwrap_or(usize::MAX)
    }
    let of_column = |column: &arrow::array::ArrayRef| match column.data_type() {
        DataType::Utf8 => longest(column.as_string::<i32>().value_offsets()),
        DataType::LargeUtf8 => longest(column.as_string::<i64>().value_offsets()),
        DataType::Binary => longest(column.as_binary::<i32>().value_offsets()),
        DataType::LargeBinary => longest(column.as_binary::<i64>().value_offsets()),
        // A view begins with its length.
        DataType::Utf8View => {
            column.as_string_view().views().iter().map(|view| *view as u32 as usize).max().unwrap_or(0)
        }
        DataType::BinaryView => {
            column.as_binary_view().views().iter().map(|view| *view as u32 as usize).max().unwrap_or(0)
        }
        plain => plain.primitive_width().unwrap_or_else(|| match plain {
            DataType::Boolean => 1,
            DataType::FixedSizeBinary(width) => usize::try_from(*width).unwrap_or(usize::MAX),
            _ => column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size()),
        }),
    };
    batch.columns().iter().map(of_column).sum()
}

fn told(bad: &BadRows) -> Rejected {
    let row = |value: &BadValue| BadRow {
        row: value.row as u64,
        column: (!value.column.is_empty()).then(|| value.column.clone()),
        reason: value.reason.clone(),
    };
    Rejected { count: bad.count, rows: bad.told.iter().map(row).collect() }
}

fn refusal(table: &Table, rejected: &Rejected, place: impl Fn(u64) -> String) -> String {
    let one = |bad: &BadRow| {
        let column = bad.column.as_ref().map(|column| format!("column {column:?}: ")).unwrap_or_default();
        format!("{}: {column}{}", place(bad.row), bad.reason)
    };
    let mut message = format!(
        "{} of the batch can't go into table {:?}, so none was taken: ",
        if rejected.count == 1 { "1 row".to_owned() } else { format!("{} rows", rejected.count) },
        table.name.as_str()
    );
    let shown: Vec<String> = rejected.rows.iter().take(BAD_ROWS_IN_ERROR_MAX).map(one).collect();
    message.push_str(&shown.join("; "));
    let rest = rejected.count.saturating_sub(shown.len() as u64);
    if rest > 0 {
        // Writing to a string can't fail.
        let _ = write!(message, "; and {rest} more");
    }
    message
}
