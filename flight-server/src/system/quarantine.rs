//! `system.quarantine`: the rows, frames and bytes that could not be used, of all tables.

use arrow::array::{RecordBatch, new_null_array};
use arrow::datatypes::SchemaRef;
use futures::TryStreamExt;
use lakehouse::schema::cast_strictly;
use lakehouse::{Context, Error, Kind, Layer, Result, delta};

use super::System;
use super::rows::{self, instant, number, text};

pub(super) fn schema() -> SchemaRef {
    rows::schema(vec![
        text("table_name"),
        text("reason"),
        text("rule"),
        text("row_json"),
        text("ingest_id"),
        number("frame"),
        number("row"),
        text("object"),
        number("byte_offset"),
        instant("quarantined_at"),
        number("line"),
        instant("received_at"),
        text("replay_id"),
        instant("replayed_at"),
    ])
}

pub(super) async fn scan(system: &System) -> Result<Vec<RecordBatch>> {
    let schema = schema();
    let mut batches = Vec::new();
    for name in system.definitions.now().tables.keys() {
        let Some(table) = system.lake.open(Layer::Quarantine, name).await? else { continue };
        // One that an older version made lacks the newer columns.
        let stored = delta::stored_schema(&table)?;
        let names = schema.fields().iter().map(|field| field.name().clone());
        let names: Vec<String> = names.filter(|name| stored.field_with_name(name).is_ok()).collect();
        let stream = delta::read(&table, &system.session, Some(&names), None).await?;
        let found: Vec<RecordBatch> =
            stream.try_collect().await.context(Kind::Unavailable, || format!("can't read quarantine/{name}"))?;
        for batch in found {
            batches.push(whole(&batch, &schema)?);
        }
    }
    Ok(batches)
}

/// The batch with all columns; those that it lacks are NULL.
fn whole(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = schema.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) => cast_strictly(column, field.data_type()),
        None => Ok(new_null_array(field.data_type(), batch.num_rows())),
    });
    let columns = columns.collect::<Result<Vec<_>, _>>();
    columns
        .and_then(|columns| RecordBatch::try_new(SchemaRef::clone(schema), columns))
        .map_err(|error| Error::internal("a quarantine has columns of other types").because(error))
}
