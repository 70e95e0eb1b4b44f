//! Which types a column takes without loss.
//!
//! Ingest accepts a column of another type than the table's when every value of it, whatever it is, has exactly one
//! counterpart. What could round, overflow or fail for some value is refused, so that a cast never loses data
//! silently; the producer can cast, and then knows.

use super::SqlType;
use crate::name::same_column;

impl SqlType {
    /// Whether a column of this type holds every value of `incoming` without loss:
    ///
    /// - the same type;
    /// - integers into wider ones, and into decimals with room for their digits;
    /// - integers up to 16 bits into float, up to 32 bits into double; float into double;
    /// - decimals into decimals with at least as many digits on both sides of the point;
    /// - date into timestamp_ntz (its midnight);
    /// - varchar into json and json into varchar (the text stays as it is);
    /// - lists and maps when their parts do; structs when this one has each of the other's fields (whatever its case
    ///   and place) and each does: those that the other lacks are NULL.
    pub fn can_hold(&self, incoming: &SqlType) -> bool {
        match (self, incoming) {
            (Self::Decimal { precision, scale }, Self::Decimal { precision: from_precision, scale: from_scale }) => {
                scale >= from_scale && precision - scale >= from_precision - from_scale
            }
            (Self::Decimal { precision, scale }, from) => {
                integer_bits(from).is_some_and(|bits| precision - scale >= decimal_digits(bits))
            }
            (Self::Float, from) if integer_bits(from).is_some_and(|bits| bits <= 16) => true,
            (Self::Double, from) if integer_bits(from).is_some_and(|bits| bits <= 32) => true,
            (Self::Double, Self::Float)
            | (Self::TimestampNtz, Self::Date)
            | (Self::Json, Self::Varchar)
            | (Self::Varchar, Self::Json) => true,
            (Self::List(item), Self::List(from)) => item.can_hold(from),
            (Self::Map(key, value), Self::Map(from_key, from_value)) => {
                key.can_hold(from_key) && value.can_hold(from_value)
            }
            (Self::Struct(fields), Self::Struct(from)) => from.iter().all(|from| {
                let field = fields.iter().find(|field| same_column(&field.name, &from.name));
                field.is_some_and(|field| field.data_type.can_hold(&from.data_type))
            }),
            (to, from) => match (integer_bits(to), integer_bits(from)) {
                (Some(to_bits), Some(from_bits)) => to_bits >= from_bits,
                _ => to == from,
            },
        }
    }
}

/// The width of an integer type.
pub(super) fn integer_bits(data_type: &SqlType) -> Option<u8> {
    match data_type {
        SqlType::TinyInt => Some(8),
        SqlType::SmallInt => Some(16),
        SqlType::Integer => Some(32),
        SqlType::BigInt => Some(64),
        _ => None,
    }
}

/// The digits that the largest signed integer of `bits` has.
pub(super) fn decimal_digits(bits: u8) -> u8 {
    match bits {
        8 => 3,
        16 => 5,
        32 => 10,
        _ => 19,
    }
}
