//! `system.maintenance`: what was done to keep tables in good order, in this process, in others and in Lambdas.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::TryStreamExt;
use lakehouse::schema::conform;
use lakehouse::{Context, Kind, Layer, Name, Result, delta};

use super::System;
use super::rows::{self, instant, number, text};

/// The lake's own table of it.
const RUNS: &str = "runs";

pub(super) fn schema() -> SchemaRef {
    rows::schema(vec![
        instant("at"),
        text("layer"),
        text("table"),
        text("action"),
        number("files_before"),
        number("files_after"),
        number("bytes_before"),
        number("bytes_after"),
        number("rows"),
        number("version"),
        number("duration_ms"),
        text("result"),
        text("message"),
    ])
}

pub(super) async fn scan(system: &System) -> Result<Vec<RecordBatch>> {
    let Some(table) = system.lake.open(Layer::Maintenance, &Name::new(RUNS)?).await? else { return Ok(Vec::new()) };
    let schema = schema();
    let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    let stream = delta::read(&table, &system.session, Some(&names), None).await?;
    let found: Vec<RecordBatch> =
        stream.try_collect().await.context(Kind::Unavailable, || format!("can't read maintenance/{RUNS}"))?;
    found.iter().map(|batch| conform(batch, &schema)).collect()
}

#[cfg(all(test, feature = "local"))]
mod tests {
    use super::*;

    #[test]
    fn it_has_the_columns_that_maintenance_writes() {
        assert_eq!(RUNS, table_maintenance::RUNS);
        let (told, written) = (schema(), table_maintenance::runs_schema());
        let columns = |schema: &SchemaRef| {
            let fields = schema.fields().iter();
            fields.map(|field| (field.name().clone(), field.data_type().clone())).collect::<Vec<_>>()
        };
        assert_eq!(columns(&told), columns(&written));
    }
}
