//! Rows that were read become one Arrow batch; those that can't be part of it are told why.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, Schema};
use arrow::error::ArrowError;
use lakehouse::definition::{Column, Table};
use lakehouse::json::{Cells, Manner, Node, Value, Values};
use lakehouse::schema::bad_rows;
use lakehouse::{Error, Result, SqlType};

use super::FRAME_CELLS_MAX;
use super::chunks::{Entries, Line};
use super::plan::Plan;

/// How often filling a frame begins anew because a row is too much for it.
const FILL_TRIES_MAX: usize = 16;

/// The good rows of some lines.
pub(super) struct Rows {
    pub(super) batch: RecordBatch,
    /// The positions of the other lines, in order, each with the reason.
    pub(super) bad: Vec<(usize, String)>,
}

/// The position of a line, and what is wrong with it.
type Bad = (usize, String);

/// Makes rows of `lines`.
///
/// # Errors
/// `Internal`, if Arrow does not take what was made for it.
pub(super) fn build(table: &Table, plan: &Plan, lines: &[Line<'_>]) -> Result<Rows> {
    let mut bad: Vec<Bad> = Vec::new();
    let mut rows = Vec::with_capacity(lines.len());
    for (position, line) in lines.iter().enumerate() {
        match &line.entries {
            Ok(entries) => rows.push((position, entries)),
            Err(reason) => bad.push((position, reason.clone())),
        }
    }
    let types = plan.types();
    if types.iter().all(|(_, data_type)| data_type.is_none()) {
        // No column at all. What has a value then has it under a name that no column can have.
        for (position, entries) in rows.drain(..) {
            let refused = entries.iter().find(|(_, node)| !matches!(node.value, Value::Null));
            let reason = refused.map_or_else(
                || "it has no value; write an object with a key for each column".to_owned(),
                |(key, _)| Plan::why_no_place(key),
            );
            bad.push((position, reason));
        }
    }
    let mut tries = FILL_TRIES_MAX;
    let filled = loop {
        match fill(plan, &types, &rows) {
            Ok(filled) => break filled,
            Err(row) => {
                // Mostly this row alone is too much. If not, what comes before it fits.
                tries = tries.saturating_sub(1);
                let refused = if tries > 0 { rows.drain(row..=row) } else { rows.drain(row..) };
                let what = "it has too many values, those that are missing in structs counted; write smaller objects";
                bad.extend(refused.map(|(position, _)| (position, what.to_owned())));
            }
        }
    };
    let (batch, of_no_use) = filled.finish(table, &types)?;
    bad.extend(of_no_use);
    bad.sort_by_key(|(position, _)| *position);
    Ok(Rows { batch, bad })
}

/// Columns that were filled with rows.
struct Filled {
    columns: Vec<Option<Values>>,
    /// Of each of their rows.
    is_good: Vec<bool>,
    /// Of the good ones, the positions of their lines.
    positions: Vec<usize>,
    bad: Vec<Bad>,
}

/// Fills columns with `rows`, or gives the first row for which there is no room.
fn fill<'a>(
    plan: &Plan,
    types: &[(&str, Option<SqlType>)],
    rows: &[(usize, &'a Entries<'a>)],
) -> Result<Filled, usize> {
    let mut columns: Vec<Option<Values>> = types
        .iter()
        .map(|(_, data_type)| data_type.as_ref().map(|data_type| Values::new(data_type, Manner::File)))
        .collect();
    let mut cells = Cells::new(FRAME_CELLS_MAX);
    let (mut bad, mut positions, mut is_good) = (Vec::new(), Vec::new(), Vec::new());
    let mut values: Vec<Option<&'a Node<'a>>> = vec![None; columns.len()];
    for (row, &(position, entries)) in rows.iter().enumerate() {
        values.fill(None);
        if let Err(reason) = lay_out(plan, entries, &mut values) {
            bad.push((position, reason));
            continue;
        }
        let mut fault = None;
        for ((column, value), (name, _)) in columns.iter_mut().zip(&values).zip(types) {
            let Some(column) = column else { continue };
            if let Err(reason) = column.append(*value, &mut cells) {
                fault.get_or_insert_with(|| format!("column {name:?}: {reason}"));
            }
            if cells.is_over() {
                return Err(row);
            }
        }
        is_good.push(fault.is_none());
        match fault {
            Some(reason) => bad.push((position, reason)),
            None => positions.push(position),
        }
    }
    Ok(Filled { columns, is_good, positions, bad })
}

/// Puts the values of a row where their columns are.
fn lay_out<'a>(plan: &Plan, entries: &'a Entries<'a>, values: &mut [Option<&'a Node<'a>>]) -> Result<(), String> {
    for (key, node) in entries.iter().filter(|(_, node)| !matches!(node.value, Value::Null)) {
        let place = plan.place(key).and_then(|at| values.get_mut(at));
        let Some(value) = place else { return Err(Plan::why_no_place(key)) };
        if value.replace(node).is_some() {
            return Err(format!("column {key:?}: two keys name it (case is not told apart); write one"));
        }
    }
    Ok(())
}

impl Filled {
    /// The good rows as a batch, and the others.
    fn finish(self, table: &Table, types: &[(&str, Option<SqlType>)]) -> Result<(RecordBatch, Vec<Bad>)> {
        let Self { columns, is_good, positions, mut bad } = self;
        let (batch, columns) = into_batch(columns, types, &is_good).map_err(unbuilt)?;
        let (batch, misfits) = without_misfits(table, &columns, batch)?;
        let of_line = |(row, reason): Bad| positions.get(row).map(|position| (*position, reason));
        bad.extend(misfits.into_iter().filter_map(of_line));
        Ok((batch, bad))
    }
}

fn into_batch(
    filled: Vec<Option<Values>>,
    types: &[(&str, Option<SqlType>)],
    is_good: &[bool],
) -> Result<(RecordBatch, Vec<Column>), ArrowError> {
    let (mut columns, mut fields, mut arrays) = (Vec::new(), Vec::new(), Vec::<ArrayRef>::new());
    for (values, (name, data_type)) in filled.into_iter().zip(types) {
        let (Some(values), Some(data_type)) = (values, data_type) else { continue };
        arrays.push(values.finish()?);
        fields.push(Field::new(*name, data_type.to_arrow(), true));
        let name = (*name).to_owned();
        columns.push(Column { name, data_type: data_type.clone(), nullable: true, description: None });
    }
    let options = RecordBatchOptions::new().with_row_count(Some(is_good.len()));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?;
    if is_good.iter().all(|is_good| *is_good) {
        return Ok((batch, columns));
    }
    Ok((filter_record_batch(&batch, &BooleanArray::from(is_good.to_vec()))?, columns))
}

/// The rows whose values a table can hold: years within the calendar, maps without a key twice. Whether something is
/// missing is for the merge to say, which knows what is a delete.
fn without_misfits(table: &Table, columns: &[Column], batch: RecordBatch) -> Result<(RecordBatch, Vec<Bad>)> {
    let without_rules = Table { primary_key: Vec::new(), sequence_by: Default::default(), ..table.clone() };
    let found = bad_rows(&without_rules, columns, &batch, batch.num_rows())?;
    let Some(good) = found.mask else { return Ok((batch, Vec::new())) };
    let told = found.told.into_iter().map(|bad| (bad.row, format!("column {:?} {}", bad.column, bad.reason)));
    Ok((filter_record_batch(&batch, &good).map_err(unbuilt)?, told.collect()))
}

fn unbuilt(error: ArrowError) -> Error {
    Error::internal("the rows of a bronze object can't be made an Arrow batch").because(error)
}
