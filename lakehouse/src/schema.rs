//! Schema rules: which columns a table has, and what may come in at its door.
//!
//! A table's columns are those that it stores, then those that it declares and does not store yet, then those that its
//! rows bring ([`evolve`]). An incoming schema is compared with them *before* anything is accepted ([`admit`]), and so is
//! each batch's rows ([`bad_rows`]): a producer learns of a mismatch, and not a quarantine.

mod evolution;
mod expansion;
mod rows;
#[cfg(test)]
mod tests;
mod values;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use crate::definition::{Column, OnNewColumn, Table};
use crate::error::{Error, Result};
use crate::name::{check_column_name, same_column};
use crate::types::SqlType;

pub use evolution::{Evolved, Fate, evolve};
pub use expansion::EXPANDED_BYTES_MAX;
pub use rows::{BadRows, BadValue, bad_rows};

/// The column that `incoming` carries through a transform: the row's place in its batch.
pub const ROW_COLUMN: &str = "_row";
/// The most columns of a table: with 5,000, a merge of one row needs more memory than a merge has.
pub const COLUMNS_MAX: usize = 2_000;
/// The column of a keyed table without `sequence_by`: each row's place in the order of arrival.
pub const SEQUENCE_COLUMN: &str = "_sequence";
/// The column that keeps what `on_new_column = "rescue"` did not fit elsewhere, as JSON.
pub const RESCUED_COLUMN: &str = "_rescued";

/// Of a table with history: the sequence from which on the version of a row is valid; together with the primary key it
/// tells rows apart.
pub const VALID_FROM_COLUMN: &str = "_valid_from";
/// Of a table with history: the sequence from which on the version is not valid any more; NULL: it still is.
pub const VALID_TO_COLUMN: &str = "_valid_to";
/// Of a table with history: whether the version is the row as it is now.
pub const IS_CURRENT_COLUMN: &str = "_is_current";
/// The columns that Mallard adds to a table with history.
pub const HISTORY_COLUMNS: [&str; 3] = [VALID_FROM_COLUMN, VALID_TO_COLUMN, IS_CURRENT_COLUMN];

/// The column called `name`.
pub fn find<'a>(columns: &'a [Column], name: &str) -> Option<&'a Column> {
    columns.iter().find(|column| same_column(&column.name, name))
}

/// The columns that a table has: the stored ones in their order and as the definition wants them, then the declared
/// ones that are not stored yet, then those that Mallard adds.
///
/// # Errors
/// `Stopped` if the definition asks for what the stored table can't become. `Internal` if the stored schema has a type
/// that no table can have.
pub fn known_columns(table: &Table, stored: Option<&Schema>) -> Result<Vec<Column>> {
    Ok(evolve(table, stored, &[])?.columns)
}

/// The columns that are stored, as they are.
fn stored_columns(table: &Table, stored: Option<&Schema>) -> Result<Vec<Column>> {
    let columns = stored.map(Schema::fields).into_iter().flatten().map(|field| {
        let data_type = SqlType::from_arrow(field.data_type()).map_err(|error| {
            Error::internal(format!("stored column {:?} of {}", field.name(), table.name)).because(error)
        })?;
        Ok(Column {
            name: field.name().clone(),
            data_type,
            nullable: field.is_nullable(),
            description: table.column(field.name()).and_then(|column| column.description.clone()),
        })
    });
    columns.collect()
}

/// The columns that Mallard adds to those of a table, without what `columns` has already; none to a table that has no
/// columns yet.
fn own_columns(table: &Table, columns: &[Column]) -> Vec<Column> {
    let mut own = Vec::new();
    if columns.is_empty() {
        return own;
    }
    if table.is_keyed() && table.sequence_by.is_empty() {
        own.push(own_column(SEQUENCE_COLUMN, SqlType::Varchar));
    }
    if table.on_new_column == OnNewColumn::Rescue {
        own.push(own_column(RESCUED_COLUMN, SqlType::Varchar));
    }
    own.extend(history_columns(table, columns));
    own.retain(|column| find(columns, &column.name).is_none());
    own
}

/// The columns that a table with history has for the times of its versions: in the type of its sequence's first column,
/// which is one of `columns`, or else the time of arrival.
pub(crate) fn history_columns(table: &Table, columns: &[Column]) -> Vec<Column> {
    if !table.history {
        return Vec::new();
    }
    let sequence = table.sequence_by.first().and_then(|name| find(columns, name));
    let time = sequence.map_or(SqlType::Timestamp, |column| column.data_type.clone());
    vec![
        own_column(VALID_FROM_COLUMN, time.clone()),
        own_column(VALID_TO_COLUMN, time),
        own_column(IS_CURRENT_COLUMN, SqlType::Boolean),
    ]
}

fn own_column(name: &str, data_type: SqlType) -> Column {
    Column { name: name.to_owned(), data_type, nullable: true, description: None }
}

/// The Arrow schema of `columns`, as Delta stores it.
pub fn arrow_schema(columns: &[Column]) -> SchemaRef {
    let fields: Vec<Field> =
        columns.iter().map(|column| Field::new(&column.name, column.data_type.to_arrow(), column.nullable)).collect();
    Arc::new(Schema::new(fields))
}

/// The batch with the columns of `schema`, by position, each cast to its type: engines name the inner fields of nested
/// types differently, and mark all as nullable.
///
/// # Errors
/// `Internal` if the batch has other columns.
pub fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let failed = |error| Error::internal("a batch has other columns than its table").because(error);
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| cast_strictly(column, field.data_type()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(failed)
}

/// The table's rules with the columns spelt as `columns` has them: the definition may use another case.
pub fn spelt_as(table: &Table, columns: &[Column]) -> Table {
    let spell = |name: &mut String| {
        if let Some(column) = find(columns, name) {
            name.clone_from(&column.name);
        }
    };
    let mut table = table.clone();
    let rules = table.primary_key.iter_mut().chain(&mut table.sequence_by).chain(&mut table.partition_by);
    rules.chain(&mut table.maintenance.cluster_by).for_each(spell);
    table
}

/// Casts without turning what does not fit into NULL.
///
/// # Errors
/// Arrow's, with the first value that does not fit; also where Arrow would panic over a value that its type forbids.
pub fn cast_strictly(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let cast = || match column.data_type() {
        // Values of a dictionary that no row has need not fit.
        DataType::Dictionary(_, values) if values.as_ref() != to => {
            cast_with_options(&cast_with_options(column, values, &options)?, to, &options)
        }
        _ => cast_with_options(column, to, &options),
    };
    catch_unwind(AssertUnwindSafe(cast)).unwrap_or_else(|_| {
        let from = column.data_type();
        Err(ArrowError::CastError(format!("a value of type {from} is none that its type allows; it can't become {to}")))
    })
}

/// Checks an incoming schema against a table, before a byte of it is accepted: it takes what [`evolve`] takes.
///
/// With a transform, only what the transform can't mend is checked.
///
/// # Errors
/// `Invalid`, with the column, what is wrong with it, and what to do; those of [`evolve`].
pub fn admit(table: &Table, stored: Option<&Schema>, incoming: &Schema) -> Result<()> {
    if incoming.fields().is_empty() {
        return Err(Error::invalid(format!("the ingest into table {:?} has no columns", table.name.as_str())));
    }
    let mut columns = Vec::with_capacity(incoming.fields().len());
    for (position, field) in incoming.fields().iter().enumerate() {
        check_name(table, incoming, position, field)?;
        let data_type = SqlType::from_arrow(field.data_type());
        let data_type = data_type.map_err(|error| refuse(table, field.name(), &error.chain()))?;
        columns.push((field.name().clone(), data_type));
    }
    if table.transform.is_some() {
        return Ok(());
    }
    let evolved = evolve(table, stored, &columns)?;
    for ((name, _), fate) in columns.iter().zip(&evolved.fates) {
        if let Some(why) = fate.refusal() {
            return Err(refuse(table, name, why));
        }
    }
    check_required(table, &evolved.columns, incoming)
}

fn refuse(table: &Table, column: &str, what: &str) -> Error {
    Error::invalid(format!("column {column:?} of the ingest into table {:?}: {what}", table.name.as_str()))
}

fn check_name(table: &Table, incoming: &Schema, position: usize, field: &Field) -> Result<()> {
    check_column_name(field.name()).map_err(|error| refuse(table, field.name(), &error.chain()))?;
    if incoming.fields()[..position].iter().any(|other| same_column(other.name(), field.name())) {
        return Err(refuse(table, field.name(), "the name is there twice (case is not told apart); rename one"));
    }
    Ok(())
}

/// A key, the sequence, and what may not be NULL can't be left out.
fn check_required(table: &Table, known: &[Column], incoming: &Schema) -> Result<()> {
    let has = |name: &str| incoming.fields().iter().any(|field| same_column(field.name(), name));
    for key in &table.primary_key {
        if !has(key) {
            return Err(refuse(table, key, "it is part of the primary key, and the ingest has no such column; add it"));
        }
    }
    for partition in table.partition_by.iter().filter(|partition| find(known, partition).is_none()) {
        if !has(partition) {
            let what = "the table is partitioned by it, and its first ingest has no such column; add it, or declare it";
            return Err(refuse(table, partition, what));
        }
    }
    if let Some(sequence) = table.sequence_by.iter().find(|sequence| !has(sequence)) {
        return Err(refuse(
            table,
            sequence,
            "it orders the changes (sequence_by), and the ingest has no such column; add it",
        ));
    }
    for column in known.iter().filter(|column| !column.nullable && !column.name.starts_with('_')) {
        if !has(&column.name) {
            return Err(refuse(table, &column.name, "it may not be NULL, and the ingest has no such column; add it"));
        }
    }
    Ok(())
}
