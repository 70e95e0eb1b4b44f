//! `system.tables`: every silver and gold table, its size, its version, and how far it is behind.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use lakehouse::story::RefreshStory;
use lakehouse::{Layer, Name, Result, delta};

use super::System;
use super::rows::{self, Values, count, instant, number, text};

pub(super) fn schema() -> SchemaRef {
    rows::schema(vec![
        text("schema_name"),
        text("table_name"),
        number("rows"),
        number("bytes"),
        number("version"),
        instant("changed_at"),
        number("lag_seconds"),
        text("last_error"),
        text("description"),
    ])
}

/// The newest commit of a table.
#[derive(Clone, Copy)]
struct Newest {
    version: u64,
    changed_at_us: i64,
}

#[derive(Default)]
struct Row {
    schema_name: String,
    table_name: String,
    size: Option<(u64, u64)>,
    newest: Option<Newest>,
    lag_us: Option<i64>,
    last_error: Option<String>,
    description: Option<String>,
}

pub(super) async fn scan(system: &System) -> Result<Vec<RecordBatch>> {
    let troubles = system.backlog.troubles();
    let unmerged = oldest_unmerged(system).await?;
    let now_us = system.clock.now_us();
    let mut newest = BTreeMap::new();
    let mut silver = Vec::new();
    for (name, table) in &system.definitions.now().tables {
        let (mut row, _) = open_row(system, Layer::Silver, name, &mut newest).await?;
        row.lag_us = Some(unmerged.get(name).map_or(0, |oldest| now_us - oldest));
        row.last_error = troubles.tables.get(name).cloned().or(row.last_error);
        row.description = table.description.clone();
        silver.push(row);
    }
    let mut gold = Vec::new();
    for (name, model) in &system.definitions.now().models {
        let (mut row, story) = open_row(system, Layer::Gold, name, &mut newest).await?;
        row.last_error = troubles.models.get(name).cloned().or(row.last_error);
        row.description = model.description.clone();
        gold.push((row, story));
    }
    let mut all: Vec<Row> = gold
        .into_iter()
        .map(|(row, story)| Row { lag_us: story.map(|story| behind_inputs(&story, &newest, now_us)), ..row })
        .collect();
    all.append(&mut silver);
    to_batch(&all)
}

/// How many of the newest commits are looked through for the last one with a story.
const STORIES_LOOKED_THROUGH: usize = 20;

/// A table's row as its log tells it, and for a model the story of its last refresh.
async fn open_row(
    system: &System,
    layer: Layer,
    name: &Name,
    newest: &mut BTreeMap<String, Newest>,
) -> Result<(Row, Option<RefreshStory>)> {
    let mut row = Row { schema_name: layer.to_string(), table_name: name.to_string(), ..Row::default() };
    let table = match system.lake.open(layer, name).await {
        Ok(Some(table)) => table,
        Ok(None) => return Ok((row, None)),
        // One table that can't be read does not hide the others.
        Err(error) => {
            row.last_error = Some(error.chain());
            return Ok((row, None));
        }
    };
    // Maintenance commits too, and has no story.
    let told = delta::history::<RefreshStory>(&table, STORIES_LOOKED_THROUGH).await?;
    let last = told.first();
    let commit = Newest { version: delta::version(&table), changed_at_us: last.map_or(0, |last| last.at_ms * 1000) };
    newest.insert(format!("{layer}.{name}"), commit);
    row.size = Some(delta::size(&table)?);
    row.newest = Some(commit);
    Ok((row, told.into_iter().find_map(|told| told.story)))
}

/// When the oldest rows that are kept and not in silver were accepted, by table.
async fn oldest_unmerged(system: &System) -> Result<BTreeMap<Name, i64>> {
    let delivered = system.backlog.delivered().await?;
    let oldest = delivered.into_iter().filter_map(|(table, objects)| {
        let ingests = objects.iter().flat_map(|object| &object.ingests);
        ingests.map(|story| story.accepted_at_us).min().map(|at| (table, at))
    });
    Ok(oldest.collect())
}

/// How long the longest-changed input of a model has been newer than what the model has read of it.
fn behind_inputs(story: &RefreshStory, newest: &BTreeMap<String, Newest>, now_us: i64) -> i64 {
    let behind = story.read.iter().filter_map(|(input, read)| {
        let newest = newest.get(input)?;
        (newest.version > *read).then_some(now_us - newest.changed_at_us)
    });
    behind.max().unwrap_or(0)
}

fn to_batch(all: &[Row]) -> Result<Vec<RecordBatch>> {
    let numbers = |value: &dyn Fn(&Row) -> Option<i64>| all.iter().map(value).collect::<Vec<_>>();
    let texts = |value: &dyn Fn(&Row) -> Option<String>| all.iter().map(value).collect::<Vec<_>>();
    let columns = vec![
        Values::Text(texts(&|row| Some(row.schema_name.clone()))),
        Values::Text(texts(&|row| Some(row.table_name.clone()))),
        Values::Number(numbers(&|row| count(row.size.map_or(0, |(rows, _)| rows)))),
        Values::Number(numbers(&|row| count(row.size.map_or(0, |(_, bytes)| bytes)))),
        Values::Number(numbers(&|row| row.newest.and_then(|newest| count(newest.version)))),
        Values::Instant(numbers(&|row| row.newest.map(|newest| newest.changed_at_us))),
        Values::Number(numbers(&|row| row.lag_us.map(|lag| (lag / 1_000_000).max(0)))),
        Values::Text(texts(&|row| row.last_error.clone())),
        Values::Text(texts(&|row| row.description.clone())),
    ];
    rows::batch(schema(), columns)
}
