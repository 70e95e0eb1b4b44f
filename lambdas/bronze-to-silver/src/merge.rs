//! One Delta commit from the changes of a merge.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{filter_record_batch, not};
use datafusion::common::{Column as ColumnName, ScalarValue, TableReference};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, when};
use datafusion::prelude::SessionContext;
use deltalake::DeltaTable;
use deltalake::operations::merge::MergeBuilder;
use lakehouse::definition::{Column, Table};
use lakehouse::delta::{self, Commit};
use lakehouse::{Context, Error, Kind, Result};

use crate::sql::sequence_column;
use crate::stage::Changes;
use crate::tombstones::between;

const SOURCE: &str = "source";
const TARGET: &str = "target";

fn source(name: &str) -> Expr {
    Expr::Column(ColumnName::new(Some(TableReference::bare(SOURCE)), name))
}

fn target(name: &str) -> Expr {
    Expr::Column(ColumnName::new(Some(TableReference::bare(TARGET)), name))
}

/// Adds rows, without looking at what is there: an append-only table, or a keyed one that is still empty.
pub(crate) async fn append(delta: DeltaTable, table: &Table, changes: Changes, commit: &Commit) -> Result<DeltaTable> {
    let batches = if table.is_keyed() {
        changes.batches.iter().map(upserts_only).collect::<Result<Vec<_>>>()?
    } else {
        changes.batches
    };
    if batches.iter().all(|batch| batch.num_rows() == 0) {
        return delta::commit_only(delta, commit).await;
    }
    delta::append(delta, batches, commit).await
}

/// The rows that are no deletes, without the last two columns, `_delete` and `_reset`.
fn upserts_only(batch: &RecordBatch) -> Result<RecordBatch> {
    let failed = |error| Error::internal("can't take the deletes out of a batch").because(error);
    let columns = batch.num_columns() - 2;
    let kept = not(batch.column(columns).as_boolean()).map_err(failed)?;
    let upserts = filter_record_batch(batch, &kept).map_err(failed)?;
    upserts.project(&(0..columns).collect::<Vec<_>>()).map_err(failed)
}

/// Merges changes by key: the higher sequence wins, deletes included.
pub(crate) async fn merge(
    delta: DeltaTable,
    table: &Table,
    columns: &[Column],
    changes: Changes,
    range: (ScalarValue, ScalarValue),
    session: &Arc<SessionState>,
    commit: &Commit,
) -> Result<DeltaTable> {
    let what = || format!("can't merge into table silver.{}", table.name);
    let before = delta.version();
    let context = SessionContext::new_with_state(session.as_ref().clone());
    let frame = context.read_batches(changes.batches).context(Kind::Internal, what)?;
    let key = table.primary_key.iter().map(|key| target(key).eq(source(key)));
    let first_key = ColumnName::new(Some(TableReference::bare(TARGET)), &table.primary_key[0]);
    // The range holds every source key, so it changes no match: it only prunes files.
    let on = key.fold(between(first_key, range), Expr::and);
    let builder = delta
        .merge(frame, on)
        .with_source_alias(SOURCE)
        .with_target_alias(TARGET)
        .with_session_state(Arc::clone(session) as _)
        .with_writer_properties(delta::writer_properties())
        .with_commit_properties(commit.properties());
    let builder = clauses(builder, table, columns).map_err(|error| delta::convert(&what(), error))?;
    let (merged, _) = builder.await.map_err(|error| delta::convert(&what(), error))?;
    if merged.version() == before {
        // delta-rs commits nothing if no row changed; the frames must be recorded all the same.
        return delta::commit_only(merged, commit).await;
    }
    Ok(merged)
}

fn clauses(builder: MergeBuilder, table: &Table, columns: &[Column]) -> deltalake::DeltaResult<MergeBuilder> {
    let sequence = sequence_column(table);
    let is_delete = source("_delete");
    // Rows from before the table had a sequence have none.
    let newer = source(sequence).gt(target(sequence)).or(target(sequence).is_null());
    let not_older = source(sequence).gt_eq(target(sequence)).or(target(sequence).is_null());
    let is_key = |column: &&Column| table.is_key(&column.name);
    let builder = if table.delete_when.is_some() {
        builder.when_matched_delete(|delete| delete.predicate(is_delete.clone().and(not_older)))?
    } else {
        builder
    };
    builder
        .when_matched_update(|update| {
            columns
                .iter()
                .filter(|column| !is_key(column))
                .fold(update.predicate(Expr::Not(Box::new(is_delete.clone())).and(newer)), |update, column| {
                    update.update(ColumnName::new_unqualified(&column.name), updated(table, &column.name))
                })
        })?
        .when_not_matched_insert(|insert| {
            columns.iter().fold(insert.predicate(Expr::Not(Box::new(is_delete.clone()))), |insert, column| {
                insert.set(ColumnName::new_unqualified(&column.name), source(&column.name))
            })
        })
}

/// The value that a column gets from an update.
fn updated(table: &Table, column: &str) -> Expr {
    if !table.ignore_null_updates {
        return source(column);
    }
    let takes = source("_reset").or(source(column).is_not_null());
    when(takes, source(column)).otherwise(target(column)).unwrap_or_else(|_| source(column))
}
