//! Deleted keys with the sequence of their delete, so that a late update does not bring a row back.
//!
//! A tombstone is written *before* the silver commit that deletes the row. If the merge dies between the two, the
//! delete is still in bronze and comes again; until then the tombstone only holds back what the delete would overtake.
//! Those older than the table's `tombstone_retention` no longer count; maintenance takes them out.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, BooleanArray, RecordBatch, TimestampMicrosecondArray, new_null_array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use datafusion::execution::SessionState;
use deltalake::DeltaTable;
use lakehouse::definition::{Column, Table};
use lakehouse::delta::{self, Commit, DataFile};
use lakehouse::schema::{cast_strictly, find};
use lakehouse::{Error, Lake, Layer, Result};
use serde_json::Value;

use crate::keys::KeySet;
use crate::scan::Scan;
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

/// The tombstones of a table, as they are stored.
pub(crate) struct Stored {
    table: DeltaTable,
    pub(crate) files: Arc<Vec<DataFile>>,
}

/// The newest tombstones; `None` if the table has none at all.
pub(crate) async fn open(lake: &Lake, table: &Table) -> Result<Option<Stored>> {
    let Some(delta) = lake.open(Layer::Tombstones, &table.name).await? else { return Ok(None) };
    let files = Arc::new(delta::data_files(&delta)?);
    Ok(Some(Stored { table: delta, files }))
}

impl Stored {
    /// Those of some keys that still count: key and sequence. They lie in the files `candidates`.
    pub(crate) async fn read(
        &self,
        table: &Table,
        target: &[Column],
        candidates: Vec<usize>,
        keys: Arc<KeySet>,
        now_us: i64,
    ) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let wanted = key_and_sequence(table, target);
        let columns = wanted.len();
        let schema = schema(table, target);
        let scan = Scan { store: self.table.object_store(), files: Arc::clone(&self.files) };
        let found = scan.rows_with(candidates, Arc::clone(&schema), table.primary_key.len(), keys).await?;
        let kept: SchemaRef = Arc::new(Schema::new(wanted));
        let retention_us = i64::try_from(table.tombstone_retention.as_micros()).unwrap_or(i64::MAX);
        let oldest_us = now_us.saturating_sub(retention_us);
        let counting = found.iter().map(|batch| still_counting(batch, columns, oldest_us, &kept));
        Ok((Arc::clone(&kept), counting.collect::<Result<_>>()?))
    }
}

/// The first `columns` of the rows whose date, behind these, is not before a time. Those from before there was a date
/// never go.
fn still_counting(batch: &RecordBatch, columns: usize, oldest_us: i64, kept: &SchemaRef) -> Result<RecordBatch> {
    let failed = |error| Error::internal("tombstones have other columns than they should").because(error);
    let dates = batch.column(columns).as_primitive::<TimestampMicrosecondType>();
    let counts: BooleanArray = dates.iter().map(|date| Some(date.is_none_or(|date| date >= oldest_us))).collect();
    let batch = filter_record_batch(batch, &counts).map_err(failed)?;
    RecordBatch::try_new(Arc::clone(kept), batch.columns()[..columns].to_vec()).map_err(failed)
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
    delta = delta::evolve(delta, session, &schema, &[]).await?;
    let stored = Arc::new(delta::stored_schema(&delta)?);
    let dated = deletes.iter().map(|batch| dated(batch, &schema, &stored, now_us)).collect::<Result<Vec<_>>>()?;
    delta::append(delta, dated, &Commit { transactions: Vec::new(), story: Value::Null, at_us: now_us }).await?;
    Ok(())
}

/// The deletes with their date, in the columns of the stored table: those that it had before are NULL.
fn dated(batch: &RecordBatch, schema: &SchemaRef, stored: &SchemaRef, now_us: i64) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    let mut given = batch.columns().to_vec();
    given.push(Arc::new(TimestampMicrosecondArray::from(vec![now_us; rows]).with_timezone(UTC)) as ArrayRef);
    let failed = |error| Error::internal("deletes have other columns than tombstones").because(error);
    let columns = stored.fields().iter().map(|field| match schema.index_of(field.name()) {
        Ok(position) => cast_strictly(&given[position], field.data_type()).map_err(failed),
        Err(_) => Ok(new_null_array(field.data_type(), rows)),
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    RecordBatch::try_new(Arc::clone(stored), columns).map_err(failed)
}
