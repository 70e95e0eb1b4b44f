//! To Arrow, and from it: what a column of any Arrow type is stored as.
//!
//! The names inside nested types (`element`, `key_value`, `key`, `value`) are those with which Delta tables are read
//! back, so that a schema made here equals the one that comes back.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};

use super::{MAX_DECIMAL_PRECISION, MAX_TYPE_DEPTH, SqlType, StructField};
use crate::name::{check_field_name, same_column};
use crate::{Error, Result};

/// The zone of every stored instant.
const UTC: &str = "UTC";

impl SqlType {
    /// The Arrow type that the column has in Mallard.
    pub fn to_arrow(&self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::TinyInt => DataType::Int8,
            Self::SmallInt => DataType::Int16,
            Self::Integer => DataType::Int32,
            Self::BigInt => DataType::Int64,
            Self::Float => DataType::Float32,
            Self::Double => DataType::Float64,
            Self::Decimal { precision, scale } => DataType::Decimal128(*precision, scale.cast_signed()),
            Self::Varchar | Self::Json => DataType::Utf8,
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
            Self::TimestampNtz => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Blob => DataType::Binary,
            Self::List(item) => DataType::List(Arc::new(Field::new("element", item.to_arrow(), true))),
            Self::Struct(fields) => DataType::Struct(
                fields.iter().map(|field| Field::new(&field.name, field.data_type.to_arrow(), true)).collect(),
            ),
            Self::Map(key, value) => {
                let entry = Fields::from(vec![
                    Field::new("key", key.to_arrow(), false),
                    Field::new("value", value.to_arrow(), true),
                ]);
                DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entry), false)), false)
            }
        }
    }

    /// The type as which a column of the Arrow type `incoming` is stored: the same where Delta has it, else the
    /// smallest that holds every value (unsigned integers widen, timestamps become microseconds, dictionaries and
    /// run-ends give the type of their values).
    ///
    /// # Errors
    /// `Kind::Invalid` for what Delta can't hold, with the type's name and the cure. The message does not name the
    /// column: the caller knows it.
    pub fn from_arrow(incoming: &DataType) -> Result<Self> {
        stored_as(incoming, 1)
    }
}

fn stored_as(incoming: &DataType, depth: usize) -> Result<SqlType> {
    if depth > MAX_TYPE_DEPTH {
        return Err(Error::invalid(format!(
            "types nest deeper than {MAX_TYPE_DEPTH}; flatten it, or send it as JSON text"
        )));
    }
    let stored = match incoming {
        DataType::Boolean => SqlType::Boolean,
        DataType::Int8 => SqlType::TinyInt,
        DataType::Int16 | DataType::UInt8 => SqlType::SmallInt,
        DataType::Int32 | DataType::UInt16 => SqlType::Integer,
        DataType::Int64 | DataType::UInt32 => SqlType::BigInt,
        DataType::UInt64 => SqlType::Decimal { precision: 20, scale: 0 },
        DataType::Float16 | DataType::Float32 => SqlType::Float,
        DataType::Float64 => SqlType::Double,
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => stored_decimal(*precision, *scale)?,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => SqlType::Varchar,
        DataType::Date32 | DataType::Date64 => SqlType::Date,
        DataType::Timestamp(_, Some(_)) => SqlType::Timestamp,
        DataType::Timestamp(_, None) => SqlType::TimestampNtz,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => SqlType::Blob,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => SqlType::List(Box::new(stored_as(item.data_type(), depth + 1)?)),
        DataType::Struct(fields) => stored_struct(fields, depth)?,
        DataType::Map(entry, false) => stored_map(entry, depth)?,
        DataType::Map(_, true) => {
            return Err(Error::invalid(
                "Arrow type Map with sorted keys has no counterpart in Delta Lake; send it without that mark",
            ));
        }
        DataType::Dictionary(_, values) => stored_as(values, depth + 1)?,
        DataType::RunEndEncoded(_, values) => stored_as(values.data_type(), depth + 1)?,
        DataType::Null => {
            return Err(Error::invalid(
                "Arrow type Null says nothing about its values; cast it to the type it should have",
            ));
        }
        DataType::Time32(_) | DataType::Time64(_) | DataType::Duration(_) | DataType::Interval(_) => {
            return Err(Error::invalid(format!(
                "Arrow type {incoming} has no counterpart in Delta Lake; cast it to an integer, or to text"
            )));
        }
        DataType::Union(..) => {
            return Err(Error::invalid(
                "Arrow type Union has no counterpart in Delta Lake; send a struct with a field for each case, or JSON text",
            ));
        }
    };
    Ok(stored)
}

/// A decimal; a negative scale (whole tens, hundreds, …) becomes digits.
fn stored_decimal(precision: u8, scale: i8) -> Result<SqlType> {
    let digits = if scale < 0 { precision.saturating_add(scale.unsigned_abs()) } else { precision };
    let behind_point = scale.max(0).unsigned_abs();
    if digits == 0 || digits > MAX_DECIMAL_PRECISION || behind_point > digits {
        return Err(Error::invalid(format!(
            "decimal({precision},{scale}) is not within decimal({MAX_DECIMAL_PRECISION},s), the widest that Delta Lake \
             has; cast it to a narrower decimal, or to text"
        )));
    }
    Ok(SqlType::Decimal { precision: digits, scale: behind_point })
}

fn stored_struct(fields: &Fields, depth: usize) -> Result<SqlType> {
    if fields.is_empty() {
        return Err(Error::invalid("a struct without fields holds nothing; give it a field, or leave the column out"));
    }
    let mut stored: Vec<StructField> = Vec::with_capacity(fields.len());
    for field in fields {
        let name = field.name();
        check_field_name(name)?;
        if stored.iter().any(|earlier| same_column(&earlier.name, name)) {
            return Err(Error::invalid(format!("field {name:?} is there twice (case does not count); rename one")));
        }
        let data_type = stored_as(field.data_type(), depth + 1)
            .map_err(|error| Error::new(error.kind(), format!("field {name:?}: {error}")))?;
        stored.push(StructField { name: name.clone(), data_type });
    }
    Ok(SqlType::Struct(stored))
}

fn stored_map(entry: &Field, depth: usize) -> Result<SqlType> {
    let DataType::Struct(fields) = entry.data_type() else {
        return Err(Error::invalid("Arrow type Map has no entries of key and value; send a well-formed map"));
    };
    let [key, value] = fields.as_ref() else {
        return Err(Error::invalid("Arrow type Map has no entries of key and value; send a well-formed map"));
    };
    let key = stored_as(key.data_type(), depth + 1)?;
    if key.is_nested() {
        return Err(Error::invalid(format!("a map's key can't be {key}; use a type that holds no others")));
    }
    Ok(SqlType::Map(Box::new(key), Box::new(stored_as(value.data_type(), depth + 1)?)))
}
