//! Deleted keys with the sequence of their delete, so that a late update does not bring a row back.
//!
//! A tombstone is written *before* the silver commit that deletes the row. If the merge dies between the two, the
//! delete is still in bronze and comes again; until then the tombstone only holds back what the delete would overtake.
//! Those older than the table's `tombstone_retention` no longer count; maintenance takes them out.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::Column as ColumnName;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, lit};
use datafusion::scalar::ScalarValue;
use futures::TryStreamExt;
use lakehouse::definition::{Column, Table};
use lakehouse::delta::{self, Commit};
use lakehouse::schema::{conform, find};
use lakehouse::{Context, Error, Kind, Lake, Layer, Result};
use serde_json::Value;

use crate::keys::KeySet;
use crate::sql::sequence_columns;

/// When a tombstone was written.
pub(crate) const DELETED_AT_COLUMN: &str = "deleted_at";

/// The zone of instants.
const UTC: &str = "UTC";

/// Key and sequence, as the silver table has them.
fn key_and_sequence(table: &Table, target: &[Column]) -> Vec<Field> {
    let names = table.primary_key.iter().cloned().chain(sequence_columns(table));
    names
        .filter_map(|name| find(target, &name).cloned())
        .map(|column| Field::new(&column.name, column.data_type.to_arrow(), true))
        .collect()
}

/// Key, sequence, and when the tombstone was written.
fn schema(table: &Table, target: &[Column]) -> SchemaRef {
    let mut fields = key_and_sequence(table, target);
    let instant = DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()));
    fields.push(Field::new(DELETED_AT_COLUMN, instant, true));
    Arc::new(Schema::new(fields))
}

/// The tombstones of some keys: key and sequence; `None` if the table has none at all.
pub(crate) async fn read(
    lake: &Lake,
    table: &Table,
    target: &[Column],
    session: &Arc<SessionState>,
    keys: &KeySet,
    now_us: i64,
) -> Result<Option<(SchemaRef, Vec<RecordBatch>)>> {
    let Some(delta) = lake.open(Layer::Tombstones, &table.name).await? else { return Ok(None) };
    let unreadable = || format!("can't read the tombstones of table {}", table.name);
    let schema: SchemaRef = Arc::new(Schema::new(key_and_sequence(table, target)));
    let columns: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    let is_dated = delta::stored_schema(&delta)?.column_with_name(DELETED_AT_COLUMN).is_some();
    let filter = is_dated.then(|| still_counts(table, now_us));
    let mut stream = delta::read(&delta, session, Some(&columns), filter).await?;
    let mut found = Vec::new();
    while let Some(batch) = stream.try_next().await.context(Kind::Unavailable, unreadable)? {
        let batch = conform(&batch, &schema)?;
        let key = &batch.columns()[..table.primary_key.len()];
        if let Some(mask) = keys.may_contain(key, batch.num_rows())? {
            let its = filter_record_batch(&batch, &mask);
            found.push(its.map_err(|error| Error::internal(unreadable()).because(error))?);
        }
    }
    Ok(Some((schema, found)))
}

/// Those from before there was a date never go.
fn still_counts(table: &Table, now_us: i64) -> Expr {
    let retention_us = i64::try_from(table.tombstone_retention.as_micros()).unwrap_or(i64::MAX);
    let oldest = ScalarValue::TimestampMicrosecond(Some(now_us.saturating_sub(retention_us)), Some(UTC.into()));
    let deleted_at = Expr::Column(ColumnName::new_unqualified(DELETED_AT_COLUMN));
    deleted_at.clone().gt_eq(lit(oldest)).or(deleted_at.is_null())
}

/// Adds the tombstones of these deletes: key and sequence.
pub(crate) async fn add(
    lake: &Lake,
    table: &Table,
    target: &[Column],
    session: &Arc<SessionState>,
    deletes: Vec<RecordBatch>,
    now_us: i64,
) -> Result<()> {
    if deletes.iter().all(|batch| batch.num_rows() == 0) {
        return Ok(());
    }
    let description = format!("deleted keys of table {}, with the sequence of their delete", table.name);
    let schema = schema(table, target);
    let mut delta = delta::create(lake, Layer::Tombstones, &table.name, &schema, &[], Some(&description)).await?;
    // Older ones have no date, and the key or the sequence may have become wider.
    delta = delta::evolve(delta, session, &schema).await?;
    let dated = deletes.iter().map(|batch| dated(batch, &schema, now_us)).collect::<Result<Vec<_>>>()?;
    delta::append(delta, dated, &Commit { transactions: Vec::new(), story: Value::Null, at_us: now_us }).await?;
    Ok(())
}

fn dated(batch: &RecordBatch, schema: &SchemaRef, now_us: i64) -> Result<RecordBatch> {
    let mut columns = batch.columns().to_vec();
    let now = TimestampMicrosecondArray::from(vec![now_us; batch.num_rows()]).with_timezone(UTC);
    columns.push(Arc::new(now) as ArrayRef);
    let failed = |error| Error::internal("deletes have other columns than tombstones").because(error);
    let columns = columns
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| lakehouse::schema::cast_strictly(column, field.data_type()).map_err(failed))
        .collect::<Result<Vec<_>>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(failed)
}
