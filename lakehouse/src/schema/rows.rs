//! The door's look at rows: which of a batch can't become rows of the table, and why.
//!
//! A row is refused here when the merge would send it to quarantine for certain, could not read it, or would lose a
//! part of it. What depends on SQL (the transform, deletes, expectations) is left to the merge.
//!
//! Rows are looked at by column: each fault is a mask over the batch with one reason, and a batch of plain types
//! without NULLs has none to compute.

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;

use super::{expansion, find, values};
use crate::Result;
use crate::definition::{Column, OnNewColumn, Table};
use crate::name::same_column;

/// What [`bad_rows`] found in a batch.
#[derive(Clone, Debug, Default)]
pub struct BadRows {
    /// True for each good row; `None`: all are good.
    pub mask: Option<BooleanArray>,
    /// How many rows are bad.
    pub count: u64,
    /// The first bad rows, in their order, each with its first fault.
    pub told: Vec<BadValue>,
}

/// A value that the table can't take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadValue {
    /// The row's position in the batch, from 0.
    pub row: usize,
    /// The column's name, as it came.
    pub column: String,
    /// What is wrong with the value and what to do: a predicate, to be read behind `column "x"`.
    pub reason: String,
}

/// The rows of `batch` that `table` can't take. `columns` are those that it has
/// ([`known_columns`](super::known_columns)); at most `told_max` rows are told one by one.
///
/// The batch's schema was admitted ([`admit`](super::admit)). With a transform, only what could not even be handed to
/// it is bad.
///
/// # Errors
/// `Exhausted` if the batch takes more than [`EXPANDED_BYTES_MAX`](super::EXPANDED_BYTES_MAX) written out. `Internal`
/// if a map's keys can't be compared.
pub fn bad_rows(table: &Table, columns: &[Column], batch: &RecordBatch, told_max: usize) -> Result<BadRows> {
    expansion::check(table, batch)?;
    let mut faults = Vec::new();
    for (position, (field, array)) in batch.schema_ref().fields().iter().zip(batch.columns()).enumerate() {
        let name = field.name();
        if table.transform.is_none()
            && let Some(nulls) = array.logical_nulls().filter(|nulls| nulls.null_count() > 0)
            && let Some(reason) = why_not_null(table, columns, name)
        {
            faults.push((position, values::Fault { good: nulls.inner().clone(), reason: reason.to_owned() }));
        }
        if values::may_be_lost(array.data_type()) {
            let found = values::faults(array, is_stored(table, columns, name))?;
            faults.extend(found.into_iter().map(|fault| (position, fault)));
        }
    }
    Ok(if faults.is_empty() { BadRows::default() } else { told(batch, &faults, told_max) })
}

fn told(batch: &RecordBatch, faults: &[(usize, values::Fault)], told_max: usize) -> BadRows {
    let mut good = BooleanBuffer::new_set(batch.num_rows());
    for (_, fault) in faults {
        good = &good & &fault.good;
    }
    let told = (0..batch.num_rows()).filter(|row| !good.value(*row)).take(told_max).filter_map(|row| {
        let (position, fault) = faults.iter().find(|(_, fault)| !fault.good.value(row))?;
        let column = batch.schema_ref().field(*position).name().clone();
        Some(BadValue { row, column, reason: fault.reason.clone() })
    });
    let told = told.collect();
    let count = (batch.num_rows() - good.count_set_bits()) as u64;
    BadRows { mask: Some(BooleanArray::new(good, None)), count, told }
}

/// Why the column called `name` may not be NULL; `None`: it may.
fn why_not_null(table: &Table, columns: &[Column], name: &str) -> Option<&'static str> {
    if table.is_key(name) {
        return Some("is NULL and part of the primary key; give it a value");
    }
    if table.sequence_by.iter().any(|sequence| same_column(sequence, name)) {
        return Some("is NULL and orders the changes (sequence_by); give it a value");
    }
    // A delete needs only its key and sequence, and what deletes is known to the merge alone.
    let may_not = || find(columns, name).is_some_and(|column| !column.nullable) && !table.drops(name);
    (table.delete_when.is_none() && may_not()).then_some("is NULL, which it may not be; give it a value")
}

/// Whether the values of the column called `name` go into the table as they come.
fn is_stored(table: &Table, columns: &[Column], name: &str) -> bool {
    let is_rescued = || table.on_new_column == OnNewColumn::Rescue && find(columns, name).is_none();
    table.transform.is_none() && !table.drops(name) && !is_rescued()
}
