//! Leaves out what a batch holds but does not refer to.
//!
//! A slice of a column shares the whole column's dictionary, or the bytes behind its views, and Arrow's writer writes
//! all of it. A large batch that is cut into frames would carry its whole dictionary in each; none might fit.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, GenericByteViewArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{ByteViewType, DataType};
use arrow::error::ArrowError;

/// The same rows, with the dictionaries and view buffers of top-level columns cut to what the rows use.
pub(super) fn compact(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().map(compact_column).collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options)
}

fn compact_column(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match column.data_type() {
        DataType::Utf8View => Ok(compact_view(column, column.as_string_view())),
        DataType::BinaryView => Ok(compact_view(column, column.as_binary_view())),
        DataType::Dictionary(_, _) => {
            let dictionary = column.as_any_dictionary();
            // More values than rows: some are unused. Otherwise the dictionary is no larger than its rows make it.
            if dictionary.values().len() > column.len() {
                arrow_select::dictionary::garbage_collect_any_dictionary(dictionary)
            } else {
                Ok(Arc::clone(column))
            }
        }
        _ => Ok(Arc::clone(column)),
    }
}

fn compact_view<T: ByteViewType + ?Sized>(column: &ArrayRef, views: &GenericByteViewArray<T>) -> ArrayRef {
    let held: usize = views.data_buffers().iter().map(|buffer| buffer.len()).sum();
    if held > views.total_buffer_bytes_used() { Arc::new(views.gc()) } else { Arc::clone(column) }
}
