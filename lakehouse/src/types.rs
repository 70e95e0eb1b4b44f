//! The types a column can have, in the words of the definition.
//!
//! Three systems must agree on a column: Arrow on the wire, DuckDB in the transform, Delta at rest. [`SqlType`] is
//! what all three can hold without loss, so each conversion is total: to Arrow, to DuckDB, and from whatever Arrow
//! type a producer sends to the type it is stored as.
//!
//! | SQL | Arrow | DuckDB |
//! | --- | --- | --- |
//! | boolean | Boolean | BOOLEAN |
//! | tinyint, smallint, integer, bigint | Int8, Int16, Int32, Int64 | the same |
//! | float, double | Float32, Float64 | the same |
//! | decimal(p,s) | Decimal128(p, s) | DECIMAL(p,s) |
//! | varchar, json | Utf8 | VARCHAR |
//! | date | Date32 | DATE |
//! | timestamp, an instant | Timestamp(µs, UTC) | TIMESTAMPTZ |
//! | timestamp_ntz, a wall-clock time | Timestamp(µs) | TIMESTAMP |
//! | blob | Binary | BLOB |
//! | T\[\] | List | T\[\] |
//! | struct(a T, …) | Struct | STRUCT("a" T, …) |
//! | map(K, V) | Map | MAP(K, V) |

mod arrow_types;
mod coercion;
mod parse;
#[cfg(test)]
mod tests;
mod widening;

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// How deep types may nest: enough for any real schema, and a stack that can't overflow.
pub const MAX_TYPE_DEPTH: usize = 32;

/// The most digits of a decimal: what Delta, Arrow's Decimal128 and DuckDB have in common.
pub const MAX_DECIMAL_PRECISION: u8 = 38;

/// The type of a column. `Display` gives the canonical text, `FromStr` reads it and its aliases.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SqlType {
    /// True or false.
    Boolean,
    /// 8 bits, signed.
    TinyInt,
    /// 16 bits, signed.
    SmallInt,
    /// 32 bits, signed.
    Integer,
    /// 64 bits, signed.
    BigInt,
    /// 32 bits, IEEE 754.
    Float,
    /// 64 bits, IEEE 754.
    Double,
    /// A decimal number.
    Decimal {
        /// All digits, 1 to [`MAX_DECIMAL_PRECISION`].
        precision: u8,
        /// The digits behind the point, at most `precision`.
        scale: u8,
    },
    /// Text.
    Varchar,
    /// JSON, kept as text.
    Json,
    /// A calendar day.
    Date,
    /// An instant, in microseconds, UTC.
    Timestamp,
    /// A wall-clock time of no zone, in microseconds.
    TimestampNtz,
    /// Bytes.
    Blob,
    /// A list of one type.
    List(Box<SqlType>),
    /// Named fields, at least one; names differ in more than case.
    Struct(Vec<StructField>),
    /// Keys, which are not nested, and values.
    Map(Box<SqlType>, Box<SqlType>),
}

/// A field of a [`SqlType::Struct`]. It can be NULL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StructField {
    /// Any text that is a column name.
    pub name: String,
    /// Its type.
    pub data_type: SqlType,
}

impl SqlType {
    /// Whether it holds other types.
    pub fn is_nested(&self) -> bool {
        matches!(self, Self::List(_) | Self::Struct(_) | Self::Map(..))
    }

    /// Whether it is a binary floating-point number.
    pub fn is_float(&self) -> bool {
        matches!(self, Self::Float | Self::Double)
    }

    /// The type in DuckDB's words, ready for a cast or a `CREATE TABLE`.
    pub fn to_duckdb(&self) -> String {
        match self {
            Self::Boolean => "BOOLEAN".into(),
            Self::TinyInt => "TINYINT".into(),
            Self::SmallInt => "SMALLINT".into(),
            Self::Integer => "INTEGER".into(),
            Self::BigInt => "BIGINT".into(),
            Self::Float => "FLOAT".into(),
            Self::Double => "DOUBLE".into(),
            Self::Decimal { precision, scale } => format!("DECIMAL({precision},{scale})"),
            Self::Varchar | Self::Json => "VARCHAR".into(),
            Self::Date => "DATE".into(),
            Self::Timestamp => "TIMESTAMPTZ".into(),
            Self::TimestampNtz => "TIMESTAMP".into(),
            Self::Blob => "BLOB".into(),
            Self::List(item) => format!("{}[]", item.to_duckdb()),
            Self::Struct(fields) => {
                let fields: Vec<_> = fields
                    .iter()
                    .map(|field| format!("{} {}", quoted(&field.name), field.data_type.to_duckdb()))
                    .collect();
                format!("STRUCT({})", fields.join(", "))
            }
            Self::Map(key, value) => format!("MAP({}, {})", key.to_duckdb(), value.to_duckdb()),
        }
    }
}

/// `name` as a quoted SQL identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl fmt::Display for SqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean => f.write_str("boolean"),
            Self::TinyInt => f.write_str("tinyint"),
            Self::SmallInt => f.write_str("smallint"),
            Self::Integer => f.write_str("integer"),
            Self::BigInt => f.write_str("bigint"),
            Self::Float => f.write_str("float"),
            Self::Double => f.write_str("double"),
            Self::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            Self::Varchar => f.write_str("varchar"),
            Self::Json => f.write_str("json"),
            Self::Date => f.write_str("date"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::TimestampNtz => f.write_str("timestamp_ntz"),
            Self::Blob => f.write_str("blob"),
            Self::List(item) => write!(f, "{item}[]"),
            Self::Struct(fields) => {
                f.write_str("struct(")?;
                for (at, field) in fields.iter().enumerate() {
                    if at > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{field}")?;
                }
                f.write_str(")")
            }
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
        }
    }
}

impl fmt::Display for StructField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if parse::is_plain_identifier(&self.name) {
            write!(f, "{} {}", self.name, self.data_type)
        } else {
            write!(f, "{} {}", quoted(&self.name), self.data_type)
        }
    }
}

impl FromStr for SqlType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse::parse(text)
    }
}
