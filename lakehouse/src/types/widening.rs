//! The narrowest type that holds two: what a column becomes when rows of another type come.
//!
//! ```text
//! tinyint ─► smallint ─► integer ─► bigint ─► decimal(19,0) ─► … ─► decimal(38,s)
//!               │           └────────────┐
//!               └─► float ─────────────► double            date ─► timestamp_ntz
//! ```
//!
//! Each step is one that Delta Lake's type widening has too
//! (<https://github.com/delta-io/delta/blob/master/PROTOCOL.md#type-widening>), except smallint to float, which it
//! makes double. A date does not become a `timestamp`: an instant needs a zone, which the day does not have, and Delta
//! Lake widens dates to `timestamp_ntz` alone. Text and numbers have no type in common: as text, a number would lose its
//! order, and each reader its sums.

use super::coercion::{decimal_digits, integer_bits};
use super::{MAX_DECIMAL_PRECISION, SqlType, StructField};
use crate::name::same_column;

impl SqlType {
    /// The narrowest type of which a column [holds](SqlType::can_hold) every value of both; `None` if there is none.
    ///
    /// Structs get the fields of both, in this one's order and spelling, the other's own behind them; lists and maps
    /// widen in their parts. Of json and varchar, varchar is the wider.
    pub fn widened(&self, incoming: &SqlType) -> Option<SqlType> {
        match (self, incoming) {
            (Self::List(item), Self::List(other)) => Some(Self::List(Box::new(item.widened(other)?))),
            (Self::Map(key, value), Self::Map(other_key, other_value)) => {
                Some(Self::Map(Box::new(key.widened(other_key)?), Box::new(value.widened(other_value)?)))
            }
            (Self::Struct(fields), Self::Struct(others)) => union(fields, others).map(Self::Struct),
            (Self::Json, Self::Varchar) => Some(Self::Varchar),
            _ if self.can_hold(incoming) => Some(self.clone()),
            _ if incoming.can_hold(self) => Some(incoming.clone()),
            _ => common(self, incoming),
        }
    }

    /// How many values of plain types one of this type has: the fields of structs, at any depth.
    pub fn leaves(&self) -> usize {
        match self {
            Self::List(item) => item.leaves(),
            Self::Map(key, value) => key.leaves() + value.leaves(),
            Self::Struct(fields) => fields.iter().map(|field| field.data_type.leaves()).sum(),
            _ => 1,
        }
    }
}

fn union(fields: &[StructField], others: &[StructField]) -> Option<Vec<StructField>> {
    let mut all = Vec::with_capacity(fields.len());
    for field in fields {
        let data_type = match others.iter().find(|other| same_column(&other.name, &field.name)) {
            Some(other) => field.data_type.widened(&other.data_type)?,
            None => field.data_type.clone(),
        };
        all.push(StructField { name: field.name.clone(), data_type });
    }
    let is_known = |other: &&StructField| fields.iter().any(|field| same_column(&field.name, &other.name));
    all.extend(others.iter().filter(|other| !is_known(other)).cloned());
    Some(all)
}

/// The type of two plain ones of which neither holds the other.
fn common(a: &SqlType, b: &SqlType) -> Option<SqlType> {
    if let (Some((a_digits, a_scale)), Some((b_digits, b_scale))) = (digits(a), digits(b)) {
        let scale = a_scale.max(b_scale);
        let precision = a_digits.max(b_digits) + scale;
        return (precision <= MAX_DECIMAL_PRECISION).then_some(SqlType::Decimal { precision, scale });
    }
    // Integers that float does not hold, and double does.
    let fits = |data_type: &SqlType| SqlType::Double.can_hold(data_type);
    (fits(a) && fits(b)).then_some(SqlType::Double)
}

/// The digits before and behind the point that a column of the type may have; `None` for what is no exact number.
fn digits(data_type: &SqlType) -> Option<(u8, u8)> {
    match data_type {
        SqlType::Decimal { precision, scale } => Some((precision - scale, *scale)),
        other => integer_bits(other).map(|bits| (decimal_digits(bits), 0)),
    }
}

#[cfg(test)]
mod tests;
