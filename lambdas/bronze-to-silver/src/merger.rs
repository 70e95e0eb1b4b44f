//! The merge of a table's bronze objects, from reading to commit.

mod kept;
mod part;
mod telling;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use datafusion::execution::SessionState;
use lakehouse::definition::Table;
use lakehouse::delta;
use lakehouse::story::MergeStory;
use lakehouse::{Clock, Definitions, Error, Kind, Lake, Name, Result};
use tokio::task::JoinSet;
use tracing::warn;

use crate::bronze::{self, BronzeObject, Contents, Damaged, FoundFrame};
use crate::ledger::object_id;
use crate::ndjson::{self, Format};
use crate::quarantine;
use kept::KeptTables;
use part::Part;

/// How often a merge is decided anew after it lost a commit race, or after a commit of which nobody knows whether it is
/// there.
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

    /// The bytes of bronze, packed as it is, that are enough to be held at once. A single object may have more.
    fn read_bytes_max(&self) -> u64 {
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
    /// The keys of the objects that are wholly in: all that were given, unless time ran out.
    pub done: Vec<String>,
    /// What it took.
    pub work: Work,
}

/// What a merge took, and what it found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Rows whose key was new.
    pub inserted: u64,
    /// Rows that replaced one.
    pub updated: u64,
    /// Rows that were deleted.
    pub deleted: u64,
    /// Frames that had been merged before.
    pub duplicate_frames: u64,
    /// Changes that a stored row or a tombstone had overtaken.
    pub late: u64,
    /// Rows that another row of the same merge had overtaken, or folded into itself.
    pub superseded: u64,
    /// Data files in which keys were looked for.
    pub files_scanned: u64,
    /// Data files that were written anew, or are gone.
    pub files_rewritten: u64,
    /// Data files that got a deletion vector.
    pub vectors_written: u64,
    /// Data files that are new.
    pub files_added: u64,
    /// Bytes of bronze and of data files that were read, compressed.
    pub bytes_read: u64,
    /// Bytes of data files and deletion vectors that were written.
    pub bytes_written: u64,
    /// Milliseconds by stage: `read` (bronze), `stage` (DuckDB, and quarantine), `evolve` (the table's columns), `scan`
    /// (stored rows and tombstones), `write`, `commit`.
    pub stages_ms: BTreeMap<&'static str, u64>,
}

impl Work {
    fn add(&mut self, later: Self) {
        self.inserted += later.inserted;
        self.updated += later.updated;
        self.deleted += later.deleted;
        self.duplicate_frames += later.duplicate_frames;
        self.late += later.late;
        self.superseded += later.superseded;
        self.files_scanned += later.files_scanned;
        self.files_rewritten += later.files_rewritten;
        self.vectors_written += later.vectors_written;
        self.files_added += later.files_added;
        self.bytes_read += later.bytes_read;
        self.bytes_written += later.bytes_written;
        for (stage, ms) in later.stages_ms {
            *self.stages_ms.entry(stage).or_default() += ms;
        }
    }

    /// Notes how long a stage took.
    fn took(&mut self, stage: &'static str, since: Instant) {
        *self.stages_ms.entry(stage).or_default() += u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    }
}

impl Outcome {
    /// Adds what a later commit did.
    fn add(&mut self, later: Self) {
        let (story, its) = (&mut self.story, later.story);
        self.version = later.version.or(self.version);
        self.done.extend(later.done);
        self.work.add(later.work);
        story.ingests.extend(its.ingests);
        story.objects.extend(its.objects);
        story.rows_in += its.rows_in;
        story.changes += its.changes;
        story.deletes += its.deletes;
        story.inserted += its.inserted;
        story.updated += its.updated;
        story.late += its.late;
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
    kept: KeptTables,
}

impl Merger {
    /// A merger for the tables of `definitions` in `lake`.
    pub fn new(definitions: Arc<Definitions>, lake: Lake, clock: Arc<dyn Clock>, settings: Settings) -> Self {
        let session = delta::session(settings.delta_memory_bytes, settings.delta_spill_bytes_max);
        Self { definitions, lake, clock, settings, session, kept: KeptTables::default() }
    }

    /// The lake that it merges in.
    pub(crate) fn lake(&self) -> &Lake {
        &self.lake
    }

    /// What the time is taken from.
    pub(crate) fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    /// The table called `name`.
    pub(crate) fn table(&self, name: &Name) -> Result<Arc<Table>> {
        Ok(Arc::clone(self.definitions.now().table(name.as_str())?))
    }

    /// Merges the objects of one table, in one commit, or in several if their rows are more than the memory of one is
    /// made for. Objects, frames and rows that were merged before change nothing, so it can be called again after any
    /// failure.
    ///
    /// # Errors
    /// `NotFound` for an unknown table; `Stopped` if a rule of the definition stops the rows (`on_fail = "fail"`);
    /// `Unavailable`, `Exhausted` and `Conflict` if it should be called again; `Invalid` and `Internal` for what calling
    /// again does not mend.
    pub async fn merge(&self, table: &Name, objects: &[BronzeObject]) -> Result<Outcome> {
        self.merge_until(table, objects, None).await
    }

    /// As [`Merger::merge`], but no commit is begun after `until`; [`Outcome::done`] tells which objects are in.
    ///
    /// # Errors
    /// As [`Merger::merge`].
    pub async fn merge_until(&self, table: &Name, objects: &[BronzeObject], until: Option<Instant>) -> Result<Outcome> {
        let table = self.table(table)?;
        let mut outcome = Outcome::default();
        let mut rest = objects;
        while !rest.is_empty() && until.is_none_or(|until| Instant::now() < until) {
            let started = Instant::now();
            let (contents, count) = self.read(&table, rest).await?;
            let (portion, later) = rest.split_at(count);
            outcome.work.took("read", started);
            // Nobody waits for what is not there. It is not recorded: it may yet come.
            outcome.done.extend(contents.gone.iter().cloned());
            let is_there = |object: &&BronzeObject| !contents.gone.contains(&object.key);
            let portion: Vec<BronzeObject> = portion.iter().filter(is_there).cloned().collect();
            outcome.add(self.merge_all(&table, &portion, contents, until).await?);
            rest = later;
        }
        Ok(outcome)
    }

    /// Merges frames that were found otherwise than in objects of now.
    pub(crate) async fn merge_found(
        &self,
        table: &Arc<Table>,
        frames: Vec<FoundFrame>,
        damaged: Vec<Damaged>,
        objects: &[BronzeObject],
    ) -> Result<Outcome> {
        self.merge_all(table, objects, Contents { frames, damaged, ..Contents::default() }, None).await
    }

    async fn merge_all(
        &self,
        table: &Arc<Table>,
        objects: &[BronzeObject],
        contents: Contents,
        until: Option<Instant>,
    ) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        outcome.work.bytes_read = contents.bytes;
        let parts = contents.parts(self.settings.part_bytes_max());
        for (position, part) in parts.iter().enumerate() {
            if until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
            // An object is merged by the part that has its last frame.
            let later: BTreeSet<&str> = parts
                .iter()
                .skip(position + 1)
                .flat_map(|part| part.frames.iter().map(|found| found.object.as_str()))
                .collect();
            let is_told = |object: &BronzeObject| outcome.done.contains(&object.key);
            let whole: Vec<BronzeObject> = objects
                .iter()
                .filter(|object| !later.contains(object.key.as_str()) && !is_told(object))
                .cloned()
                .collect();
            let mut merged = self.merge_part(table, &whole, part).await?;
            merged.done = whole.into_iter().map(|object| object.key).collect();
            outcome.add(merged);
        }
        Ok(outcome)
    }

    /// Merges one part. What a commit did of which nobody knew is found in the ledger, and told as if it had been known.
    async fn merge_part(&self, table: &Arc<Table>, objects: &[BronzeObject], contents: &Contents) -> Result<Outcome> {
        let mut part = Part { merger: self, table, objects, contents, told: None };
        let mut attempt = 1;
        loop {
            match part.merge().await {
                Err(error)
                    if attempt < ATTEMPTS_MAX
                        && (error.kind() == Kind::Conflict || part.told.is_some() && error.kind().is_retriable()) =>
                {
                    warn!(table = %table.name, attempt, error = error.chain(), "a commit failed; deciding anew");
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    /// Puts an object that can't be merged into quarantine whole, once, so that it holds up no others. It is recorded as
    /// merged; a replay reads it again.
    ///
    /// # Errors
    /// `NotFound` for an unknown table, `Unavailable` and `Conflict` if it should be called again.
    pub async fn set_aside(&self, table: &Name, object: &BronzeObject, reason: &str) -> Result<()> {
        let table = self.table(table)?;
        quarantine::add_object(&self.lake, &table, object, reason, self.clock.now_us()).await
    }

    /// Those of `objects` that neither silver nor quarantine has recorded.
    ///
    /// # Errors
    /// `NotFound` for an unknown table, `Unavailable` if the lake can't be read.
    pub async fn unmerged(&self, table: &Name, objects: Vec<BronzeObject>) -> Result<Vec<BronzeObject>> {
        let table = self.table(table)?;
        let quarantined = match quarantine::open(&self.lake, &table).await? {
            Some(stored) => quarantine::recorded(&stored).await?,
            None => delta::Transactions::default(),
        };
        let silver = self.kept.open(&self.lake, &table.name).await?;
        let is_recorded = |object: &BronzeObject| {
            let id = object_id(&object.key);
            let is_merged = silver.as_ref().is_some_and(|silver| silver.transactions.version(&id).is_some());
            is_merged || quarantine::is_recorded(&quarantined, &id)
        };
        let unmerged = objects.into_iter().filter(|object| !is_recorded(object)).collect();
        if let Some(silver) = silver {
            self.kept.keep(&table.name, silver);
        }
        Ok(unmerged)
    }

    async fn read_object(
        &self,
        table: &Arc<Table>,
        object: &BronzeObject,
        bytes: Bytes,
        written_at_us: i64,
    ) -> Result<Contents> {
        let (name, its) = (table.name.clone(), object.clone());
        let read = blocking(move || {
            let frames = match ndjson::detect(&bytes) {
                Format::Frames => Some((bytes.clone(), None)),
                Format::Gzip => bronze::unpacked(&bytes),
                Format::Json => None,
            };
            let contents = frames.map(|(frames, torn)| {
                let (mut contents, end) = (Contents::default(), frames.len() as u64);
                bronze::take_apart(name.as_str(), &its, frames, &mut contents);
                let torn = torn.map(|reason| Damaged::frame(&its.key, its.delivered_at_us, end, reason));
                contents.damaged.extend(torn);
                contents
            });
            Ok((bytes, contents))
        });
        let (bytes, contents) = read.await?;
        match contents {
            Some(contents) => Ok(contents),
            None => self.read_text(table, object, bytes, written_at_us).await,
        }
    }

    async fn read_text(
        &self,
        table: &Arc<Table>,
        object: &BronzeObject,
        bytes: Bytes,
        written_at_us: i64,
    ) -> Result<Contents> {
        let silver = self.kept.open(&self.lake, &table.name).await?;
        let stored = silver.as_ref().map(|silver| delta::stored_schema(&silver.table)).transpose()?;
        if let Some(silver) = silver {
            self.kept.keep(&table.name, silver);
        }
        let (table, object) = (Arc::clone(table), object.clone());
        blocking(move || bronze::read_text(&table, stored.as_ref(), &object, bytes, written_at_us)).await
    }

    /// Reads the first objects, as many as memory is made for, but one at least; gives what they hold, and how many they
    /// are.
    async fn read(&self, table: &Arc<Table>, objects: &[BronzeObject]) -> Result<(Contents, usize)> {
        let store = self.lake.object_store()?;
        let (mut contents, mut held, mut count) = (Contents::default(), 0, 0);
        for object in objects {
            count += 1;
            let Some((bytes, written_at_us)) = bronze::read(store.as_ref(), object).await? else {
                warn!(table = %table.name, object = object.key, "the bronze object is gone; skipped");
                contents.gone.push(object.key.clone());
                continue;
            };
            contents.bytes += bytes.len() as u64;
            let read = self.read_object(table, object, bytes, written_at_us).await?;
            held += read.frames.iter().map(|found| found.frame.payload.len() as u64).sum::<u64>();
            contents.frames.extend(read.frames);
            contents.damaged.extend(read.damaged);
            if held >= self.settings.read_bytes_max() {
                break;
            }
        }
        Ok((contents, count))
    }
}

/// Runs work on a task of its own, which ends if nobody waits for it any more.
pub(crate) async fn spawned<T: Send + 'static>(
    what: &str,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let mut tasks = JoinSet::new();
    tasks.spawn(work);
    let died = || Error::internal(format!("the task that {what} died"));
    tasks.join_next().await.ok_or_else(died)?.map_err(|error| died().because(error))?
}

/// Runs blocking work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal("the merge's DuckDB thread died").because(error))?
}

#[cfg(test)]
mod tests;
