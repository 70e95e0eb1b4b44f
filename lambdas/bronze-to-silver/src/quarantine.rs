//! What could not be used, and why: one Delta table a table, all of one schema.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, UInt64Type};
use deltalake::DeltaTable;
use lakehouse::definition::Table;
use lakehouse::delta::{self, Commit};
use lakehouse::schema::conform;
use lakehouse::{Error, Lake, Layer, Result};
use serde_json::Value;

use crate::bronze::Damaged;

/// The rule by which a frame or a stretch of bytes is in quarantine, and not a row.
const DAMAGED_RULE: &str = "damaged";

/// The schema of every quarantine table.
pub fn quarantine_schema() -> SchemaRef {
    let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("table_name", DataType::Utf8, true),
        Field::new("reason", DataType::Utf8, true),
        Field::new("rule", DataType::Utf8, true),
        Field::new("row_json", DataType::Utf8, true),
        Field::new("ingest_id", DataType::Utf8, true),
        Field::new("frame", DataType::Int64, true),
        Field::new("row", DataType::Int64, true),
        Field::new("object", DataType::Utf8, true),
        Field::new("byte_offset", DataType::Int64, true),
        Field::new("quarantined_at", instant, true),
    ]))
}

/// The application id under which damage in an object is recorded.
fn damage_id(damaged: &Damaged) -> String {
    format!("damaged/{}/{}", damaged.object, damaged.offset)
}

/// The quarantine of a table, if there is one already.
pub(crate) async fn open(lake: &Lake, table: &Table) -> Result<Option<DeltaTable>> {
    lake.open(Layer::Quarantine, &table.name).await
}

/// Adds rows and damage to a table's quarantine, with `transactions` that record the rows' frames.
pub(crate) async fn add(
    lake: &Lake,
    table: &Table,
    rows: Vec<RecordBatch>,
    damaged: &[Damaged],
    mut transactions: Vec<(String, i64)>,
    now_us: i64,
) -> Result<u64> {
    if rows.is_empty() && damaged.is_empty() {
        return Ok(0);
    }
    let description = format!("rows and frames of table {} that could not be used, with the reason", table.name);
    let delta =
        delta::create(lake, Layer::Quarantine, &table.name, &quarantine_schema(), &[], Some(&description)).await?;
    let mut new = Vec::new();
    for damaged in damaged {
        if delta::transaction_version(&delta, &damage_id(damaged)).await?.is_none() {
            new.push(damaged);
        }
    }
    transactions.extend(new.iter().map(|damaged| (damage_id(damaged), 1)));
    let mut batches: Vec<RecordBatch> =
        rows.iter().map(|batch| conform(batch, &quarantine_schema())).collect::<Result<_>>()?;
    if !new.is_empty() {
        batches.push(damage_batch(table, &new, now_us)?);
    }
    let added = batches.iter().map(|batch| batch.num_rows() as u64).sum();
    if added > 0 {
        delta::append(delta, batches, &Commit { transactions, story: Value::Null, at_us: now_us }).await?;
    }
    Ok(added)
}

fn damage_batch(table: &Table, damaged: &[&Damaged], now_us: i64) -> Result<RecordBatch> {
    let count = damaged.len();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![table.name.as_str(); count])),
        Arc::new(damaged.iter().map(|damaged| Some(damaged.reason.as_str())).collect::<StringArray>()),
        Arc::new(StringArray::from(vec![DAMAGED_RULE; count])),
        Arc::new(StringArray::new_null(count)),
        Arc::new(StringArray::new_null(count)),
        Arc::new(Int64Array::new_null(count)),
        Arc::new(Int64Array::new_null(count)),
        Arc::new(damaged.iter().map(|damaged| Some(damaged.object.as_str())).collect::<StringArray>()),
        Arc::new(damaged.iter().map(|damaged| i64::try_from(damaged.offset).ok()).collect::<Int64Array>()),
        Arc::new(TimestampMicrosecondArray::from(vec![now_us; count]).with_timezone("UTC")),
    ];
    RecordBatch::try_new(quarantine_schema(), columns)
        .map_err(|error| Error::internal("damage has another shape than its table").because(error))
}

/// The rows whose frame is not in quarantine yet.
pub(crate) fn without_recorded(batch: &RecordBatch, is_recorded: impl Fn(&str, u64) -> bool) -> Result<RecordBatch> {
    let failed = |error| Error::internal("can't take recorded rows out of a batch").because(error);
    let text = |name: &str| {
        batch.column_by_name(name).cloned().unwrap_or_else(|| Arc::new(StringArray::new_null(batch.num_rows())))
    };
    let ingests = cast(&text("ingest_id"), &DataType::Utf8).map_err(failed)?;
    let frames = cast(&text("frame"), &DataType::UInt64).map_err(failed)?;
    let (ingests, frames) = (ingests.as_string::<i32>(), frames.as_primitive::<UInt64Type>());
    let fresh: BooleanArray = (0..batch.num_rows())
        .map(|row| Some(ingests.is_null(row) || !is_recorded(ingests.value(row), frames.value(row))))
        .collect();
    filter_record_batch(batch, &fresh).map_err(failed)
}
