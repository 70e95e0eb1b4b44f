//! `system.models`: every model, its rule, and what its last refresh came to.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use lakehouse::definition::Model;
use lakehouse::story::RefreshStory;
use lakehouse::{Layer, Result};

use super::System;
use super::rows::{self, Values, count, instant, number, text};

/// How far back a model's commits are searched for its last refresh, at least.
const COMMITS_MAX: usize = 20;

pub(super) fn schema() -> SchemaRef {
    rows::schema(vec![
        text("model_name"),
        text("mode"),
        text("refresh"),
        text("state"),
        instant("last_refresh_at"),
        number("duration_ms"),
        number("rows"),
        number("version"),
        text("last_error"),
        text("read_versions"),
        text("description"),
    ])
}

struct Row {
    model: std::sync::Arc<Model>,
    version: Option<u64>,
    at_us: Option<i64>,
    story: Option<RefreshStory>,
    error: Option<String>,
}

impl Row {
    /// `failed`: the last try failed, and the former version stays. `waiting`: never published yet.
    fn state(&self) -> &'static str {
        match (&self.error, self.version) {
            (Some(_), _) => "failed",
            (None, None) => "waiting",
            (None, Some(_)) => "published",
        }
    }
}

pub(super) async fn scan(system: &System) -> Result<Vec<RecordBatch>> {
    let troubles = system.backlog.troubles();
    let mut all = Vec::new();
    for (name, model) in &system.definitions.now().models {
        let mut row = Row {
            model: model.clone(),
            version: None,
            at_us: None,
            story: None,
            error: troubles.models.get(name).cloned(),
        };
        if let Some(table) = system.lake.open(Layer::Gold, name).await? {
            let told = system.gold.of(name, &table, COMMITS_MAX).await?;
            if let Some(last) = told.iter().find(|told| told.story.is_some()) {
                row.version = Some(last.version);
                row.at_us = Some(last.at_ms * 1000);
                row.story = last.story.clone();
            }
        }
        all.push(row);
    }
    to_batch(&all)
}

fn to_batch(all: &[Row]) -> Result<Vec<RecordBatch>> {
    let numbers = |value: &dyn Fn(&Row) -> Option<i64>| all.iter().map(value).collect::<Vec<_>>();
    let texts = |value: &dyn Fn(&Row) -> Option<String>| all.iter().map(value).collect::<Vec<_>>();
    let read = |row: &Row| row.story.as_ref().and_then(|story| serde_json::to_string(&story.read).ok());
    let columns = vec![
        Values::Text(texts(&|row| Some(row.model.name.to_string()))),
        Values::Text(texts(&|row| Some(row.model.mode.to_string()))),
        Values::Text(texts(&|row| Some(row.model.refresh.to_string()))),
        Values::Text(texts(&|row| Some(row.state().to_owned()))),
        Values::Instant(numbers(&|row| row.at_us)),
        Values::Number(numbers(&|row| row.story.as_ref().and_then(|story| count(story.duration_ms)))),
        Values::Number(numbers(&|row| row.story.as_ref().and_then(|story| count(story.rows)))),
        Values::Number(numbers(&|row| row.version.and_then(count))),
        Values::Text(texts(&|row| row.error.clone())),
        Values::Text(texts(&read)),
        Values::Text(texts(&|row| row.model.description.clone())),
    ];
    rows::batch(schema(), columns)
}
