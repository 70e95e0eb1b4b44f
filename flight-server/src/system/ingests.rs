//! `system.ingests`: each ingest on its way from receipt to silver, and on to gold.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use lakehouse::definition::Definition;
use lakehouse::delta::Told;
use lakehouse::story::{IngestStory, RefreshStory};
use lakehouse::{Layer, Result};

use super::history::{COMMITS_MAX, History};
use super::lineage::{self, Lineage, Refresh, Refreshes, Steps};
use super::progress::{self, Commit, Progress};
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
        text("gold_versions"),
    ])
}

/// What is known of an ingest, from all sources.
#[derive(Default)]
struct Known {
    accepted: Option<crate::ingest::AcceptedIngest>,
    delivered: IngestStory,
    merged: Progress,
}

impl Known {
    /// What is accepted of it, or else what was found.
    fn most(&self, of_receipt: fn(&proto::Receipt) -> u64, of_story: fn(&IngestStory) -> u64) -> u64 {
        let found = of_story(&self.merged.told) + of_story(&self.delivered);
        self.accepted.as_ref().map_or(found, |accepted| of_receipt(&accepted.receipt).max(found))
    }

    fn rows(&self) -> u64 {
        self.most(|receipt| receipt.rows, |story| story.rows)
    }

    fn frames(&self) -> u64 {
        self.most(|receipt| receipt.frames, |story| story.frames)
    }

    fn bytes(&self) -> u64 {
        self.most(|receipt| receipt.bytes, |story| story.bytes)
    }

    /// The commit with which all its frames were in silver; of a stream, all that are known.
    fn merged(&self) -> Option<Commit> {
        self.merged.merged(self.frames(), self.accepted.is_some())
    }

    /// All its frames are in bronze, or were.
    fn is_delivered(&self) -> bool {
        let found = self.merged.told.frames + self.delivered.frames;
        let total = self.merged.told.total_frames.or(self.delivered.total_frames);
        self.merged().is_some() || found >= total.unwrap_or(0).max(self.frames())
    }

    fn accepted_at_us(&self) -> i64 {
        let times = [
            self.accepted.as_ref().map_or(0, |accepted| accepted.accepted_at_us),
            self.merged.told.accepted_at_us,
            self.delivered.accepted_at_us,
        ];
        times.into_iter().filter(|at| *at != 0).min().unwrap_or(0)
    }
}

/// By ingest id and table.
type All = BTreeMap<(String, String), Known>;

pub(super) async fn scan(system: &System) -> Result<Vec<RecordBatch>> {
    let mut all = All::new();
    let mut delivered = system.backlog.delivered().await?;
    let definition = system.definitions.now();
    for name in definition.tables.keys() {
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
        for commit in system.silver.of(name, &table, COMMITS_MAX).await?.iter().rev() {
            let Told { version, at_ms, story: Some(story) } = commit.as_ref() else { continue };
            waiting.retain(|delivered| !story.objects.contains(&delivered.object));
            for part in &story.ingests {
                let merged = &mut all.entry(key(&part.ingest_id)).or_default().merged;
                merged.add(Commit { version: *version, at_us: at_ms * 1000 }, part);
            }
        }
        add_waiting(&mut all, &waiting, key);
    }
    for accepted in system.accepted.all() {
        let key = (accepted.receipt.ingest_id.clone(), accepted.receipt.table.clone());
        all.entry(key).or_default().accepted = Some(accepted);
    }
    let (inputs, refreshes) = (lineage::inputs(&definition), all_refreshes(system, &definition).await?);
    let steps = Lineage { inputs: &inputs, refreshes: &refreshes }.steps();
    to_batch(&all, &steps)
}

/// Adds what lies in objects that wait.
fn add_waiting(all: &mut All, waiting: &[Delivered], key: impl Fn(&str) -> (String, String)) {
    for story in waiting.iter().flat_map(|delivered| &delivered.ingests) {
        progress::add(&mut all.entry(key(&story.ingest_id)).or_default().delivered, story);
    }
}

async fn all_refreshes(system: &System, definition: &Definition) -> Result<Refreshes> {
    let mut all = Refreshes::new();
    for name in definition.models.keys() {
        match system.lake.open(Layer::Gold, name).await {
            Ok(Some(table)) => {
                all.insert(name.clone(), refreshes(&system.gold.of(name, &table, COMMITS_MAX).await?));
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(model = %name, error = error.chain(), "the model can't be read"),
        }
    }
    Ok(all)
}

/// The refreshes among a model's commits, in their order.
pub(super) fn refreshes(history: &History<RefreshStory>) -> Vec<Refresh> {
    let told = history.iter().rev().filter_map(|commit| {
        let story = commit.story.as_ref()?;
        Some(Refresh { version: commit.version, read: story.read.clone() })
    });
    told.collect()
}

fn to_batch(all: &All, steps: &Steps) -> Result<Vec<RecordBatch>> {
    let numbers = |value: &dyn Fn(&Known) -> Option<i64>| all.values().map(value).collect::<Vec<_>>();
    let delivered_at = |known: &Known| {
        let at = known.merged.told.delivered_at_us.max(known.delivered.delivered_at_us);
        known.is_delivered().then(|| time(at)).flatten()
    };
    let gold = |(table, known): (&str, &Known)| {
        let versions = steps.firsts(table, known.merged()?.version);
        serde_json::to_string(&versions).ok()
    };
    let columns = vec![
        Values::Text(all.keys().map(|(id, _)| Some(id.clone())).collect()),
        Values::Text(all.keys().map(|(_, table)| Some(table.clone())).collect()),
        Values::Number(numbers(&|known| count(known.rows()))),
        Values::Number(numbers(&|known| count(known.frames()))),
        Values::Number(numbers(&|known| count(known.bytes()))),
        Values::Instant(numbers(&|known| time(known.accepted_at_us()))),
        Values::Instant(numbers(&delivered_at)),
        Values::Instant(numbers(&|known| time(known.merged()?.at_us))),
        Values::Number(numbers(&|known| count(known.merged()?.version))),
        Values::Number(numbers(&|known| count(known.merged.told.quarantined))),
        Values::Text(all.iter().map(|((_, table), known)| gold((table.as_str(), known))).collect()),
    ];
    rows::batch(schema(), columns)
}
