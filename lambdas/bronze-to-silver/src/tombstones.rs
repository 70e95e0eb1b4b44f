//! Deleted keys with the sequence of their delete, so that a late update does not bring a row back.
//!
//! A tombstone is written *before* the silver commit that deletes the row. If the merge dies between the two, the
//! delete is still in bronze and comes again; until then the tombstone only holds back what the delete would overtake.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::{Column as ColumnName, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, lit};
use futures::TryStreamExt;
use lakehouse::definition::{Column, Table};
use lakehouse::delta::{self, Commit};
use lakehouse::schema::find;
use lakehouse::{Context, Kind, Lake, Layer, Result};
use serde_json::Value;

use crate::sql::sequence_column;

/// Key and sequence, as the silver table has them.
fn schema(table: &Table, target: &[Column]) -> SchemaRef {
    let sequence = sequence_column(table).to_owned();
    let names = table.primary_key.iter().chain(std::iter::once(&sequence));
    let fields: Vec<Field> = names
        .filter_map(|name| find(target, name))
        .map(|column| Field::new(&column.name, column.data_type.to_arrow(), true))
        .collect();
    Arc::new(Schema::new(fields))
}

/// `column BETWEEN lowest AND highest`, which prunes files by their statistics.
pub(crate) fn between(column: ColumnName, (lowest, highest): (ScalarValue, ScalarValue)) -> Expr {
    Expr::Column(column).between(lit(lowest), lit(highest))
}

/// The tombstones whose first key lies in a range; `None` if the table has none at all.
pub(crate) async fn read(
    lake: &Lake,
    table: &Table,
    session: &Arc<SessionState>,
    range: (ScalarValue, ScalarValue),
) -> Result<Option<(SchemaRef, Vec<RecordBatch>)>> {
    let Some(delta) = lake.open(Layer::Tombstones, &table.name).await? else { return Ok(None) };
    let first_key = ColumnName::new_unqualified(&table.primary_key[0]);
    let stream = delta::read(&delta, session, None, Some(between(first_key, range))).await?;
    let schema = stream.schema();
    let batches = stream
        .try_collect()
        .await
        .context(Kind::Unavailable, || format!("can't read the tombstones of table {}", table.name))?;
    Ok(Some((schema, batches)))
}

/// Adds the tombstones of these deletes.
pub(crate) async fn add(
    lake: &Lake,
    table: &Table,
    target: &[Column],
    deletes: Vec<RecordBatch>,
    now_us: i64,
) -> Result<()> {
    if deletes.iter().all(|batch| batch.num_rows() == 0) {
        return Ok(());
    }
    let description = format!("deleted keys of table {}, with the sequence of their delete", table.name);
    let schema = schema(table, target);
    let delta = delta::create(lake, Layer::Tombstones, &table.name, &schema, &[], Some(&description)).await?;
    delta::append(delta, deletes, &Commit { transactions: Vec::new(), story: Value::Null, at_us: now_us }).await?;
    Ok(())
}
