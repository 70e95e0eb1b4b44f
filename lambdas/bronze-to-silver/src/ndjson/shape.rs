//! The type that values have in common, where no table says it.
//!
//! ```text
//! whole numbers   bigint, or decimal(38,0) beyond 64 bits      objects   struct of all their keys
//! other numbers   double                                       lists     list of what their items have in common
//! true, false     boolean                                      texts     varchar
//! ```
//!
//! What has no such type in common is a varchar, which takes texts as they are and the JSON of everything else: nothing
//! is lost, and nothing is rounded.

use std::borrow::Cow;

use lakehouse::SqlType;
use lakehouse::json::{Node, Value, is_whole};
use lakehouse::name::{check_field_name, same_column};
use lakehouse::types::StructField;

/// The whole numbers that a double holds without rounding are up to 2^53 (IEEE 754, 53 bits of significand).
const EXACT_IN_DOUBLE_MAX: i128 = 1 << 53;

/// The most digits of a decimal.
const DIGITS_MAX: u8 = lakehouse::types::MAX_DECIMAL_PRECISION;

/// The most keys of objects that become a struct. More are no fields, but data: ids, names, dates.
const FIELDS_MAX: usize = 256;

/// How deep structs and lists are inferred.
const NESTING_MAX: usize = 12;

/// What the values that were seen have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Shape {
    /// There was none.
    #[default]
    Nothing,
    Bool,
    /// Whole numbers, and the lowest and highest of them.
    Whole {
        low: i128,
        high: i128,
    },
    Fraction,
    Text,
    List(Box<Shape>),
    Struct(Vec<(String, Shape)>),
    /// Nothing.
    Mixed,
}

impl Shape {
    /// Takes a value in. `room` is how many fields structs may still get, all together.
    pub(super) fn take(&mut self, node: &Node<'_>, room: &mut usize) {
        self.take_at(node, 0, room);
    }

    fn take_at(&mut self, node: &Node<'_>, depth: usize, room: &mut usize) {
        match (&mut *self, &node.value) {
            (_, Value::Null) | (Self::Mixed, _) => return,
            (Self::List(item), Value::List(nodes)) => {
                nodes.iter().for_each(|node| item.take_at(node, depth + 1, room));
                return;
            }
            (Self::Struct(fields), Value::Object(entries)) => {
                if take_fields(fields, entries, depth, room).is_none() {
                    *self = Self::Mixed;
                }
                return;
            }
            _ => {}
        }
        let before = std::mem::take(self);
        *self = before.and(Self::of(node, depth, room));
    }

    fn of(node: &Node<'_>, depth: usize, room: &mut usize) -> Self {
        match &node.value {
            Value::Null => Self::Nothing,
            Value::Bool(_) => Self::Bool,
            Value::Text(_) => Self::Text,
            Value::Number if is_whole(node.text) => {
                node.text.parse::<i128>().map_or(Self::Mixed, |number| Self::Whole { low: number, high: number })
            }
            Value::Number if node.text.parse::<f64>().is_ok_and(f64::is_finite) => Self::Fraction,
            Value::List(_) | Value::Object(_) if depth == NESTING_MAX => Self::Mixed,
            Value::List(nodes) => {
                let mut item = Self::Nothing;
                nodes.iter().for_each(|node| item.take_at(node, depth + 1, room));
                Self::List(Box::new(item))
            }
            Value::Object(entries) => {
                let mut fields = Vec::new();
                take_fields(&mut fields, entries, depth, room).map_or(Self::Mixed, |()| Self::Struct(fields))
            }
            Value::Number => Self::Mixed,
        }
    }

    /// What holds both without loss.
    fn and(self, other: Self) -> Self {
        let is_exact = |low: i128, high: i128| -EXACT_IN_DOUBLE_MAX <= low && high <= EXACT_IN_DOUBLE_MAX;
        match (self, other) {
            (Self::Nothing, one) | (one, Self::Nothing) => one,
            (Self::Bool, Self::Bool) => Self::Bool,
            (Self::Text, Self::Text) => Self::Text,
            (Self::Fraction, Self::Fraction) => Self::Fraction,
            (Self::Whole { low, high }, Self::Whole { low: its_low, high: its_high }) => {
                Self::Whole { low: low.min(its_low), high: high.max(its_high) }
            }
            (Self::Whole { low, high }, Self::Fraction) | (Self::Fraction, Self::Whole { low, high })
                if is_exact(low, high) =>
            {
                Self::Fraction
            }
            _ => Self::Mixed,
        }
    }

    /// The type of a column of such values; `None` if there was no value.
    pub(super) fn to_type(&self) -> Option<SqlType> {
        Some(match self {
            Self::Nothing => return None,
            Self::Bool => SqlType::Boolean,
            Self::Whole { low, high } => match digits(*low, *high) {
                _ if i64::try_from(*low).is_ok() && i64::try_from(*high).is_ok() => SqlType::BigInt,
                ..=DIGITS_MAX => SqlType::Decimal { precision: DIGITS_MAX, scale: 0 },
                _ => SqlType::Varchar,
            },
            Self::Fraction => SqlType::Double,
            Self::Text | Self::Mixed => SqlType::Varchar,
            Self::List(item) => SqlType::List(Box::new(item.to_part_type())),
            // A struct has a field at least.
            Self::Struct(fields) if fields.is_empty() => SqlType::Varchar,
            Self::Struct(fields) => {
                let fields = fields.iter().map(|(name, shape)| field(name, shape.to_part_type()));
                SqlType::Struct(fields.collect())
            }
        })
    }

    /// The type of a part, which must have one.
    fn to_part_type(&self) -> SqlType {
        self.to_type().unwrap_or(SqlType::Varchar)
    }

    /// `known`, widened as far as it can be to take such values: integers by their bits, decimals by their digits,
    /// structs by fields. What it can't take then is not of its kind.
    pub(super) fn widen(&self, known: &SqlType) -> SqlType {
        match (known, self) {
            (SqlType::TinyInt | SqlType::SmallInt | SqlType::Integer | SqlType::BigInt, Self::Whole { low, high }) => {
                widest_integer(known, *low, *high)
            }
            (SqlType::Decimal { precision, scale }, Self::Whole { low, high }) => {
                let needed = digits(*low, *high).saturating_add(*scale);
                let precision = if needed <= DIGITS_MAX { needed.max(*precision) } else { *precision };
                SqlType::Decimal { precision, scale: *scale }
            }
            (SqlType::List(item), Self::List(shape)) => SqlType::List(Box::new(shape.widen(item))),
            (SqlType::Struct(known), Self::Struct(shapes)) => {
                let of = |name: &str| shapes.iter().find(|(other, _)| same_column(other, name)).map(|(_, shape)| shape);
                let is_known = |name: &str| known.iter().any(|known| same_column(&known.name, name));
                let old = known.iter().map(|known| match of(&known.name) {
                    Some(shape) => field(&known.name, shape.widen(&known.data_type)),
                    None => known.clone(),
                });
                let new = shapes.iter().filter(|(name, _)| !is_known(name));
                SqlType::Struct(old.chain(new.map(|(name, shape)| field(name, shape.to_part_type()))).collect())
            }
            _ => known.clone(),
        }
    }
}

/// Takes the values of an object in; `None` if it can be no struct.
fn take_fields(
    fields: &mut Vec<(String, Shape)>,
    entries: &[(Cow<'_, str>, Node<'_>)],
    depth: usize,
    room: &mut usize,
) -> Option<()> {
    let mut is_taken = vec![false; fields.len()];
    for (position, (key, node)) in entries.iter().enumerate() {
        // Most objects have the same keys in the same order.
        let is_next = fields.get(position).is_some_and(|(name, _)| name == key);
        let known = if is_next { Some(position) } else { fields.iter().position(|(name, _)| same_column(name, key)) };
        let at = match known {
            Some(at) => at,
            None => {
                if fields.len() == FIELDS_MAX || *room == 0 || check_field_name(key).is_err() {
                    return None;
                }
                *room -= 1;
                fields.push((key.to_string(), Shape::Nothing));
                is_taken.push(false);
                fields.len() - 1
            }
        };
        // Two keys that differ in case only are one field, and have two values.
        if std::mem::replace(is_taken.get_mut(at)?, true) {
            return None;
        }
        fields.get_mut(at)?.1.take_at(node, depth + 1, room);
    }
    Some(())
}

fn field(name: &str, data_type: SqlType) -> StructField {
    StructField { name: name.to_owned(), data_type }
}

/// How many digits the numbers from `low` to `high` have at most.
fn digits(low: i128, high: i128) -> u8 {
    let of = |number: i128| number.unsigned_abs().checked_ilog10().map_or(1, |log| log + 1);
    u8::try_from(of(low).max(of(high))).unwrap_or(u8::MAX)
}

/// The smallest integer type that takes what `known` takes, and the numbers from `low` to `high`.
fn widest_integer(known: &SqlType, low: i128, high: i128) -> SqlType {
    let fits = |bits: u32| {
        let most = (1_i128 << (bits - 1)) - 1;
        -most - 1 <= low && high <= most
    };
    let types = [(8, SqlType::TinyInt), (16, SqlType::SmallInt), (32, SqlType::Integer), (64, SqlType::BigInt)];
    let wide = types.into_iter().find(|(bits, wide)| fits(*bits) && wide.can_hold(known)).map(|(_, wide)| wide);
    wide.unwrap_or_else(|| match digits(low, high) {
        ..=DIGITS_MAX => SqlType::Decimal { precision: DIGITS_MAX, scale: 0 },
        _ => known.clone(),
    })
}
