//! How large a batch is written out: a dictionary's value, a run or a view can stand for millions of rows.
//!
//! A message of some kilobytes can say "this text of a megabyte, ten million times". Whoever reads its rows one by one
//! needs ten terabytes. So a batch that uses such types is measured as its rows would be if each had its own value.

use std::ops::Range;

use arrow::array::{Array, AsArray, RecordBatch, RunArray};
use arrow::datatypes::{DataType, Int16Type, Int32Type, Int64Type, RunEndIndexType};

use crate::definition::Table;
use crate::{Error, Result};

/// The most bytes that the columns of a batch which share values between rows may take written out: as much as a
/// message may take decompressed.
pub const EXPANDED_BYTES_MAX: u64 = 256 << 20;

/// Refuses a batch that is too large written out.
pub(super) fn check(table: &Table, batch: &RecordBatch) -> Result<()> {
    let shared = batch.columns().iter().filter(|column| may_share(column.data_type()));
    let bytes: f64 = shared.map(|column| sizes(column).total(column.len())).sum();
    // Where sums overflow they end in no number, which is not within the limit either.
    if bytes <= EXPANDED_BYTES_MAX as f64 {
        return Ok(());
    }
    Err(Error::exhausted(format!(
        "a batch of {} rows for table {:?} takes more than {EXPANDED_BYTES_MAX} bytes when its dictionaries, runs and \
         views are written out; send smaller batches",
        batch.num_rows(),
        table.name.as_str()
    )))
}

/// Whether rows of the type can share values.
fn may_share(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(..)
        | DataType::RunEndEncoded(..)
        | DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::Utf8View
        | DataType::BinaryView => true,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => may_share(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| may_share(field.data_type())),
        _ => false,
    }
}

/// Bytes of values. Floating-point, since sums of what a client made up may exceed any integer.
enum Sizes {
    Fixed(f64),
    Each(Vec<f64>),
}

impl Sizes {
    fn total(&self, len: usize) -> f64 {
        match self {
            Self::Fixed(bytes) => bytes * len as f64,
            Self::Each(bytes) => bytes.iter().sum(),
        }
    }

    fn get(&self, row: usize) -> f64 {
        match self {
            Self::Fixed(bytes) => *bytes,
            Self::Each(bytes) => bytes[row],
        }
    }

    /// Of rows that each stand for one of these values.
    fn picked(self, len: usize, pick: impl Fn(usize) -> usize) -> Self {
        match self {
            Self::Fixed(bytes) => Self::Fixed(bytes),
            Self::Each(bytes) => Self::Each((0..len).map(|row| bytes[pick(row)]).collect()),
        }
    }

    /// Of lists of these values.
    fn ranged(self, len: usize, range: impl Fn(usize) -> Range<usize>) -> Self {
        let bytes = match self {
            Self::Fixed(bytes) => return Self::Each((0..len).map(|row| bytes * range(row).len() as f64).collect()),
            Self::Each(bytes) => bytes,
        };
        let mut sums = vec![0.0];
        let mut sum = 0.0;
        sums.extend(bytes.iter().map(|bytes| {
            sum += bytes;
            sum
        }));
        Self::Each((0..len).map(|row| sums[range(row).end] - sums[range(row).start]).collect())
    }
}

fn sizes(array: &dyn Array) -> Sizes {
    let len = array.len();
    let each = |size: &dyn Fn(usize) -> usize| Sizes::Each((0..len).map(|row| size(row) as f64).collect());
    match array.data_type() {
        DataType::Utf8 => each(&|row| array.as_string::<i32>().value(row).len()),
        DataType::LargeUtf8 => each(&|row| array.as_string::<i64>().value(row).len()),
        DataType::Utf8View => each(&|row| array.as_string_view().value(row).len()),
        DataType::Binary => each(&|row| array.as_binary::<i32>().value(row).len()),
        DataType::LargeBinary => each(&|row| array.as_binary::<i64>().value(row).len()),
        DataType::BinaryView => each(&|row| array.as_binary_view().value(row).len()),
        DataType::FixedSizeBinary(bytes) => Sizes::Fixed(f64::from(*bytes)),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            if dictionary.values().is_empty() {
                return Sizes::Fixed(0.0);
            }
            let keys = dictionary.normalized_keys();
            sizes(dictionary.values()).picked(len, |row| keys[row])
        }
        DataType::RunEndEncoded(ends, _) => match ends.data_type() {
            DataType::Int16 => run_sizes(array.as_run::<Int16Type>()),
            DataType::Int32 => run_sizes(array.as_run::<Int32Type>()),
            _ => run_sizes(array.as_run::<Int64Type>()),
        },
        DataType::Struct(_) => {
            let fields: Vec<Sizes> = array.as_struct().columns().iter().map(|column| sizes(column)).collect();
            Sizes::Each((0..len).map(|row| fields.iter().map(|field| field.get(row)).sum()).collect())
        }
        data_type if data_type.is_nested() => list_sizes(array),
        data_type => Sizes::Fixed(data_type.primitive_width().unwrap_or(1) as f64),
    }
}

fn run_sizes<R: RunEndIndexType>(array: &RunArray<R>) -> Sizes {
    sizes(array.values()).picked(array.len(), |row| array.get_physical_index(row))
}

fn list_sizes(array: &dyn Array) -> Sizes {
    let len = array.len();
    let position = |value: i64| usize::try_from(value).unwrap_or_default();
    match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let at = |row: usize| position(list.value_offsets()[row].into());
            sizes(list.values()).ranged(len, |row| at(row)..at(row + 1))
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let at = |row: usize| position(list.value_offsets()[row]);
            sizes(list.values()).ranged(len, |row| at(row)..at(row + 1))
        }
        DataType::ListView(_) => {
            let list = array.as_list_view::<i32>();
            let at = |row: usize| position(list.value_offsets()[row].into());
            sizes(list.values()).ranged(len, |row| at(row)..at(row) + position(list.value_sizes()[row].into()))
        }
        DataType::LargeListView(_) => {
            let list = array.as_list_view::<i64>();
            let at = |row: usize| position(list.value_offsets()[row]);
            sizes(list.values()).ranged(len, |row| at(row)..at(row) + position(list.value_sizes()[row]))
        }
        DataType::FixedSizeList(_, size) => {
            let size = position(i64::from(*size));
            sizes(array.as_fixed_size_list().values()).ranged(len, |row| row * size..(row + 1) * size)
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let at = |row: usize| position(map.value_offsets()[row].into());
            sizes(map.entries()).ranged(len, |row| at(row)..at(row + 1))
        }
        // Refused by its type.
        _ => Sizes::Fixed(0.0),
    }
}
