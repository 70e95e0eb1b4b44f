//! A body of JSON becomes one Arrow batch, and a list of the rows that can't be part of it.
//!
//! ```text
//! body ─► rows: an object, those of an array, or a line each
//!           └─► each key: a column that the table has  ─► a value of its type, or the row is bad
//!                         a column that it doesn't have ─► kept until all rows are read, then a type for all of them
//! ```
//!
//! A body that is sent again should give the same batch again, though the table got new columns in between, perhaps by
//! this very body. So the columns of the batch are those that the good rows have a value for, in the order in which these
//! occur; NULL is as good as missing; and a column that the definition doesn't declare takes what would have made it.
//! What the table still decides is each column's type and spelling, which change if another body was first to make it.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, BooleanBufferBuilder, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, Schema};
use arrow::error::ArrowError;
use lakehouse::Error;
use lakehouse::json::{Broken, CELLS_MAX, Cells, Node, Reader, Value, place};
use lakehouse::schema::COLUMNS_MAX;

use super::columns::{Known, New};
use super::errors::{ApiError, BadRow, BadRows};
use crate::door::{BAD_ROWS_TOLD_MAX, DoorColumn};
use crate::engine::batch_bytes;

/// The most rows in one body.
pub(super) const ROWS_MAX: usize = 1_000_000;

/// How rows lie in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One object, or an array of objects.
    Document,
    /// An object a line.
    Lines,
    /// What it looks like.
    Any,
}

/// Where a row was in its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// From 1.
    pub(super) row: u64,
    /// From 1, if rows are lines.
    pub(super) line: Option<u64>,
}

/// What a body holds.
#[derive(Debug)]
pub(super) struct Rows {
    /// The good rows; none if there are none.
    pub(super) batch: Option<RecordBatch>,
    /// Where each row of the batch was.
    pub(super) places: Vec<Place>,
    pub(super) bad: BadRows,
}

impl Rows {
    /// What they take in memory.
    pub(super) fn bytes(&self) -> usize {
        self.batch.as_ref().map_or(0, batch_bytes) + self.places.len() * size_of::<Place>()
    }
}

/// Reads a body for a table with `columns`; without any, the rows alone decide.
///
/// # Errors
/// If it is no JSON or has no rows, and if it has too many.
pub(super) fn read(body: &str, columns: &[DoorColumn], shape: Shape) -> Result<Rows, ApiError> {
    let body = body.strip_prefix('\u{feff}').unwrap_or(body);
    let mut table = Table::new(columns);
    if is_lines(body, shape) {
        table.read_lines(body)?;
    } else {
        table.read_document(body)?;
    }
    if table.places.is_empty() && table.bad.count == 0 {
        return Err(ApiError::invalid(
            "the body has no rows; send an object, an array of objects, or an object a line",
        ));
    }
    table.finish()
}

fn is_lines(body: &str, shape: Shape) -> bool {
    match shape {
        Shape::Document => false,
        Shape::Lines => true,
        Shape::Any if body.trim_start().starts_with('[') => false,
        Shape::Any => {
            let mut reader = Reader::new(body);
            reader.row().is_err() || !reader.is_over()
        }
    }
}

#[derive(Clone, Copy)]
enum Slot {
    Known(usize),
    New(usize),
}

struct Table<'a> {
    known: Vec<Known>,
    new: Vec<New<'a>>,
    /// By name as it was written somewhere.
    slots: HashMap<String, Slot>,
    /// By name in lower case.
    lower: HashMap<String, Slot>,
    /// Columns that good rows have values for, in the order in which these occurred.
    order: Vec<Slot>,
    /// Those that the row under way has the first values for.
    first: Vec<Slot>,
    /// Whether any good row has a key, be it for a NULL.
    has_keys: bool,
    /// Rows so far, with the bad ones.
    length: usize,
    is_good: BooleanBufferBuilder,
    places: Vec<Place>,
    bad: BadRows,
    cells: Cells,
}

/// What is wrong with a row.
struct Fault {
    column: Option<String>,
    reason: String,
}

impl<'a> Table<'a> {
    fn new(columns: &[DoorColumn]) -> Self {
        // What begins with _ is Mallard's own.
        let known: Vec<Known> =
            columns.iter().filter(|door| !door.column.name.starts_with('_')).map(Known::new).collect();
        let names = known.iter().enumerate();
        let lower = names.map(|(at, column)| (column.name.to_lowercase(), Slot::Known(at))).collect();
        Self {
            known,
            new: Vec::new(),
            slots: HashMap::new(),
            lower,
            order: Vec::new(),
            first: Vec::new(),
            has_keys: false,
            length: 0,
            is_good: BooleanBufferBuilder::new(0),
            places: Vec::new(),
            bad: BadRows::default(),
            cells: Cells::default(),
        }
    }

    fn read_document(&mut self, body: &'a str) -> Result<(), ApiError> {
        let mut reader = Reader::new(body);
        let broken = |broken: Broken| {
            let (line, column) = place(body, broken.at);
            ApiError::invalid(format!("the JSON is broken at line {line}, column {column}: {}", broken.what))
        };
        if !reader.take(b'[') {
            let node = reader.row().map_err(broken)?;
            if !reader.is_over() {
                let what = "something follows the object; for an object a line send content-type application/x-ndjson";
                return Err(broken(reader.broken(what)));
            }
            return self.take(&node, reader.take_flaw(), None);
        }
        if reader.take(b']') {
            return Ok(());
        }
        loop {
            let node = reader.row().map_err(broken)?;
            self.take(&node, reader.take_flaw(), None)?;
            if reader.take(b']') {
                break;
            }
            if !reader.take(b',') {
                return Err(broken(reader.broken("a comma or ] is missing")));
            }
        }
        if reader.is_over() { Ok(()) } else { Err(broken(reader.broken("something follows the array"))) }
    }

    fn read_lines(&mut self, body: &'a str) -> Result<(), ApiError> {
        for (text, line) in body.split('\n').zip(1..) {
            if text.trim_ascii().is_empty() {
                continue;
            }
            let mut reader = Reader::new(text);
            let node = match reader.row() {
                Ok(_) if !reader.is_over() => Err(reader.broken("something follows the object; begin a new line")),
                read => read,
            };
            match node {
                Ok(node) => self.take(&node, reader.take_flaw(), Some(line))?,
                Err(broken) => {
                    let (_, column) = place(text, broken.at);
                    let reason = format!("the JSON is broken at column {column} of the line: {}", broken.what);
                    self.refuse(Some(line), Fault { column: None, reason })?;
                }
            }
        }
        Ok(())
    }

    /// Takes a row, or notes what is wrong with it.
    fn take(&mut self, node: &Node<'a>, flaw: Option<String>, line: Option<u64>) -> Result<(), ApiError> {
        let entries = match (&node.value, flaw) {
            (_, Some(reason)) => return self.refuse(line, Fault { column: None, reason }),
            (Value::Object(entries), None) => entries,
            (other, None) => {
                let reason = format!("it is {}, not an object; send each row as an object", other.kind());
                return self.refuse(line, Fault { column: None, reason });
            }
        };
        for (key, value) in entries.iter().filter(|(_, node)| !matches!(node.value, Value::Null)) {
            let slot = self.slot(key)?;
            if let Err(reason) = self.set(slot, value) {
                self.check_room()?;
                return self.refuse(line, Fault { column: Some(key.to_string()), reason });
            }
        }
        self.has_keys |= !entries.is_empty();
        self.note_first();
        let place = self.next_place(line)?;
        self.places.push(place);
        self.is_good.append(true);
        self.length += 1;
        Ok(())
    }

    /// The row under way is good, so the columns that it has the first values for are there.
    fn note_first(&mut self) {
        for slot in self.first.drain(..) {
            let is_there = match slot {
                Slot::Known(at) => self.known.get_mut(at).map(|column| &mut column.is_there),
                Slot::New(at) => self.new.get_mut(at).map(|column| &mut column.is_there),
            };
            if let Some(is_there) = is_there {
                *is_there = true;
                self.order.push(slot);
            }
        }
    }

    /// Leaves out the row under way.
    fn refuse(&mut self, line: Option<u64>, fault: Fault) -> Result<(), ApiError> {
        let Place { row, line } = self.next_place(line)?;
        let length = self.length;
        self.first.clear();
        for column in &mut self.new {
            // A row has one value of a column at most.
            if column.cells.last().is_some_and(|(row, _)| *row == length) {
                column.cells.pop();
            }
        }
        self.bad.push(BadRow { row, line, column: fault.column, reason: fault.reason });
        self.is_good.append(false);
        self.length += 1;
        Ok(())
    }

    fn next_place(&self, line: Option<u64>) -> Result<Place, ApiError> {
        if self.length == ROWS_MAX {
            return Err(ApiError::too_large(format!("the body has more than {ROWS_MAX} rows; send fewer at once")));
        }
        Ok(Place { row: u64::try_from(self.length).unwrap_or(u64::MAX).saturating_add(1), line })
    }

    fn check_room(&self) -> Result<(), ApiError> {
        if !self.cells.is_over() {
            return Ok(());
        }
        Err(ApiError::too_large(format!(
            "the body's rows have more than {CELLS_MAX} values, those that are missing counted; send fewer rows at once"
        )))
    }

    /// The column called `key`.
    fn slot(&mut self, key: &str) -> Result<Slot, ApiError> {
        if let Some(slot) = self.slots.get(key) {
            return Ok(*slot);
        }
        let lower = key.to_lowercase();
        let slot = match self.lower.get(&lower) {
            Some(slot) => *slot,
            None => {
                if self.new.len() == COLUMNS_MAX {
                    let what = "put some into a list, or under one key";
                    return Err(ApiError::too_large(format!("the rows have over {COLUMNS_MAX} new columns; {what}")));
                }
                self.new.push(New::of(key));
                let slot = Slot::New(self.new.len() - 1);
                self.lower.insert(lower, slot);
                slot
            }
        };
        self.slots.insert(key.to_owned(), slot);
        Ok(slot)
    }

    /// Sets a value of the row under way, which is not NULL.
    fn set(&mut self, slot: Slot, value: &Node<'a>) -> Result<(), String> {
        let twice = || Err("two keys name this column (case is not told apart); send one".to_owned());
        match slot {
            Slot::Known(at) => {
                let Some(column) = self.known.get_mut(at) else { return Ok(()) };
                if column.length > self.length {
                    return twice();
                }
                if !column.is_there {
                    self.first.push(slot);
                }
                column.pad(self.length, &mut self.cells)?;
                column.length += 1;
                column.values.append(Some(value), &mut self.cells)
            }
            Slot::New(at) => {
                let Some(column) = self.new.get_mut(at) else { return Ok(()) };
                if column.cells.last().is_some_and(|(row, _)| *row == self.length) {
                    return twice();
                }
                if !column.is_there {
                    self.first.push(slot);
                }
                column.cells.push((self.length, value.text));
                if self.cells.take() { Ok(()) } else { Err("there are too many values".to_owned()) }
            }
        }
    }

    fn finish(mut self) -> Result<Rows, ApiError> {
        if self.places.is_empty() {
            return Ok(Rows { batch: None, places: self.places, bad: self.bad });
        }
        let known = self.known.iter().enumerate();
        let missing = known.filter(|(_, column)| column.is_required && !column.is_there);
        self.order.extend(missing.map(|(at, _)| Slot::Known(at)));
        if self.order.is_empty() && self.has_keys && !self.known.is_empty() {
            // Rows of NULLs are rows, and need a column to be in.
            self.order.push(Slot::Known(0));
        }
        if self.order.is_empty() {
            return Ok(self.without_values());
        }
        let mut known: Vec<Option<Known>> = std::mem::take(&mut self.known).into_iter().map(Some).collect();
        let mut columns: Vec<(String, ArrayRef)> = Vec::with_capacity(self.order.len());
        for slot in std::mem::take(&mut self.order) {
            let column = match slot {
                Slot::Known(at) => match known.get_mut(at).and_then(Option::take) {
                    Some(column) => column.finish(self.length, &mut self.cells),
                    None => continue,
                },
                Slot::New(at) => match self.new.get(at) {
                    Some(column) => column.finish(self.length, &mut self.cells),
                    None => continue,
                },
            };
            self.check_room()?;
            columns.push(column.map_err(unbuilt)?);
        }
        let fields: Vec<Field> =
            columns.iter().map(|(name, values)| Field::new(name, values.data_type().clone(), true)).collect();
        let values = columns.into_iter().map(|(_, values)| values).collect();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), values).map_err(unbuilt)?;
        let batch = if self.bad.count == 0 {
            batch
        } else {
            filter_record_batch(&batch, &BooleanArray::new(self.is_good.finish(), None)).map_err(unbuilt)?
        };
        Ok(Rows { batch: Some(batch), places: self.places, bad: self.bad })
    }

    /// No column at all, so no row is good.
    fn without_values(mut self) -> Rows {
        let reason = "it has no value; send an object with a key for each column";
        let count = u64::try_from(self.places.len()).unwrap_or(u64::MAX);
        let told = self.places.iter().take(BAD_ROWS_TOLD_MAX).map(|place| BadRow {
            row: place.row,
            line: place.line,
            column: None,
            reason: reason.to_owned(),
        });
        self.bad.add(count, told);
        Rows { batch: None, places: Vec::new(), bad: self.bad }
    }
}

fn unbuilt(error: ArrowError) -> ApiError {
    Error::internal("the rows can't be made an Arrow batch").because(error).into()
}
