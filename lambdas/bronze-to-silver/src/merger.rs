//! The merge of a table's bronze objects, from reading to commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use datafusion::execution::SessionState;
use deltalake::DeltaTable;
use lakehouse::definition::{Column, Table};
use lakehouse::delta::{self, Commit};
use lakehouse::name::same_column;
use lakehouse::schema::{arrow_schema, spelt_as};
use lakehouse::story::{IngestStory, MergeStory};
use lakehouse::{Clock, Definitions, Error, Kind, Lake, Layer, Name, Result};
use tracing::{info, warn};

use crate::bronze::{self, BronzeObject, Contents, FoundFrame};
use crate::ledger::{Frames, Ledger};
use crate::stage::Stage;
use crate::{merge, quarantine, tombstones};

/// How often a merge is decided anew after it lost a commit race.
const ATTEMPTS_MAX: u32 = 5;

/// Budgets of one merge.
#[derive(Clone, Debug)]
pub struct Settings {
    /// DuckDB's.
    pub duck: duck::Settings,
    /// Bytes that Delta's own plans may hold in memory.
    pub delta_memory_bytes: usize,
    /// Bytes that they may spill.
    pub delta_spill_bytes_max: u64,
}

impl Settings {
    /// The bytes of decoded rows that are merged in one commit, if there are several frames: DuckDB holds them some
    /// five times over between loading and change.
    fn part_bytes_max(&self) -> u64 {
        self.duck.memory_bytes / 8
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { duck: duck::Settings::default(), delta_memory_bytes: 384 << 20, delta_spill_bytes_max: 8 << 30 }
    }
}

/// What a merge did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The newest version that it committed; `None` if there was nothing new.
    pub version: Option<u64>,
    /// What it merged.
    pub story: MergeStory,
}

impl Outcome {
    /// Adds what a later commit did.
    fn add(&mut self, later: Self) {
        let (story, its) = (&mut self.story, later.story);
        self.version = later.version.or(self.version);
        story.ingests.extend(its.ingests);
        story.objects.extend(its.objects);
        story.rows_in += its.rows_in;
        story.changes += its.changes;
        story.deletes += its.deletes;
        story.quarantined += its.quarantined;
        story.duration_ms += its.duration_ms;
        for (rule, rows) in its.warned {
            *story.warned.entry(rule).or_default() += rows;
        }
    }
}

/// Merges bronze objects into the tables of a definition.
pub struct Merger {
    definitions: Arc<Definitions>,
    lake: Lake,
    clock: Arc<dyn Clock>,
    settings: Settings,
    session: Arc<SessionState>,
}

impl Merger {
    /// A merger for the tables of `definitions` in `lake`.
    pub fn new(definitions: Arc<Definitions>, lake: Lake, clock: Arc<dyn Clock>, settings: Settings) -> Self {
        let session = delta::session(settings.delta_memory_bytes, settings.delta_spill_bytes_max);
        Self { definitions, lake, clock, settings, session }
    }

    /// Merges the objects of one table, in one commit, or in several if their rows are more than the memory of one is
    /// made for. Objects, frames and rows that were merged before change nothing, so it can be called again after any
    /// failure.
    ///
    /// # Errors
    /// `NotFound` for an unknown table; `Invalid` if the definition stops the rows (`on_fail = "fail"`, SQL that does
    /// not run); `Unavailable`, `Exhausted` and `Conflict` if it should be called again.
    pub async fn merge(&self, table: &Name, objects: &[BronzeObject]) -> Result<Outcome> {
        let table = Arc::clone(self.definitions.now().table(table.as_str())?);
        let contents = self.read(&table, objects).await?;
        let mut outcome = Outcome::default();
        let parts = contents.parts(self.settings.part_bytes_max());
        for (position, part) in parts.iter().enumerate() {
            // An object is merged by the part that has its last frame.
            let later: BTreeSet<&str> = parts
                .iter()
                .skip(position + 1)
                .flat_map(|part| part.frames.iter().map(|found| found.object.as_str()))
                .collect();
            let is_told = |object: &BronzeObject| outcome.story.objects.contains(&object.key);
            let whole: Vec<BronzeObject> = objects
                .iter()
                .filter(|object| !later.contains(object.key.as_str()) && !is_told(object))
                .cloned()
                .collect();
            outcome.add(self.merge_part(&table, &whole, part).await?);
        }
        Ok(outcome)
    }

    async fn merge_part(&self, table: &Arc<Table>, objects: &[BronzeObject], part: &Contents) -> Result<Outcome> {
        let mut attempt = 1;
        loop {
            match self.merge_contents(table, objects, part).await {
                Err(error) if error.kind() == Kind::Conflict && attempt < ATTEMPTS_MAX => {
                    warn!(table = %table.name, attempt, error = error.chain(), "lost a commit race; deciding anew");
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    async fn read(&self, table: &Table, objects: &[BronzeObject]) -> Result<Contents> {
        let store = self.lake.object_store()?;
        let mut contents = Contents::default();
        for object in objects {
            match bronze::read(store.as_ref(), object).await? {
                Some(bytes) => bronze::take_apart(table.name.as_str(), object, bytes, &mut contents),
                None => warn!(table = %table.name, object = object.key, "the bronze object is gone; skipped"),
            }
        }
        Ok(contents)
    }

    async fn merge_contents(
        &self,
        table: &Arc<Table>,
        objects: &[BronzeObject],
        contents: &Contents,
    ) -> Result<Outcome> {
        let started = Instant::now();
        let silver = self.lake.open(Layer::Silver, &table.name).await?;
        let all = frames_of(contents.frames.iter());
        let ledger = Ledger::read(silver.as_ref(), &all).await?;
        let new = unmerged(&contents.frames, &ledger);
        let now_us = self.clock.now_us();
        if new.is_empty() {
            quarantine::add(&self.lake, table, Vec::new(), &contents.damaged, Vec::new(), now_us).await?;
            return Ok(Outcome::default());
        }
        let stored = silver.as_ref().map(delta::stored_schema).transpose()?;
        let mut stage = self.stage(table, stored, new.clone(), now_us).await?;
        let quarantined = self.quarantine(table, contents, &new, &mut stage, now_us).await?;

        let mut story = tell(objects, &new, &stage);
        let merged = frames_of(new.iter());
        for told in &mut story.ingests {
            told.merged_to = merged.get(&told.ingest_id).map(|numbers| ledger.merged_to(&told.ingest_id, numbers));
        }
        story.quarantined = quarantined;
        if stage.target.is_empty() {
            // Not one frame could be read, and nothing else tells the table's columns.
            return Ok(Outcome { version: None, story });
        }
        let target = stage.target.clone();
        let table = &spelt_as(table, &target);
        let silver = self.prepare(table, silver, &target).await?;
        let is_empty = stage.is_empty()?;
        let range = if is_empty { None } else { self.bury(table, &mut stage, now_us).await? };
        let changes = if is_empty { None } else { Some(blocking(move || stage.take()).await?) };
        if let Some(changes) = &changes {
            (story.changes, story.deletes) = (changes.rows, changes.deletes);
        }
        story.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let commit = Commit {
            transactions: ledger.record(&merged),
            story: serde_json::to_value(&story)
                .map_err(|error| Error::internal("a story is no JSON").because(error))?,
            at_us: now_us,
        };
        let has_files = delta::size(&silver)?.1 > 0;
        let silver = match (changes, range) {
            (Some(changes), Some(range)) if changes.rows > 0 && table.is_keyed() && has_files => {
                merge::merge(silver, table, &target, changes, range, &self.session, &commit).await?
            }
            (Some(changes), _) if changes.rows > 0 => merge::append(silver, table, changes, &commit).await?,
            _ => delta::commit_only(silver, &commit).await?,
        };
        let version = delta::version(&silver);
        info!(table = %table.name, version, rows = story.rows_in, changes = story.changes, quarantined, "merged");
        Ok(Outcome { version: Some(version), story })
    }

    async fn stage(
        &self,
        table: &Arc<Table>,
        stored: Option<arrow::datatypes::Schema>,
        frames: Vec<FoundFrame>,
        now_us: i64,
    ) -> Result<Stage> {
        let (table, settings) = (Arc::clone(table), self.settings.duck.clone());
        blocking(move || Stage::run(&table, stored.as_ref(), &frames, &settings, now_us)).await
    }

    /// Writes what can't be used to quarantine, once. Gives the rows of this merge that are there.
    async fn quarantine(
        &self,
        table: &Table,
        contents: &Contents,
        new: &[FoundFrame],
        stage: &mut Stage,
        now_us: i64,
    ) -> Result<u64> {
        let rows: u64 = stage.bad.iter().map(|batch| batch.num_rows() as u64).sum();
        let damaged: Vec<_> = contents.damaged.iter().chain(&stage.unreadable).cloned().collect();
        let bad: Frames =
            frames_of(new.iter().filter(|found| stage.bad_by_ingest.contains_key(&found.frame.header.ingest_id)));
        // A former try may have got this far and died before silver's commit: then the same frames are here again,
        // and their bad rows are in quarantine already. Frames that came since are staged with them, so the rows are
        // told apart by frame.
        let ledger = Ledger::read(quarantine::open(&self.lake, table).await?.as_ref(), &bad).await?;
        let mut fresh = Vec::new();
        for batch in std::mem::take(&mut stage.bad) {
            fresh.push(quarantine::without_recorded(&batch, |ingest_id, frame| ledger.contains(ingest_id, frame))?);
        }
        fresh.retain(|batch| batch.num_rows() > 0);
        let transactions = if fresh.is_empty() { Vec::new() } else { ledger.record(&bad) };
        quarantine::add(&self.lake, table, fresh, &damaged, transactions, now_us).await?;
        Ok(rows)
    }

    /// The silver table with all columns that the changes have; created if it is missing.
    async fn prepare(&self, table: &Table, silver: Option<DeltaTable>, columns: &[Column]) -> Result<DeltaTable> {
        let schema = arrow_schema(columns);
        let Some(silver) = silver else {
            let description = table.description.as_deref();
            let (lake, partitions) = (&self.lake, &table.partition_by);
            return delta::create(lake, Layer::Silver, &table.name, &schema, partitions, description).await;
        };
        let stored = delta::stored_schema(&silver)?;
        let is_stored = |name: &str| stored.fields().iter().any(|field| same_column(field.name(), name));
        let new: Vec<_> = schema
            .fields()
            .iter()
            .filter(|field| !is_stored(field.name()))
            .map(|field| field.as_ref().clone().with_nullable(true))
            .collect();
        if new.is_empty() {
            return Ok(silver);
        }
        delta::add_columns(silver, &arrow::datatypes::Schema::new(new)).await
    }

    /// Applies the stored tombstones to the rows, folds these to changes and stores their tombstones; gives the range of
    /// the first key.
    async fn bury(
        &self,
        table: &Table,
        stage: &mut Stage,
        now_us: i64,
    ) -> Result<Option<(datafusion::common::ScalarValue, datafusion::common::ScalarValue)>> {
        let Some(first_key) = table.primary_key.first() else {
            stage.fold()?;
            return Ok(None);
        };
        let range = stage.range(first_key)?.ok_or_else(|| Error::internal("good rows have no range of keys"))?;
        if table.delete_when.is_some()
            && let Some((schema, batches)) = tombstones::read(&self.lake, table, &self.session, range.clone()).await?
        {
            stage.bury(schema, batches)?;
        }
        stage.fold()?;
        if table.delete_when.is_some() {
            tombstones::add(&self.lake, table, &stage.target, stage.deletes()?, now_us).await?;
        }
        Ok(Some(range))
    }
}

/// Runs blocking work off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal("the merge's DuckDB thread died").because(error))?
}

fn frames_of<'a>(frames: impl Iterator<Item = &'a FoundFrame>) -> Frames {
    let mut by_ingest = Frames::new();
    for found in frames {
        let header = &found.frame.header;
        by_ingest.entry(header.ingest_id.clone()).or_default().insert(header.frame, header.following());
    }
    by_ingest
}

/// The frames that are not merged yet, each once, in the order of their arrival.
fn unmerged(frames: &[FoundFrame], ledger: &Ledger) -> Vec<FoundFrame> {
    let mut seen = BTreeSet::new();
    frames
        .iter()
        .filter(|found| {
            let header = &found.frame.header;
            !ledger.contains(&header.ingest_id, header.frame) && seen.insert((&header.ingest_id, header.frame))
        })
        .cloned()
        .collect()
}

fn tell(objects: &[BronzeObject], frames: &[FoundFrame], stage: &Stage) -> MergeStory {
    let mut ingests: BTreeMap<&str, IngestStory> = BTreeMap::new();
    for found in frames {
        let header = &found.frame.header;
        let story = ingests.entry(&header.ingest_id).or_insert_with(|| IngestStory {
            ingest_id: header.ingest_id.clone(),
            accepted_at_us: header.received_at_us,
            ..IngestStory::default()
        });
        story.rows += header.rows;
        story.frames += 1;
        story.bytes += found.bytes;
        if header.is_last {
            story.total_frames = Some(header.frame + 1);
        }
        story.accepted_at_us = story.accepted_at_us.min(header.received_at_us);
        story.delivered_at_us = story.delivered_at_us.max(found.delivered_at_us);
        story.quarantined = stage.bad_by_ingest.get(&header.ingest_id).copied().unwrap_or(0);
    }
    MergeStory {
        objects: objects.iter().map(|object| object.key.clone()).collect(),
        rows_in: frames.iter().map(|found| found.frame.header.rows).sum(),
        warned: stage.warned.clone(),
        ingests: ingests.into_values().collect(),
        ..MergeStory::default()
    }
}

#[cfg(test)]
mod tests;
