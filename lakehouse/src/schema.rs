//! Schema rules: which columns a table has, and what may come in at its door.
//!
//! A table's columns are those that it stores, then those that it declares and does not store yet. An incoming schema
//! is compared with them *before* anything is accepted ([`admit`]), and so is each batch's rows ([`bad_rows`]): a
//! producer learns of a mismatch, and not a quarantine.

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

/// The column called `name`.
pub fn find<'a>(columns: &'a [Column], name: &str) -> Option<&'a Column> {
    columns.iter().find(|column| same_column(&column.name, name))
}

/// The columns that a table has: the stored ones in their order, then the declared ones that are not stored yet, then
/// those that Mallard adds.
///
/// # Errors
/// `Internal` if the stored schema has a type that no table can have.
pub fn known_columns(table: &Table, stored: Option<&Schema>) -> Result<Vec<Column>> {
    let mut columns = Vec::new();
    for field in stored.map(Schema::fields).into_iter().flatten() {
        let data_type = SqlType::from_arrow(field.data_type()).map_err(|error| {
            Error::internal(format!("stored column {:?} of {}", field.name(), table.name)).because(error)
        })?;
        columns.push(Column {
            name: field.name().clone(),
            data_type,
            nullable: field.is_nullable(),
            description: table.column(field.name()).and_then(|column| column.description.clone()),
        });
    }
    for column in table.columns.iter().filter(|column| !table.drops(&column.name)) {
        if find(&columns, &column.name).is_none() {
            // A table that already has rows has no value for them.
            columns.push(Column { nullable: column.nullable || stored.is_some(), ..column.clone() });
        }
    }
    let mut add_own = |name: &str| {
        if !columns.is_empty() && find(&columns, name).is_none() {
            columns.push(Column {
                name: name.to_owned(),
                data_type: SqlType::Varchar,
                nullable: true,
                description: None,
            });
        }
    };
    if table.is_keyed() && table.sequence_by.is_none() {
        add_own(SEQUENCE_COLUMN);
    }
    if table.on_new_column == OnNewColumn::Rescue {
        add_own(RESCUED_COLUMN);
    }
    Ok(columns)
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
    table.primary_key.iter_mut().chain(&mut table.sequence_by).chain(&mut table.partition_by).for_each(spell);
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

/// Checks an incoming schema against a table, before a byte of it is accepted.
///
/// With a transform, only what the transform can't mend is checked.
///
/// # Errors
/// `Invalid`, with the column, what is wrong with it, and what to do.
pub fn admit(table: &Table, stored: Option<&Schema>, incoming: &Schema) -> Result<()> {
    if incoming.fields().is_empty() {
        return Err(Error::invalid(format!("the ingest into table {:?} has no columns", table.name.as_str())));
    }
    for (position, field) in incoming.fields().iter().enumerate() {
        check_name(table, incoming, position, field)?;
        SqlType::from_arrow(field.data_type()).map_err(|error| refuse(table, field.name(), &error.chain()))?;
    }
    if table.transform.is_some() {
        return Ok(());
    }
    let known = known_columns(table, stored)?;
    let is_known = |field: &Field| known.iter().any(|column| same_column(&column.name, field.name()));
    let count = known.len() + incoming.fields().iter().filter(|field| !is_known(field)).count();
    if count > COLUMNS_MAX {
        return Err(Error::invalid(format!(
            "the ingest would give table {:?} {count} columns; the most is {COLUMNS_MAX}: put some into a struct or a map",
            table.name.as_str()
        )));
    }
    for field in incoming.fields() {
        check_type(table, &known, field)?;
    }
    check_required(table, &known, incoming)
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

fn check_type(table: &Table, known: &[Column], field: &Field) -> Result<()> {
    if table.drops(field.name()) {
        return Ok(());
    }
    let incoming = SqlType::from_arrow(field.data_type())?;
    match find(known, field.name()) {
        Some(column) if column.data_type.can_hold(&incoming) => Ok(()),
        Some(column) => Err(refuse(
            table,
            field.name(),
            &format!(
                "the table has {}, which can't hold {incoming} without loss; cast it before sending",
                column.data_type
            ),
        )),
        None if !known.is_empty() && table.on_new_column == OnNewColumn::Reject => {
            let names: Vec<_> = known.iter().map(|column| column.name.as_str()).collect();
            Err(refuse(
                table,
                field.name(),
                &format!(
                    "the table has no such column and takes no new ones (on_new_column = \"reject\"); it has: {}",
                    names.join(", ")
                ),
            ))
        }
        None => Ok(()),
    }
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
    if let Some(sequence) = table.sequence_by.as_deref().filter(|sequence| !has(sequence)) {
        return Err(refuse(
            table,
            sequence,
            "it orders the changes (sequence_by), and the ingest has no such column; add it",
        ));
    }
    let own = [SEQUENCE_COLUMN, RESCUED_COLUMN];
    for column in known.iter().filter(|column| !column.nullable && !own.contains(&column.name.as_str())) {
        if !has(&column.name) {
            return Err(refuse(table, &column.name, "it may not be NULL, and the ingest has no such column; add it"));
        }
    }
    Ok(())
}
