//! Waits until tables contain ingests, by looking again and again.
//!
//! A look asks the newest snapshot of each silver table that matters for the ingest's `txn` (the merges' ledger), reads
//! the stories of the commits that are new, and for each model the versions that its newest one contains
//! ([`lineage`]). A look costs little where nothing was committed since the last one. This process's own commits wake
//! it at once, those of others are found within [`PAUSE_MAX`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use deltalake::DeltaTable;
use futures::future::{pending, select_all};
use lakehouse::definition::Definition;
use lakehouse::{Error, Kind, Layer, Name, Result, delta};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::System;
use super::history::COMMITS_MAX;
use super::lacks::{Aside, Lack, Place, lacks, utc};
use super::lineage::{self, Contents, Inputs, Lineage, NEWEST, Refresh, Refreshes, refresh_at};
use super::progress::{Commit, Need, Progress};
use crate::engine::{Awaited, Ingests, Newest, Wait};
use crate::ingest::AcceptedIngest;

/// The first pause between two looks; it grows by half up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The longest wait, whatever the query's timeout is.
const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How many of a table's newest commits are read first: most ingests that are waited for are young.
const DEPTH_FIRST: usize = 64;

/// How many lacks an error tells.
const LACKS_TOLD_MAX: usize = 4;

#[async_trait]
impl Ingests for System {
    async fn wait(&self, wait: &Wait, newest: &Newest) -> Result<()> {
        let limit = wait.limit.min(WAIT_MAX);
        let (deadline, began_us) = (Instant::now() + limit, self.clock.now_us());
        // Before the first look: what is committed behind it wakes the next one.
        let mut commits = self.backlog.commits();
        let mut look = Look::new(self, wait, newest);
        let mut lacking = Vec::new();
        let mut pause = PAUSE_MIN;
        loop {
            match timeout_at(deadline, look.again()).await {
                Ok(found) => lacking = found?,
                Err(_elapsed) => return Err(self.too_late(&lacking, limit, began_us).await),
            }
            if lacking.is_empty() {
                return Ok(());
            }
            if timeout_at(deadline, woken(&mut commits, pause)).await.is_err() {
                return Err(self.too_late(&lacking, limit, began_us).await);
            }
            pause = (pause * 3 / 2).min(PAUSE_MAX);
        }
    }
}

/// Completes at a commit of this process, or after the pause.
async fn woken(commits: &mut [watch::Receiver<u64>], pause: Duration) {
    let changed = commits.iter_mut().map(|commits| {
        Box::pin(async move {
            if commits.changed().await.is_err() {
                pending::<()>().await;
            }
        })
    });
    let changed: Vec<_> = changed.collect();
    if changed.is_empty() {
        return tokio::time::sleep(pause).await;
    }
    tokio::select! {
        _ = select_all(changed) => {}
        () = tokio::time::sleep(pause) => {}
    }
}

impl System {
    async fn too_late(&self, lacking: &[Lack], limit: Duration, began_us: i64) -> Error {
        let told = self.tell(lacking).await;
        Error::new(
            Kind::Timeout,
            format!(
                "waited {} s, since {}, for what wait_for names: {told}; give the session option timeout more time, or \
                 leave out what need not be there",
                limit.as_secs_f64(),
                utc(began_us)
            ),
        )
    }

    /// What is lacking, and how far it is.
    async fn tell(&self, lacking: &[Lack]) -> String {
        if lacking.is_empty() {
            return "it could not be found out in this time what is there".to_owned();
        }
        let delivered = self.backlog.delivered().await.unwrap_or_else(|error| {
            tracing::warn!(error = error.chain(), "it can't be told what waits in bronze");
            BTreeMap::new()
        });
        let (troubles, definition) = (self.backlog.troubles(), self.definitions.now());
        let mut told: Vec<String> = Vec::new();
        for lack in lacking.iter().take(LACKS_TOLD_MAX) {
            let mut aside = Aside::default();
            match &lack.place {
                Place::Unknown => {}
                Place::Silver { table, .. } => {
                    let id = &lack.awaited.ingest_id;
                    aside.accepted_at_us =
                        self.accepted(id).get(table.as_str()).map(|accepted| accepted.accepted_at_us);
                    let objects = delivered.get(table).into_iter().flatten();
                    let parts = objects.flat_map(|object| &object.ingests).filter(|story| story.ingest_id == *id);
                    aside.delivered_at_us = parts.map(|story| story.delivered_at_us).max();
                    aside.trouble = troubles.tables.get(table).cloned();
                }
                Place::Gold { model, .. } => {
                    aside.trouble = troubles.models.get(model).cloned();
                    aside.refresh = definition.models.get(model).map(|model| model.refresh.to_string());
                }
            }
            told.push(lack.tell(&aside));
        }
        if let Some(more @ 1..) = lacking.len().checked_sub(LACKS_TOLD_MAX) {
            told.push(format!("and {more} more"));
        }
        told.join("; ")
    }

    /// An ingest by the tables into which this process accepted it.
    fn accepted(&self, ingest_id: &str) -> BTreeMap<String, AcceptedIngest> {
        self.accepted.of(ingest_id).into_iter().map(|accepted| (accepted.receipt.table.clone(), accepted)).collect()
    }
}

/// One wait's looks, and what they have found out so far.
struct Look<'a> {
    system: &'a System,
    wait: &'a Wait,
    newest: &'a Newest,
    definition: Arc<Definition>,
    inputs: Inputs,
    /// How far each ingest is in each silver table, at which version of it.
    known: BTreeMap<(Awaited, Name), (u64, Option<Progress>)>,
}

impl<'a> Look<'a> {
    fn new(system: &'a System, wait: &'a Wait, newest: &'a Newest) -> Self {
        let definition = system.definitions.now();
        let inputs = lineage::inputs(&definition);
        Self { system, wait, newest, definition, inputs, known: BTreeMap::new() }
    }

    /// What is lacking now.
    async fn again(&mut self) -> Result<Vec<Lack>> {
        let definition = self.system.definitions.refresh().await?;
        if !Arc::ptr_eq(&definition, &self.definition) {
            self.inputs = lineage::inputs(&definition);
            self.definition = definition;
        }
        let models = self.models().await?;
        let direct = self.wait.reads.iter().filter(|(layer, _)| *layer == Layer::Silver).map(|(_, name)| name.clone());
        let through = models.values().flat_map(|contents| contents.keys().cloned());
        let tables: BTreeSet<Name> = direct.chain(through).collect();
        if tables.is_empty() {
            return Ok(Vec::new());
        }
        let wait = self.wait;
        let mut snapshots = Snapshots::new(self.newest);
        let mut lacking = Vec::new();
        for awaited in &wait.awaited {
            match self.find(awaited, &tables, &mut snapshots).await? {
                Some(found) => lacking.extend(lacks(awaited, &found, &models)),
                None => lacking.push(Lack { awaited: awaited.clone(), place: Place::Unknown }),
            }
        }
        Ok(lacking)
    }

    /// Those of `tables` that an ingest goes into, with how far it is there; none of them if it goes elsewhere. `None`:
    /// nobody knows.
    async fn find(
        &mut self,
        awaited: &Awaited,
        tables: &BTreeSet<Name>,
        snapshots: &mut Snapshots<'_>,
    ) -> Result<Option<BTreeMap<Name, Option<Progress>>>> {
        let mut found = BTreeMap::new();
        for table in tables {
            if let Some(progress) = self.progress(awaited, table, snapshots).await? {
                found.insert(table.clone(), Some(progress));
            }
        }
        let accepted = self.system.accepted(&awaited.ingest_id);
        // One without rows is kept as soon as it is accepted.
        let has_rows = |table: &&Name| accepted.get(table.as_str()).is_some_and(|its| its.receipt.frames > 0);
        for table in tables.iter().filter(has_rows) {
            found.entry(table.clone()).or_insert(None);
        }
        if !found.is_empty() || !accepted.is_empty() {
            return Ok(Some(found));
        }
        let mut is_known = false;
        for (table, objects) in self.system.backlog.delivered().await? {
            let mut ingests = objects.iter().flat_map(|object| &object.ingests);
            if ingests.any(|story| story.ingest_id == awaited.ingest_id) {
                is_known = true;
                if tables.contains(&table) {
                    found.insert(table, None);
                }
            }
        }
        let definition = Arc::clone(&self.definition);
        for table in definition.tables.keys().filter(|table| !tables.contains(*table)) {
            if is_known {
                break;
            }
            is_known = self.progress(awaited, table, snapshots).await?.is_some();
        }
        Ok(is_known.then_some(found))
    }

    /// How far an ingest is in a silver table; `None` if that has nothing of it.
    async fn progress(
        &mut self,
        awaited: &Awaited,
        table: &Name,
        snapshots: &mut Snapshots<'_>,
    ) -> Result<Option<Progress>> {
        let key = (awaited.clone(), table.clone());
        let before = self.known.get(&key);
        if let Some((_, Some(progress))) = before
            && progress.since.is_some()
        {
            return Ok(Some(progress.clone()));
        }
        let Some(snapshot) = snapshots.silver(table).await? else { return Ok(None) };
        let version = delta::version(&snapshot);
        if let Some((at, progress)) = before
            && *at == version
        {
            return Ok(progress.clone());
        }
        let ledger = delta::transaction_version(&snapshot, &format!("frames/{}", awaited.ingest_id)).await?;
        let progress = match ledger.and_then(|ledger| u64::try_from(ledger).ok()) {
            // Twice the first number that is missing, and a bit that says whether frames beyond it are in.
            Some(ledger) => Some(self.told(awaited, table, &snapshot, ledger / 2).await?),
            None => None,
        };
        self.known.insert(key, (version, progress.clone()));
        Ok(progress)
    }

    /// How far an ingest is, as the commits tell that have parts of it.
    async fn told(&self, awaited: &Awaited, table: &Name, snapshot: &DeltaTable, merged_to: u64) -> Result<Progress> {
        for depth in [DEPTH_FIRST, COMMITS_MAX] {
            let history = self.system.silver.of(table, snapshot, depth).await?;
            let mut progress = Progress::new(Need::of(awaited));
            for commit in history.iter().rev() {
                let parts = commit.story.iter().flat_map(|story| &story.ingests);
                for part in parts.filter(|part| part.ingest_id == awaited.ingest_id) {
                    progress.add(Commit { version: commit.version, at_us: commit.at_ms * 1000 }, part);
                }
            }
            // A stream may have come so far before the first commit that was read.
            let is_exact = awaited.offset.is_none() || progress.since != progress.first;
            if progress.since.is_some() && is_exact {
                return Ok(progress);
            }
            if depth == COMMITS_MAX {
                let oldest = history.last().map_or(delta::version(snapshot), |commit| commit.version);
                progress.close(merged_to, oldest);
                return Ok(progress);
            }
        }
        Err(Error::internal("a table's commits were not read to their end"))
    }

    /// The models that are read, with what their newest versions contain.
    async fn models(&self) -> Result<BTreeMap<Name, Contents>> {
        let read = || self.wait.reads.iter().filter(|(layer, _)| *layer == Layer::Gold).map(|(_, name)| name);
        let mut refreshes = Refreshes::new();
        let mut todo: Vec<(Name, u64)> = read().map(|model| (model.clone(), NEWEST)).collect();
        let mut done = BTreeSet::new();
        while let Some((model, at)) = todo.pop() {
            if !done.insert((model.clone(), at)) {
                continue;
            }
            let Some(snapshot) = self.newest.of(Layer::Gold, &model).await? else { continue };
            let behind = usize::try_from(delta::version(&snapshot).saturating_sub(at)).unwrap_or(COMMITS_MAX);
            for depth in [behind.saturating_add(DEPTH_FIRST), COMMITS_MAX] {
                let told = self.refreshes(&model, &snapshot, depth).await?;
                if let Some(refresh) = refresh_at(&told, at) {
                    let models = refresh
                        .read
                        .iter()
                        .filter_map(|(input, version)| Some((Name::new(input.strip_prefix("gold.")?).ok()?, *version)));
                    todo.extend(models);
                    let known = refreshes.entry(model.clone()).or_default();
                    if known.len() < told.len() {
                        *known = told;
                    }
                    break;
                }
            }
        }
        let lineage = Lineage { inputs: &self.inputs, refreshes: &refreshes };
        Ok(read().map(|model| (model.clone(), lineage.contents(model, NEWEST))).collect())
    }

    async fn refreshes(&self, model: &Name, snapshot: &DeltaTable, depth: usize) -> Result<Vec<Refresh>> {
        let history = self.system.gold.of(model, snapshot, depth).await?;
        Ok(super::ingests::refreshes(&history))
    }
}

/// The newest snapshots of silver tables, each asked for once a look.
struct Snapshots<'a> {
    newest: &'a Newest,
    silver: BTreeMap<Name, Option<DeltaTable>>,
}

impl<'a> Snapshots<'a> {
    fn new(newest: &'a Newest) -> Self {
        Self { newest, silver: BTreeMap::new() }
    }

    async fn silver(&mut self, table: &Name) -> Result<Option<DeltaTable>> {
        if let Some(known) = self.silver.get(table) {
            return Ok(known.clone());
        }
        let newest = self.newest.of(Layer::Silver, table).await?;
        self.silver.insert(table.clone(), newest.clone());
        Ok(newest)
    }
}
