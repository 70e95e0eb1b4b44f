//! Which values would lose a part of themselves on their way into a table, or could not be read on it.
//!
//! Most types are stored as they are or wider, so their values can't lose anything and are not looked at. These are:
//!
//! | type | bad |
//! | --- | --- |
//! | timestamps | nanoseconds (microseconds are kept); outside of the years 1 to 9999 |
//! | dates | a Date64 with a time of day; outside of the years 1 to 9999 |
//! | decimals | more digits than the type declares, which Arrow does not check |
//! | maps | the same key twice (Arrow itself lets no NULL key through) |
//!
//! Nested values are looked at where they lie, and the mask is lifted from items to rows. Where a column is not
//! stored as it comes, years are no fault as long as the value can be handed on.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float32Array, Float64Array, MapArray, RunArray};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    DecimalType, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, RunEndIndexType, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow::row::{RowConverter, SortField};

use crate::types::SqlType;
use crate::{Error, Result};

/// Days of the years 1 to 9999 since the epoch: what Delta's readers and statistics can express.
const DAYS: RangeInclusive<i32> = -719_162..=2_932_896;
const DAY_SECONDS: i64 = 24 * 60 * 60;
const DAY_MILLIS: i64 = DAY_SECONDS * 1_000;
const SECOND_MICROS: i64 = 1_000_000;
const MICRO_NANOS: i64 = 1_000;

const OUT_OF_CALENDAR: &str = "is outside of the years 1 to 9999; send NULL or a date within them";

/// The values that share a fault.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    /// True for each value without it; some are false.
    pub good: BooleanBuffer,
    /// What is wrong: a predicate.
    pub reason: String,
}

/// Whether values of the type can have faults at all.
pub(super) fn may_be_lost(data_type: &DataType) -> bool {
    match data_type {
        DataType::Date32
        | DataType::Date64
        | DataType::Timestamp(..)
        | DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..)
        | DataType::Map(..) => true,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => may_be_lost(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| may_be_lost(field.data_type())),
        DataType::Dictionary(_, values) => may_be_lost(values),
        DataType::RunEndEncoded(_, values) => may_be_lost(values.data_type()),
        _ => false,
    }
}

/// The faults of `array`'s values. `is_stored`: they go into the table as they are, so years count.
pub(super) fn faults(array: &dyn Array, is_stored: bool) -> Result<Vec<Fault>> {
    Ok(match array.data_type() {
        DataType::Date32 if is_stored => leaf::<Date32Type>(array, OUT_OF_CALENDAR, |day| DAYS.contains(&day)),
        DataType::Date64 => date64(array, is_stored),
        DataType::Timestamp(TimeUnit::Second, _) => timestamp::<TimestampSecondType>(array, 1, is_stored),
        DataType::Timestamp(TimeUnit::Millisecond, _) => timestamp::<TimestampMillisecondType>(array, 1_000, is_stored),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            timestamp::<TimestampMicrosecondType>(array, SECOND_MICROS, is_stored)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            let reason = "has nanoseconds, and times are kept in microseconds; round it";
            leaf::<TimestampNanosecondType>(array, reason, |time| time % MICRO_NANOS == 0)
        }
        DataType::Decimal32(precision, _) => decimal::<Decimal32Type>(array, *precision),
        DataType::Decimal64(precision, _) => decimal::<Decimal64Type>(array, *precision),
        DataType::Decimal128(precision, _) => decimal::<Decimal128Type>(array, *precision),
        DataType::Decimal256(precision, _) => decimal::<Decimal256Type>(array, *precision),
        data_type if may_be_lost(data_type) => nested(array, is_stored)?,
        _ => Vec::new(),
    })
}

fn nested(array: &dyn Array, is_stored: bool) -> Result<Vec<Fault>> {
    Ok(match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            items(array, faults(list.values(), is_stored)?, &within(list.value_offsets()))
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            items(array, faults(list.values(), is_stored)?, &within(list.value_offsets()))
        }
        DataType::ListView(_) => {
            let list = array.as_list_view::<i32>();
            let range = |row: usize| view(list.value_offsets()[row].into(), list.value_sizes()[row].into());
            items(array, faults(list.values(), is_stored)?, &range)
        }
        DataType::LargeListView(_) => {
            let list = array.as_list_view::<i64>();
            let range = |row: usize| view(list.value_offsets()[row], list.value_sizes()[row]);
            items(array, faults(list.values(), is_stored)?, &range)
        }
        DataType::FixedSizeList(_, size) => {
            let list = array.as_fixed_size_list();
            let size = usize::try_from(*size).unwrap_or_default();
            items(array, faults(list.values(), is_stored)?, &|row: usize| row * size..(row + 1) * size)
        }
        DataType::Struct(fields) => {
            let mut lifted = Vec::new();
            for (field, values) in fields.iter().zip(array.as_struct().columns()) {
                let found = faults(values, is_stored)?.into_iter();
                lifted.extend(found.filter_map(|fault| {
                    let reason = format!("has a field {:?} that {}", field.name(), fault.reason);
                    lift(array, reason, |row| fault.good.value(row))
                }));
            }
            lifted
        }
        DataType::Map(..) => map(array.as_map(), is_stored)?,
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let found = faults(dictionary.values(), is_stored)?;
            if found.is_empty() {
                return Ok(found);
            }
            let keys = dictionary.normalized_keys();
            let lifted =
                found.into_iter().filter_map(|fault| lift(array, fault.reason, |row| fault.good.value(keys[row])));
            lifted.collect()
        }
        DataType::RunEndEncoded(ends, _) => match ends.data_type() {
            DataType::Int16 => runs(array.as_run::<Int16Type>(), is_stored)?,
            DataType::Int32 => runs(array.as_run::<Int32Type>(), is_stored)?,
            _ => runs(array.as_run::<Int64Type>(), is_stored)?,
        },
        _ => Vec::new(),
    })
}

/// The fault of the values that are not NULL and do not fit.
fn leaf<T: ArrowPrimitiveType>(array: &dyn Array, reason: &str, fits: impl Fn(T::Native) -> bool) -> Vec<Fault> {
    let array = array.as_primitive::<T>();
    // No early end, no NULLs: a loop that the compiler makes wide.
    if array.values().iter().fold(true, |all, value| all & fits(*value)) {
        return Vec::new();
    }
    lift(array, reason.to_owned(), |row| fits(array.value(row))).into_iter().collect()
}

fn date64(array: &dyn Array, is_stored: bool) -> Vec<Fault> {
    let reason = "has a time of day, and is a date; send it as a timestamp, or cut it";
    let mut found = leaf::<Date64Type>(array, reason, |millis| millis % DAY_MILLIS == 0);
    let days = if is_stored { DAYS } else { i32::MIN..=i32::MAX };
    let millis = i64::from(*days.start()) * DAY_MILLIS..=i64::from(*days.end()) * DAY_MILLIS + (DAY_MILLIS - 1);
    found.extend(leaf::<Date64Type>(array, OUT_OF_CALENDAR, |value| millis.contains(&value)));
    found
}

/// Timestamps of `per_second` units a second, at most microseconds.
fn timestamp<T: ArrowPrimitiveType<Native = i64>>(array: &dyn Array, per_second: i64, is_stored: bool) -> Vec<Fault> {
    let times = if is_stored {
        let day = DAY_SECONDS * per_second;
        i64::from(*DAYS.start()) * day..=(i64::from(*DAYS.end()) + 1) * day - 1
    } else {
        // What microseconds can express.
        let micros = SECOND_MICROS / per_second;
        i64::MIN / micros..=i64::MAX / micros
    };
    leaf::<T>(array, OUT_OF_CALENDAR, |time| times.contains(&time))
}

fn decimal<T: DecimalType>(array: &dyn Array, precision: u8) -> Vec<Fault> {
    let reason = format!("has more than the {precision} digits that its type declares; send it in a wider type");
    leaf::<T>(array, &reason, |value| T::is_valid_decimal_precision(value, precision))
}

fn map(array: &MapArray, is_stored: bool) -> Result<Vec<Fault>> {
    let range = within(array.value_offsets());
    let keys = faults(array.keys(), is_stored)?.into_iter();
    let keys = keys.map(|fault| Fault { reason: format!("has a key that {}", fault.reason), ..fault });
    let values = faults(array.values(), is_stored)?.into_iter();
    let values = values.map(|fault| Fault { reason: format!("has a value that {}", fault.reason), ..fault });
    let lifted = keys.chain(values).filter_map(|fault| all_good(array, fault.reason, &fault.good, &range));
    let mut found: Vec<Fault> = lifted.collect();
    found.extend(same_keys(array, &range)?);
    Ok(found)
}

/// The maps that have a key twice: DuckDB reads none such, and which value would count is anyone's guess.
fn same_keys(array: &MapArray, range: &impl Fn(usize) -> Range<usize>) -> Result<Option<Fault>> {
    if (0..array.len()).all(|row| range(row).len() < 2) {
        return Ok(None);
    }
    let failed = |error| Error::internal("a map's keys can't be compared").because(error);
    let keys = canonical(array.keys())?;
    let converter = RowConverter::new(vec![SortField::new(keys.data_type().clone())]).map_err(failed)?;
    let rows = converter.convert_columns(&[keys]).map_err(failed)?;
    let mut keys = Vec::new();
    Ok(lift(array, "has the same key twice; leave one of the entries out".to_owned(), |row| {
        keys.clear();
        keys.extend(range(row).map(|entry| rows.row(entry)));
        keys.sort_unstable();
        keys.windows(2).all(|pair| pair[0] != pair[1])
    }))
}

/// Keys such that those which DuckDB holds to be equal are the same bytes.
fn canonical(keys: &ArrayRef) -> Result<ArrayRef> {
    let stored = SqlType::from_arrow(keys.data_type())?.to_arrow();
    let Ok(keys) = super::cast_strictly(keys, &stored) else {
        // Some key has a fault of its own, which is told.
        return Ok(Arc::clone(keys));
    };
    // Adding zero makes -0 be 0.
    Ok(match keys.data_type() {
        DataType::Float32 => {
            let plain = |key: f32| if key.is_nan() { f32::NAN } else { key + 0.0 };
            let keys: Float32Array = keys.as_primitive::<Float32Type>().unary(plain);
            Arc::new(keys)
        }
        DataType::Float64 => {
            let plain = |key: f64| if key.is_nan() { f64::NAN } else { key + 0.0 };
            let keys: Float64Array = keys.as_primitive::<Float64Type>().unary(plain);
            Arc::new(keys)
        }
        _ => keys,
    })
}

fn runs<R: RunEndIndexType>(array: &RunArray<R>, is_stored: bool) -> Result<Vec<Fault>> {
    let found = faults(array.values(), is_stored)?.into_iter();
    let lifted =
        found.filter_map(|fault| lift(array, fault.reason, |row| fault.good.value(array.get_physical_index(row))));
    Ok(lifted.collect())
}

/// The items of each list, from its offsets.
fn within<O: Copy + TryInto<usize>>(offsets: &[O]) -> impl Fn(usize) -> Range<usize> {
    move |row| {
        let at = |position: usize| -> usize { offsets[position].try_into().unwrap_or_default() };
        at(row)..at(row + 1)
    }
}

fn view(offset: i64, size: i64) -> Range<usize> {
    let [offset, size] = [offset, size].map(|value| usize::try_from(value).unwrap_or_default());
    offset..offset + size
}

/// The faults of items as faults of their lists.
fn items(array: &dyn Array, found: Vec<Fault>, range: &impl Fn(usize) -> Range<usize>) -> Vec<Fault> {
    let lifted = found
        .into_iter()
        .filter_map(|fault| all_good(array, format!("has an item that {}", fault.reason), &fault.good, range));
    lifted.collect()
}

fn all_good(
    array: &dyn Array,
    reason: String,
    good: &BooleanBuffer,
    range: &impl Fn(usize) -> Range<usize>,
) -> Option<Fault> {
    lift(array, reason, |row| {
        let Range { start, end } = range(row);
        good.slice(start, end - start).count_set_bits() == end - start
    })
}

/// A fault of the rows of `array` that are not NULL and not good; `None` if there are none.
fn lift(array: &dyn Array, reason: String, mut is_good: impl FnMut(usize) -> bool) -> Option<Fault> {
    let good = BooleanBuffer::collect_bool(array.len(), |row| array.is_null(row) || is_good(row));
    (good.count_set_bits() < good.len()).then_some(Fault { good, reason })
}
