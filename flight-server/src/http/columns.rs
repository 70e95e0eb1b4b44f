//! The columns of a body: those that the table has, and new ones, whose type all their values decide together.

use arrow::array::ArrayRef;
use arrow::error::ArrowError;
use lakehouse::SqlType;
use lakehouse::json::{Cells, Manner, Node, Value, Values, is_whole, whole};

use crate::door::DoorColumn;

/// The whole numbers that a double holds without rounding are up to 2^53 (IEEE 754, 53 bits of significand).
const EXACT_IN_DOUBLE_MAX: i64 = 1 << 53;

/// A column that the table has.
pub(super) struct Known {
    pub(super) name: String,
    /// Whether the door wants to see it in any case.
    pub(super) is_required: bool,
    pub(super) values: Values,
    /// How many rows it has a value for.
    pub(super) length: usize,
    /// Whether a good row has a value for it.
    pub(super) is_there: bool,
}

/// A column that the table doesn't have: its values, and the rows that they are in.
pub(super) struct New<'a> {
    pub(super) name: String,
    pub(super) cells: Vec<(usize, &'a str)>,
    /// Whether a good row has a value for it.
    pub(super) is_there: bool,
}

impl Known {
    pub(super) fn new(door: &DoorColumn) -> Self {
        let DoorColumn { column, is_declared } = door;
        // Rows made it a varchar, so it takes what made it one.
        let values = match &column.data_type {
            SqlType::Varchar if !is_declared => Values::any_text(),
            data_type => Values::new(data_type, Manner::Door),
        };
        Self { name: column.name.clone(), is_required: !column.nullable, values, length: 0, is_there: false }
    }

    /// NULLs up to row `length`.
    pub(super) fn pad(&mut self, length: usize, cells: &mut Cells) -> Result<(), String> {
        while self.length < length {
            self.values.append(None, cells)?;
            self.length += 1;
        }
        Ok(())
    }

    pub(super) fn finish(mut self, length: usize, cells: &mut Cells) -> Result<(String, ArrayRef), ArrowError> {
        // Fails only when `cells` are over, which the caller sees.
        self.pad(length, cells).map_err(ArrowError::ComputeError)?;
        Ok((self.name, self.values.finish()?))
    }
}

/// What the values of a new column have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Common {
    Bool,
    /// Whole numbers that a double holds.
    Whole,
    /// Whole numbers of 64 bits.
    Long,
    Fraction,
    /// Text, or JSON as text.
    Text,
}

impl Common {
    fn of(node: &Node<'_>) -> Self {
        match &node.value {
            Value::Bool(_) => Self::Bool,
            Value::Number if is_whole(node.text) => match node.text.parse::<i64>() {
                Ok(number) if (-EXACT_IN_DOUBLE_MAX..=EXACT_IN_DOUBLE_MAX).contains(&number) => Self::Whole,
                Ok(_) => Self::Long,
                Err(_) => Self::Text,
            },
            Value::Number if node.text.parse::<f64>().is_ok_and(f64::is_finite) => Self::Fraction,
            _ => Self::Text,
        }
    }

    /// What holds both without loss.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (one, other) if one == other => one,
            (Self::Whole, Self::Long) | (Self::Long, Self::Whole) => Self::Long,
            (Self::Whole, Self::Fraction) | (Self::Fraction, Self::Whole) => Self::Fraction,
            _ => Self::Text,
        }
    }

    fn values(self) -> Values {
        match self {
            Self::Bool => Values::new(&SqlType::Boolean, Manner::Door),
            Self::Whole | Self::Long => Values::new(&SqlType::BigInt, Manner::Door),
            Self::Fraction => Values::new(&SqlType::Double, Manner::Door),
            Self::Text => Values::any_text(),
        }
    }
}

impl New<'_> {
    pub(super) fn of(name: &str) -> Self {
        Self { name: name.to_owned(), cells: Vec::new(), is_there: false }
    }

    pub(super) fn finish(&self, length: usize, cells: &mut Cells) -> Result<(String, ArrayRef), ArrowError> {
        // They were read once, so they can be read.
        let nodes = || self.cells.iter().filter_map(|(row, text)| Some((*row, whole(text).ok()?)));
        let common = nodes().map(|(_, node)| Common::of(&node)).reduce(Common::and).unwrap_or(Common::Text);
        let (name, values) = (self.name.clone(), common.values());
        let mut column = Known { name, is_required: false, values, length: 0, is_there: true };
        for (row, node) in nodes() {
            column.pad(row, cells).map_err(ArrowError::ComputeError)?;
            column.length += 1;
            column.values.append(Some(&node), cells).map_err(ArrowError::ComputeError)?;
        }
        column.finish(length, cells)
    }
}
