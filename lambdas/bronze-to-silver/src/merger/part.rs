//! One commit of a merge: from frames to a version of silver.

use std::sync::Arc;
use std::time::Instant;

use deltalake::DeltaTable;
use deltalake::protocol::{DeltaOperation, SaveMode};
use lakehouse::definition::{Column, DeletionVectors, Table};
use lakehouse::delta::{self, Changes, Commit, DataFile};
use lakehouse::schema::{arrow_schema, spelt_as};
use lakehouse::story::MergeStory;
use lakehouse::{Error, Kind, Layer, Result};
use tracing::{debug, info};

use super::kept::Open;
use super::telling::{frames_of, tell, unmerged};
use super::{Merger, Outcome, Work, blocking};
use crate::bronze::{BronzeObject, Contents, FoundFrame};
use crate::ledger::{Frames, Ledger, object_id};
use crate::quarantine::{self, Quarantine};
use crate::scan::Scan;
use crate::sql::sequence_columns;
use crate::stage::{Folded, Stage};
use crate::{tombstones, writing};

/// What is merged in one commit.
pub(super) struct Part<'a> {
    pub(super) merger: &'a Merger,
    pub(super) table: &'a Arc<Table>,
    /// The objects of which this is the last part.
    pub(super) objects: &'a [BronzeObject],
    pub(super) contents: &'a Contents,
    /// What a commit that may have failed would have told.
    pub(super) told: Option<MergeStory>,
}

/// The rows of a part on their way into silver.
struct Writing {
    silver: DeltaTable,
    changes: Changes,
    operation: DeltaOperation,
}

impl Part<'_> {
    /// Merges it, as far as it is not merged.
    pub(super) async fn merge(&mut self) -> Result<Outcome> {
        let (merger, name) = (self.merger, &self.table.name);
        let started = Instant::now();
        let mut work = Work::default();
        let silver = merger.kept.open(&merger.lake, name).await?;
        let all = frames_of(self.contents.frames.iter());
        let ledger = silver.as_ref().map_or_else(Ledger::default, |silver| Ledger::read(&silver.transactions, &all));
        let new = unmerged(&self.contents.frames, &ledger);
        work.duplicate_frames = (self.contents.frames.len() - new.len()) as u64;
        let now_us = merger.clock.now_us();
        if new.is_empty() {
            return self.nothing_new(silver, work, now_us).await;
        }
        let stored = silver.as_ref().map(|silver| delta::stored_schema(&silver.table)).transpose()?;
        // If nobody waits for this merge any more, its DuckDB ends too.
        let stopper = duck::Stopper::default();
        let _stop = stopper.stop_on_drop();
        let mut stage = self.stage(stored, new.clone(), now_us, stopper).await?;
        let quarantined = self.quarantine(&new, &mut stage, now_us).await?;
        work.took("stage", started);

        let mut story = tell(self.objects, &new, &stage);
        let merged = frames_of(new.iter());
        for told in &mut story.ingests {
            told.merged_to = merged.get(&told.ingest_id).map(|numbers| ledger.merged_to(&told.ingest_id, numbers));
        }
        story.quarantined = quarantined;
        if stage.target.is_empty() {
            // Not one frame could be read, and nothing else tells the table's columns.
            self.record_in_quarantine(now_us).await?;
            return Ok(Outcome { version: None, story, work, done: Vec::new() });
        }
        let target = stage.target.clone();
        let table = &spelt_as(self.table, &target);
        let (silver, mut transactions) = match silver {
            Some(Open { table, transactions }) => (Some(table), transactions),
            None => (None, delta::Transactions::default()),
        };
        let evolving = Instant::now();
        let silver = self.prepare(table, silver, &target).await?;
        work.took("evolve", evolving);
        let Writing { silver, changes, operation } =
            self.write(table, &target, silver, stage, &mut story, &mut work, now_us).await?;
        story.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut done = ledger.record(&merged);
        done.extend(self.objects.iter().map(|object| (object_id(&object.key), 1)));
        let commit = Commit { transactions: done, story: json(&story)?, at_us: now_us };
        self.told = Some(story.clone());
        let committing = Instant::now();
        let silver = changes.commit(silver, operation, &commit).await?;
        work.took("commit", committing);
        let version = delta::version(&silver);
        transactions.advance(&silver).await?;
        merger.kept.keep(name, Open { table: silver, transactions });
        info!(table = %name, version, rows = story.rows_in, changes = story.changes, quarantined, "merged");
        Ok(Outcome { version: Some(version), story, work, done: Vec::new() })
    }

    /// All frames are in. Objects that are not recorded yet are.
    async fn nothing_new(&mut self, silver: Option<Open>, work: Work, now_us: i64) -> Result<Outcome> {
        let (merger, table, damaged) = (self.merger, self.table, &self.contents.damaged);
        let in_quarantine = self.quarantined().await?;
        let is_new = |object: &&BronzeObject| {
            let id = object_id(&object.key);
            let is_merged = silver.as_ref().is_some_and(|silver| silver.transactions.version(&id).is_some());
            !is_merged && !quarantine::is_recorded(&in_quarantine, &id)
        };
        let objects: Vec<(String, i64)> =
            self.objects.iter().filter(is_new).map(|object| (object_id(&object.key), 1)).collect();
        if !damaged.is_empty() {
            let stored = Quarantine::open(&merger.lake, table).await?;
            stored.add(table, Vec::new(), damaged, Vec::new(), now_us).await?;
        }
        let mut outcome = Outcome { work, ..Outcome::default() };
        let Some(mut silver) = silver else {
            self.record_in_quarantine(now_us).await?;
            return Ok(outcome);
        };
        if let Some(story) = self.told.take() {
            outcome.version = Some(delta::version(&silver.table));
            outcome.story = story;
        } else if !objects.is_empty() {
            let story = MergeStory {
                objects: self.objects.iter().map(|object| object.key.clone()).collect(),
                ..MergeStory::default()
            };
            let commit = Commit { transactions: objects, story: json(&story)?, at_us: now_us };
            silver.table = delta::commit_only(silver.table, &commit).await?;
            outcome.version = Some(delta::version(&silver.table));
            outcome.story = story;
        }
        merger.kept.keep(&table.name, silver);
        Ok(outcome)
    }

    async fn stage(
        &self,
        stored: Option<arrow::datatypes::Schema>,
        frames: Vec<FoundFrame>,
        now_us: i64,
        stop: duck::Stopper,
    ) -> Result<Stage> {
        let settings = duck::Settings { stop: Some(stop), ..self.merger.settings.duck.clone() };
        let table = Arc::clone(self.table);
        blocking(move || Stage::run(&table, stored.as_ref(), &frames, &settings, now_us)).await
    }

    /// Writes what can't be used to quarantine, once. Gives the rows of this merge that are there.
    async fn quarantine(&self, new: &[FoundFrame], stage: &mut Stage, now_us: i64) -> Result<u64> {
        let (lake, table) = (&self.merger.lake, self.table);
        let has_lines = |found: &&FoundFrame| !found.damaged.is_empty();
        let lines: usize = new.iter().map(|found| found.damaged.len()).sum();
        let rows = stage.bad.iter().map(|batch| batch.num_rows() as u64).sum::<u64>() + lines as u64;
        let damaged: Vec<_> = self.contents.damaged.iter().chain(&stage.unreadable).cloned().collect();
        if rows == 0 && damaged.is_empty() {
            return Ok(0);
        }
        let is_bad =
            |found: &&FoundFrame| has_lines(found) || stage.bad_by_ingest.contains_key(&found.frame.header.ingest_id);
        let bad: Frames = frames_of(new.iter().filter(is_bad));
        // A former try may have got this far and died before silver's commit: then the same frames are here again,
        // and their bad rows are in quarantine already. Frames that came since are staged with them, so the rows are
        // told apart by frame.
        let stored = Quarantine::open(lake, table).await?;
        let ledger = Ledger::read(&stored.recorded, &bad);
        let mut fresh = Vec::new();
        for batch in std::mem::take(&mut stage.bad) {
            fresh.push(quarantine::without_recorded(&batch, |ingest_id, frame| ledger.contains(ingest_id, frame))?);
        }
        fresh.retain(|batch| batch.num_rows() > 0);
        for found in new.iter().filter(has_lines) {
            let header = &found.frame.header;
            if !ledger.contains(&header.ingest_id, header.frame) {
                fresh.push(quarantine::line_batch(table, found, now_us)?);
            }
        }
        let transactions = if fresh.is_empty() { Vec::new() } else { ledger.record(&bad) };
        stored.add(table, fresh, &damaged, transactions, now_us).await?;
        Ok(rows)
    }

    /// Records the objects where their damage is: there is no silver table yet.
    async fn record_in_quarantine(&self, now_us: i64) -> Result<()> {
        let Some(stored) = quarantine::open(&self.merger.lake, self.table).await? else { return Ok(()) };
        let recorded = quarantine::recorded(&stored).await?;
        let ids = self.objects.iter().map(|object| object_id(&object.key));
        let new: Vec<_> = ids.filter(|id| !quarantine::is_recorded(&recorded, id)).map(|id| (id, 1)).collect();
        if !new.is_empty() {
            let commit = Commit { transactions: new, story: serde_json::Value::Null, at_us: now_us };
            delta::commit_only(stored, &commit).await?;
        }
        Ok(())
    }

    /// What quarantine has recorded.
    async fn quarantined(&self) -> Result<delta::Transactions> {
        match quarantine::open(&self.merger.lake, self.table).await? {
            Some(stored) => quarantine::recorded(&stored).await,
            None => Ok(delta::Transactions::default()),
        }
    }

    /// The silver table with all columns that the changes have; created if it is missing.
    async fn prepare(&self, table: &Table, silver: Option<DeltaTable>, columns: &[Column]) -> Result<DeltaTable> {
        let schema = arrow_schema(columns);
        // Merges look for keys, readers for times and the newest.
        let mut indexed = table.primary_key.clone();
        if table.is_keyed() {
            indexed.extend(sequence_columns(table));
        }
        let Some(silver) = silver else {
            let description = table.description.as_deref();
            let (lake, partitions) = (&self.merger.lake, &table.partition_by);
            let (layer, name) = (Layer::Silver, &table.name);
            let silver = delta::create_indexed(lake, layer, name, &schema, partitions, &indexed, description).await?;
            if delta::version(&silver) > 0 {
                // What it has merged by now is not in the ledger that was read.
                return Err(Error::new(Kind::Conflict, format!("another process has made table {layer}.{name}")));
            }
            let vectors = table.is_keyed() && table.deletion_vectors == DeletionVectors::On;
            return if vectors { delta::allow_vectors(silver).await } else { Ok(silver) };
        };
        delta::evolve(silver, &self.merger.session, &schema, &indexed).await
    }

    /// Writes the files of the commit.
    #[expect(clippy::too_many_arguments, reason = "the one place where all that a commit is made of meets")]
    async fn write(
        &self,
        table: &Table,
        target: &[Column],
        silver: DeltaTable,
        stage: Stage,
        story: &mut MergeStory,
        work: &mut Work,
        now_us: i64,
    ) -> Result<Writing> {
        let append = DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
        if stage.good_rows == 0 {
            return Ok(Writing { silver, changes: Changes::default(), operation: append });
        }
        let writing = Instant::now();
        if !table.is_keyed() {
            story.changes = stage.good_rows;
            (story.inserted, work.inserted) = (story.changes, story.changes);
            let changes = writing::write_good(&silver, table, stage).await?;
            work.wrote(&changes);
            work.took("write", writing);
            return Ok(Writing { silver, changes, operation: append });
        }
        let scanning = Instant::now();
        let (mut stage, keys) = blocking(move || stage.keys().map(|keys| (stage, Arc::new(keys)))).await?;
        if table.delete_when.is_some()
            && let Some(buried) = tombstones::open(&self.merger.lake, table).await?
        {
            let (found, candidates) = candidates(stage, &buried.files).await?;
            let (schema, batches) = buried
                .read(table, target, candidates, Arc::clone(&keys), now_us)
                .await
                .map_err(|error| stored(table, error))?;
            stage = blocking(move || {
                let mut stage = found;
                stage.bury(schema, batches).map(|()| stage)
            })
            .await?;
        }
        let scan = Scan { store: silver.object_store(), files: Arc::new(delta::data_files(&silver)?) };
        let good_rows = stage.good_rows;
        let (stage, folded) = self.fold(table, &scan, stage, keys, work).await?;
        story.changes = folded.changes;
        story.deletes = folded.deletes.iter().map(|batch| batch.num_rows() as u64).sum();
        if table.delete_when.is_some() {
            tombstones::add(&self.merger.lake, table, target, &self.merger.session, folded.deletes, now_us).await?;
        }
        let (stage, effect) = self.compare(&scan, stage).await?;
        work.took("scan", scanning);
        (story.inserted, story.updated, story.late) = (effect.inserted, effect.updated, effect.late);
        (work.inserted, work.updated, work.deleted, work.late) =
            (effect.inserted, effect.updated, effect.deleted, effect.late);
        work.superseded = good_rows.saturating_sub(folded.changes + effect.overtaken);
        let writing = Instant::now();
        let (silver, changes) = writing::write_changes(silver, table, &scan, stage).await?;
        work.wrote(&changes);
        work.bytes_read += scan.files.iter().map(DataFile::bytes_read).sum::<u64>();
        work.took("write", writing);
        let operation = DeltaOperation::Merge {
            predicate: None,
            merge_predicate: Some(format!("same {}", table.primary_key.join(", "))),
            matched_predicates: Vec::new(),
            not_matched_predicates: Vec::new(),
            not_matched_by_source_predicates: Vec::new(),
        };
        Ok(Writing { silver, changes, operation })
    }

    /// Finds the stored rows of the keys, and takes the newest change of each.
    async fn fold(
        &self,
        table: &Table,
        scan: &Scan,
        stage: Stage,
        keys: Arc<crate::keys::KeySet>,
        work: &mut Work,
    ) -> Result<(Stage, Folded)> {
        let (mut stage, candidates) = candidates(stage, &scan.files).await?;
        work.files_scanned = candidates.len() as u64;
        let bytes: u64 = candidates.iter().map(|number| scan.files[*number].bytes()).sum();
        debug!(table = %table.name, files = scan.files.len(), candidates = candidates.len(), bytes, "looking for keys");
        let schema = stage.compared_schema()?;
        let rows = scan.rows_with(candidates, schema, table.primary_key.len(), keys);
        let rows = rows.await.map_err(|error| stored(table, error))?;
        blocking(move || stage.fold(rows).map(|folded| (stage, folded))).await
    }

    /// Decides which of the stored rows go and what is written.
    async fn compare(&self, scan: &Scan, mut stage: Stage) -> Result<(Stage, crate::stage::Effect)> {
        let (mut stage, needed) = blocking(move || stage.compare().map(|needed| (stage, needed))).await?;
        let rows = scan.rows_at(needed, arrow_schema(&stage.target)).await;
        let rows = rows.map_err(|error| stored(self.table, error))?;
        blocking(move || stage.conclude(rows).map(|effect| (stage, effect))).await
    }
}

/// The files in which a key that changes may lie.
async fn candidates(mut stage: Stage, files: &Arc<Vec<DataFile>>) -> Result<(Stage, Vec<usize>)> {
    let files = Arc::clone(files);
    blocking(move || stage.candidates(&files).map(|found| (stage, found))).await
}

/// What can't be read of the stored table is no fault of the object that is merged.
fn stored(table: &Table, error: Error) -> Error {
    if error.kind().is_retriable() {
        return error;
    }
    let message = format!("what silver.{} or its tombstones hold can't be read; look at the table's files", table.name);
    Error::stopped(message).because(error)
}

fn json(story: &MergeStory) -> Result<serde_json::Value> {
    serde_json::to_value(story).map_err(|error| Error::internal("a story is no JSON").because(error))
}

impl Work {
    fn wrote(&mut self, changes: &Changes) {
        self.files_rewritten += changes.files_rewritten;
        self.vectors_written += changes.vectors_written;
        self.files_added += changes.files_added;
        self.bytes_written += changes.bytes_written;
    }
}
