//! `system.ingests`: each ingest on its way from receipt to silver.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use lakehouse::{Layer, Result};

use super::rows::{self, Values, count, instant, number, text, time};
use super::{Delivered, System};

pub(super) fn schema() -> SchemaRef {
    rows::schema(vec![
        text("ingest_id"),
        text("table_name"),
        number("rows"),
        number("frames"),
        number("bytes"),
        instant("accepted_at"),
        instant("delivered_at"),
        instant("merged_at"),
        number("silver_version"),
        number("quarantined_rows"),
    ])
}

/// What is known of an ingest, from all sources.
#[derive(Default)]
struct Known {
    accepted: Option<crate::ingest::AcceptedIngest>,
    delivered: lakehouse::story::IngestStory,
    merged: lakehouse::story::IngestStory,
    merged_at_us: i64,
    silver_version: Option<u64>,
}

impl Known {
    fn rows(&self) -> u64 {
        let found = self.merged.rows + self.delivered.rows;
        self.accepted.as_ref().map_or(found, |accepted| accepted.receipt.rows.max(found))
    }

    fn frames(&self) -> u64 {
        let found = self.merged.frames + self.delivered.frames;
        self.accepted.as_ref().map_or(found, |accepted| accepted.receipt.frames.max(found))
    }

    fn bytes(&self) -> u64 {
        let found = self.merged.bytes + self.delivered.bytes;
        self.accepted.as_ref().map_or(found, |accepted| accepted.receipt.bytes.max(found))
    }

    /// All its frames are in silver.
    fn is_merged(&self) -> bool {
        self.merged.frames > 0 && self.merged.frames >= self.frames()
    }

    /// All its frames are in bronze, or were.
    fn is_delivered(&self) -> bool {
        self.merged.frames + self.delivered.frames >= self.frames()
    }

    fn accepted_at_us(&self) -> i64 {
        let times = [
            self.accepted.as_ref().map_or(0, |accepted| accepted.accepted_at_us),
            self.merged.accepted_at_us,
            self.delivered.accepted_at_us,
        ];
        times.into_iter().filter(|at| *at != 0).min().unwrap_or(0)
    }
}

pub(super) async fn scan(system: &System) -> Result<Vec<RecordBatch>> {
    let mut all: BTreeMap<(String, String), Known> = BTreeMap::new();
    let mut delivered = system.backlog.delivered().await?;
    for name in system.definitions.now().tables.keys() {
        let key = |id: &str| (id.to_owned(), name.to_string());
        // The backlog was read before the lake: an object that was merged in between is found in both, and told once.
        let mut waiting = delivered.remove(name).unwrap_or_default();
        let table = match system.lake.open(Layer::Silver, name).await {
            Ok(Some(table)) => table,
            Ok(None) => {
                add_waiting(&mut all, &waiting, key);
                continue;
            }
            Err(error) => {
                add_waiting(&mut all, &waiting, key);
                // system.tables shows it; the other tables' ingests are told.
                tracing::warn!(table = %name, error = error.chain(), "the table can't be read");
                continue;
            }
        };
        for commit in system.histories.of(name, &table).await? {
            let story = commit.story.unwrap_or_default();
            waiting.retain(|delivered| !story.objects.contains(&delivered.object));
            for story in story.ingests {
                let known = all.entry(key(&story.ingest_id)).or_default();
                known.merged.rows += story.rows;
                known.merged.frames += story.frames;
                known.merged.bytes += story.bytes;
                known.merged.quarantined += story.quarantined;
                known.merged.delivered_at_us = known.merged.delivered_at_us.max(story.delivered_at_us);
                known.merged.accepted_at_us = match known.merged.accepted_at_us {
                    0 => story.accepted_at_us,
                    at => at.min(story.accepted_at_us),
                };
                known.merged_at_us = known.merged_at_us.max(commit.at_ms * 1000);
                known.silver_version = known.silver_version.max(Some(commit.version));
            }
        }
        add_waiting(&mut all, &waiting, key);
    }
    for accepted in system.accepted.all() {
        let key = (accepted.receipt.ingest_id.clone(), accepted.receipt.table.clone());
        all.entry(key).or_default().accepted = Some(accepted);
    }
    to_batch(all)
}

/// Adds what lies in objects that wait.
fn add_waiting(
    all: &mut BTreeMap<(String, String), Known>,
    waiting: &[Delivered],
    key: impl Fn(&str) -> (String, String),
) {
    for story in waiting.iter().flat_map(|delivered| &delivered.ingests) {
        let known = &mut all.entry(key(&story.ingest_id)).or_default().delivered;
        known.rows += story.rows;
        known.frames += story.frames;
        known.bytes += story.bytes;
        known.delivered_at_us = known.delivered_at_us.max(story.delivered_at_us);
        known.accepted_at_us = match known.accepted_at_us {
            0 => story.accepted_at_us,
            at => at.min(story.accepted_at_us),
        };
    }
}

fn to_batch(all: BTreeMap<(String, String), Known>) -> Result<Vec<RecordBatch>> {
    let numbers = |value: &dyn Fn(&Known) -> Option<i64>| all.values().map(value).collect::<Vec<_>>();
    let delivered_at = |known: &Known| {
        let at = known.merged.delivered_at_us.max(known.delivered.delivered_at_us);
        known.is_delivered().then(|| time(at)).flatten()
    };
    let columns = vec![
        Values::Text(all.keys().map(|(id, _)| Some(id.clone())).collect()),
        Values::Text(all.keys().map(|(_, table)| Some(table.clone())).collect()),
        Values::Number(numbers(&|known| count(known.rows()))),
        Values::Number(numbers(&|known| count(known.frames()))),
        Values::Number(numbers(&|known| count(known.bytes()))),
        Values::Instant(numbers(&|known| time(known.accepted_at_us()))),
        Values::Instant(numbers(&delivered_at)),
        Values::Instant(numbers(&|known| known.is_merged().then(|| time(known.merged_at_us)).flatten())),
        Values::Number(numbers(&|known| known.silver_version.and_then(count))),
        Values::Number(numbers(&|known| count(known.merged.quarantined))),
    ];
    rows::batch(schema(), columns)
}
