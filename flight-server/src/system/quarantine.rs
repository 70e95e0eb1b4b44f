//! `system.quarantine`: the rows, frames and bytes that could not be used, of all tables.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::TryStreamExt;
use lakehouse::schema::conform;
use lakehouse::{Context, Kind, Layer, Result, delta};

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
    ])
}

pub(super) async fn scan(system: &System) -> Result<Vec<RecordBatch>> {
    let schema = schema();
    let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    let mut batches = Vec::new();
    for name in system.definitions.now().tables.keys() {
        let Some(table) = system.lake.open(Layer::Quarantine, name).await? else { continue };
        let stream = delta::read(&table, &system.session, Some(&names), None).await?;
        let found: Vec<RecordBatch> =
            stream.try_collect().await.context(Kind::Unavailable, || format!("can't read quarantine/{name}"))?;
        for batch in found {
            batches.push(conform(&batch, &schema)?);
        }
    }
    Ok(batches)
}
