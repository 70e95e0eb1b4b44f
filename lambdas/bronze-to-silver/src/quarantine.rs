//! What could not be used, and why: one Delta table a table, all of one schema.
//!
//! What is here once is not added again: bad rows are known by their frames (in a ledger of the quarantine's own), damage
//! by its place, an object that was set aside by its key. Each is a `txn` in the commit that adds the rows. A replay
//! takes what it has claimed off these records, so that what is still bad comes back ([`forget`]).

mod readable;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    new_null_array,
};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, UInt64Type};
use deltalake::DeltaTable;
use lakehouse::definition::Table;
use lakehouse::delta::{self, Commit, Transactions};
use lakehouse::schema::cast_strictly;
use lakehouse::{Error, Lake, Layer, Result};
use serde_json::Value;

use crate::bronze::{BronzeObject, Damaged, FoundFrame};
use crate::ledger::object_id;

pub(crate) use readable::readable;

/// The rule by which a whole object is in quarantine.
pub(crate) const POISON_RULE: &str = "poison";

/// The columns of a bad row that say under which frame it is recorded, if that is not the frame that it came in first.
pub(crate) const RECORDED_INGEST: &str = "_ingest_id";
pub(crate) const RECORDED_FRAME: &str = "_frame";

/// The schema of every quarantine table.
pub fn quarantine_schema() -> SchemaRef {
    let instant = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
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
        Field::new("quarantined_at", instant(), true),
        Field::new("line", DataType::Int64, true),
        Field::new("received_at", instant(), true),
        Field::new("replay_id", DataType::Utf8, true),
        Field::new("replayed_at", instant(), true),
    ]))
}

/// The application id under which damage at a place of an object is recorded.
pub(crate) fn damage_id(object: &str, offset: u64) -> String {
    format!("damaged/{object}/{offset}")
}

/// The quarantine of a table, if there is one already.
pub(crate) async fn open(lake: &Lake, table: &Table) -> Result<Option<DeltaTable>> {
    lake.open(Layer::Quarantine, &table.name).await
}

/// The same with all columns of [`quarantine_schema`]: one that an older version made has fewer.
pub(crate) async fn open_whole(lake: &Lake, table: &Table) -> Result<Option<DeltaTable>> {
    match open(lake, table).await? {
        Some(delta) => whole(delta).await.map(Some),
        None => Ok(None),
    }
}

async fn whole(delta: DeltaTable) -> Result<DeltaTable> {
    let stored = delta::stored_schema(&delta)?;
    let wanted = quarantine_schema();
    let missing: Vec<_> =
        wanted.fields().iter().filter(|field| stored.field_with_name(field.name()).is_err()).cloned().collect();
    if missing.is_empty() { Ok(delta) } else { delta::add_columns(delta, &Schema::new(missing)).await }
}

async fn create(lake: &Lake, table: &Table) -> Result<DeltaTable> {
    let description = format!("rows and frames of table {} that could not be used, with the reason", table.name);
    let schema = quarantine_schema();
    let delta = delta::create(lake, Layer::Quarantine, &table.name, &schema, &[], Some(&description)).await?;
    whole(delta).await
}

/// What a quarantine has recorded.
pub(crate) async fn recorded(delta: &DeltaTable) -> Result<Transactions> {
    let mut recorded = Transactions::default();
    recorded.advance(delta).await?;
    Ok(recorded)
}

/// Whether something is recorded that was not forgotten since.
pub(crate) fn is_recorded(recorded: &Transactions, id: &str) -> bool {
    recorded.version(id).is_some_and(|version| version > 0)
}

/// The transactions after which `ids` are no longer recorded.
pub(crate) fn forget(ids: impl IntoIterator<Item = String>) -> Vec<(String, i64)> {
    ids.into_iter().map(|id| (id, 0)).collect()
}

/// A table's quarantine at one version, with what it has recorded by then. What is added goes on top of exactly this
/// version: whoever was quicker may have added the same.
pub(crate) struct Quarantine {
    delta: DeltaTable,
    pub(crate) recorded: Transactions,
}

impl Quarantine {
    /// The newest version; created if it is missing.
    pub(crate) async fn open(lake: &Lake, table: &Table) -> Result<Self> {
        let delta = create(lake, table).await?;
        let recorded = recorded(&delta).await?;
        Ok(Self { delta, recorded })
    }

    /// Adds rows and damage, with `transactions` that record the rows' frames; gives how many. Columns that the rows
    /// don't have are NULL, damage that is recorded is left out.
    pub(crate) async fn add(
        self,
        table: &Table,
        rows: Vec<RecordBatch>,
        damaged: &[Damaged],
        mut transactions: Vec<(String, i64)>,
        now_us: i64,
    ) -> Result<u64> {
        let is_new = |damaged: &&Damaged| !is_recorded(&self.recorded, &damage_id(&damaged.object, damaged.offset));
        let new: Vec<&Damaged> = damaged.iter().filter(is_new).collect();
        transactions.extend(new.iter().map(|damaged| (damage_id(&damaged.object, damaged.offset), 1)));
        let mut batches: Vec<RecordBatch> = rows.iter().map(by_name).collect::<Result<_>>()?;
        if !new.is_empty() {
            batches.push(damage_batch(table, &new, now_us)?);
        }
        let added = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        if added > 0 {
            delta::append(self.delta, batches, &Commit { transactions, story: Value::Null, at_us: now_us }).await?;
        }
        Ok(added)
    }
}

/// Sets an object aside as a whole, with the reason; once.
pub(crate) async fn add_object(
    lake: &Lake,
    table: &Table,
    object: &BronzeObject,
    reason: &str,
    now_us: i64,
) -> Result<()> {
    let Quarantine { delta, recorded } = Quarantine::open(lake, table).await?;
    let id = object_id(&object.key);
    if is_recorded(&recorded, &id) {
        return Ok(());
    }
    let row = fill(
        1,
        vec![
            ("table_name", Arc::new(StringArray::from(vec![table.name.as_str()]))),
            ("reason", Arc::new(StringArray::from(vec![reason]))),
            ("rule", Arc::new(StringArray::from(vec![POISON_RULE]))),
            ("object", Arc::new(StringArray::from(vec![object.key.as_str()]))),
            ("quarantined_at", instants([Some(now_us)])),
            ("received_at", instants([Some(object.delivered_at_us)])),
        ],
    )?;
    let commit = Commit { transactions: vec![(id, 1)], story: Value::Null, at_us: now_us };
    delta::append(delta, vec![row], &commit).await?;
    Ok(())
}

/// The lines of a frame's text that can't be part of it.
pub(crate) fn line_batch(table: &Table, found: &FoundFrame, now_us: i64) -> Result<RecordBatch> {
    let lines: Vec<&Damaged> = found.damaged.iter().collect();
    let (header, count) = (&found.frame.header, lines.len());
    let batch = damage_batch(table, &lines, now_us)?;
    let frame = i64::try_from(header.frame).unwrap_or(i64::MAX);
    let own: [(&str, ArrayRef); 3] = [
        ("ingest_id", Arc::new(StringArray::from(vec![header.ingest_id.as_str(); count]))),
        ("frame", Arc::new(Int64Array::from(vec![frame; count]))),
        ("received_at", instants(vec![Some(header.received_at_us); count])),
    ];
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        let own = own.iter().find(|(name, _)| name == field.name());
        Arc::clone(own.map_or(column, |(_, own)| own))
    });
    RecordBatch::try_new(Arc::clone(&schema), columns.collect())
        .map_err(|error| Error::internal("lines for quarantine have another shape than their table").because(error))
}

fn damage_batch(table: &Table, damaged: &[&Damaged], now_us: i64) -> Result<RecordBatch> {
    let count = damaged.len();
    let signed = |number: u64| i64::try_from(number).ok();
    fill(
        count,
        vec![
            ("table_name", Arc::new(StringArray::from(vec![table.name.as_str(); count]))),
            ("reason", Arc::new(damaged.iter().map(|damaged| Some(damaged.reason.as_str())).collect::<StringArray>())),
            ("rule", Arc::new(damaged.iter().map(|damaged| Some(damaged.rule)).collect::<StringArray>())),
            ("row_json", Arc::new(damaged.iter().map(|damaged| damaged.raw.as_deref()).collect::<StringArray>())),
            ("object", Arc::new(damaged.iter().map(|damaged| Some(damaged.object.as_str())).collect::<StringArray>())),
            ("byte_offset", Arc::new(damaged.iter().map(|damaged| signed(damaged.offset)).collect::<Int64Array>())),
            ("quarantined_at", instants(vec![Some(now_us); count])),
            ("line", Arc::new(damaged.iter().map(|damaged| damaged.line.and_then(signed)).collect::<Int64Array>())),
            ("received_at", instants(damaged.iter().map(|damaged| Some(damaged.delivered_at_us)))),
        ],
    )
}

pub(crate) fn instants(us: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(us.into_iter().collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

/// Rows of the quarantine from some of its columns; the others are NULL.
pub(crate) fn fill(rows: usize, columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    let schema = quarantine_schema();
    let all = schema.fields().iter().map(|field| {
        let given = columns.iter().find(|(name, _)| name == field.name()).map(|(_, column)| Arc::clone(column));
        given.unwrap_or_else(|| new_null_array(field.data_type(), rows))
    });
    let all = all.collect();
    RecordBatch::try_new(schema, all)
        .map_err(|error| Error::internal("rows for quarantine have another shape than their table").because(error))
}

/// The batch with the columns of [`quarantine_schema`], by name.
pub(crate) fn by_name(batch: &RecordBatch) -> Result<RecordBatch> {
    let schema = quarantine_schema();
    let mut columns = Vec::new();
    for field in schema.fields() {
        if let Some(column) = batch.column_by_name(field.name()) {
            let column = cast_strictly(column, field.data_type())
                .map_err(|error| Error::internal("a quarantine column has another type").because(error))?;
            columns.push((field.name().as_str(), column));
        }
    }
    fill(batch.num_rows(), columns)
}

/// The rows whose frame is not in quarantine yet.
pub(crate) fn without_recorded(batch: &RecordBatch, is_recorded: impl Fn(&str, u64) -> bool) -> Result<RecordBatch> {
    let failed = |error| Error::internal("can't take recorded rows out of a batch").because(error);
    let column = |recorded: &str, name: &str| {
        let found = batch.column_by_name(recorded).or_else(|| batch.column_by_name(name)).cloned();
        found.unwrap_or_else(|| Arc::new(StringArray::new_null(batch.num_rows())))
    };
    let ingests = cast(&column(RECORDED_INGEST, "ingest_id"), &DataType::Utf8).map_err(failed)?;
    let frames = cast(&column(RECORDED_FRAME, "frame"), &DataType::UInt64).map_err(failed)?;
    let (ingests, frames) = (ingests.as_string::<i32>(), frames.as_primitive::<UInt64Type>());
    let fresh: BooleanArray = (0..batch.num_rows())
        .map(|row| Some(ingests.is_null(row) || !is_recorded(ingests.value(row), frames.value(row))))
        .collect();
    filter_record_batch(batch, &fresh).map_err(failed)
}

#[cfg(test)]
mod tests;
