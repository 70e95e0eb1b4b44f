//! What silver and quarantine hold, read through delta-rs, in the model's terms.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::util::display::array_value_to_string;
use futures::TryStreamExt;
use lakehouse::{Lake, Layer, Name, delta};
use serde_json::Value;

use crate::expected::{BadRow, NO_ROW, Row};

/// Columns that Mallard adds and the model has too; the others are its own business.
const ADDED: [&str; 4] = ["_rescued", "_valid_from", "_valid_to", "_is_current"];

/// What a lake holds of table `t`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub silver: Vec<Row>,
    pub quarantine: Vec<BadRow>,
    /// The objects in which stretches of bytes were found that are no frames; once a stretch.
    pub damaged: Vec<String>,
    /// The versions of silver, quarantine and tombstones.
    pub versions: Vec<Option<u64>>,
}

/// Reads it all.
pub async fn state(lake: &Lake) -> State {
    let silver = rows(lake, Layer::Silver).await.into_iter().map(silver_row).collect();
    let (mut quarantine, mut damaged) = (Vec::new(), Vec::new());
    for row in rows(lake, Layer::Quarantine).await {
        let text = |name: &str| row.get(name).cloned().unwrap_or_default();
        if text("rule") == "damaged" {
            damaged.push(text("object"));
        } else {
            let number = |name: &str| text(name).parse::<u64>().unwrap_or(NO_ROW);
            let values = json_values(&text("row_json"));
            quarantine.push((text("rule"), values, text("ingest_id"), number("frame"), number("row")));
        }
    }
    let mut versions = Vec::new();
    for layer in [Layer::Silver, Layer::Quarantine, Layer::Tombstones] {
        versions.push(open(lake, layer).await.map(|table| delta::version(&table)));
    }
    let mut state = State { silver, quarantine, damaged, versions };
    state.silver.sort();
    state.quarantine.sort();
    state.damaged.sort();
    state
}

async fn open(lake: &Lake, layer: Layer) -> Option<deltalake::DeltaTable> {
    lake.open(layer, &Name::new("t").unwrap()).await.unwrap()
}

/// The values of each row that are not NULL.
async fn rows(lake: &Lake, layer: Layer) -> Vec<Row> {
    let Some(table) = open(lake, layer).await else { return Vec::new() };
    let session = delta::session(64 << 20, 1 << 30);
    let batches: Vec<RecordBatch> =
        delta::read(&table, &session, None, None).await.unwrap().try_collect().await.unwrap();
    let mut rows = Vec::new();
    for batch in batches {
        let schema = batch.schema();
        let columns: Vec<(&String, ArrayRef)> =
            schema.fields().iter().map(|field| field.name()).zip(batch.columns().iter().map(plain)).collect();
        for at in 0..batch.num_rows() {
            let values = columns.iter().filter(|(_, column)| column.is_valid(at));
            rows.push(
                values.map(|(name, column)| ((*name).clone(), array_value_to_string(column, at).unwrap())).collect(),
            );
        }
    }
    rows
}

/// Instants as microseconds since the epoch.
fn plain(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Timestamp(..) => cast(column, &DataType::Int64).unwrap(),
        _ => column.clone(),
    }
}

fn silver_row(mut row: Row) -> Row {
    row.retain(|name, _| !name.starts_with('_') || ADDED.contains(&name.as_str()));
    if let Some(rescued) = row.get_mut("_rescued") {
        let values = json_values(rescued);
        *rescued = values.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",");
    }
    row
}

/// The values of a JSON object that are not null: which columns a row has as NULLs depends on the rows beside it.
fn json_values(json: &str) -> Row {
    let values: BTreeMap<String, Value> = serde_json::from_str(json).unwrap();
    let values = values.into_iter().filter_map(|(name, value)| match value {
        Value::Null => None,
        Value::String(text) => Some((name, text)),
        other => Some((name, other.to_string())),
    });
    values.collect()
}
