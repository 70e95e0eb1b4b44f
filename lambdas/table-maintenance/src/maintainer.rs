//! The upkeep of one table, from looking to the report.

use std::sync::Arc;
use std::time::Instant;

use datafusion::common::config::SpillCompression;
use datafusion::execution::SessionState;
use lakehouse::{Clock, Definitions, Error, Lake, Layer, Name, Result, delta};
use tracing::{info, warn};

use crate::job::{Job, Policy};
use crate::report::{self, Action, Ending, RUNS, Report, Step};
use crate::tally::Tally;
use crate::{expiry, log, rewriting, vacuum};

/// How many times larger rows are when they are sorted than in their files: decoded, and compressed again where they are
/// spilled.
const SORTED_PER_STORED: u64 = 4;

/// Budgets of one run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes that sorting may hold in memory.
    pub sort_memory_bytes: usize,
    /// Bytes that it may spill.
    pub sort_spill_bytes_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { sort_memory_bytes: 256 << 20, sort_spill_bytes_max: 8 << 30 }
    }
}

/// Keeps the tables of a definition in good order, beside those who write and read them.
pub struct Maintainer {
    definitions: Arc<Definitions>,
    lake: Lake,
    clock: Arc<dyn Clock>,
    settings: Settings,
    session: Arc<SessionState>,
}

impl Maintainer {
    /// A maintainer of the tables of `definitions` in `lake`.
    pub fn new(definitions: Arc<Definitions>, lake: Lake, clock: Arc<dyn Clock>, settings: Settings) -> Self {
        let session = delta::session(settings.sort_memory_bytes, settings.sort_spill_bytes_max);
        let mut session = Arc::unwrap_or_clone(session);
        session.config_mut().options_mut().execution.spill_compression = SpillCompression::Lz4Frame;
        Self { definitions, lake, clock, settings, session: Arc::new(session) }
    }

    /// All tables that may be in the lake: those that are fed first, then models, and what is told of runs last.
    ///
    /// # Errors
    /// `Unavailable` if the tables that ingests made can't be read.
    pub async fn tables(&self) -> Result<Vec<(Layer, Name)>> {
        let definition = self.definitions.refresh().await?;
        let beside = [Layer::Silver, Layer::Tombstones, Layer::Quarantine];
        let fed = definition.tables.keys().flat_map(|name| beside.map(|layer| (layer, name.clone())));
        let models = definition.models.keys().map(|name| (Layer::Gold, name.clone()));
        let mut tables: Vec<_> = fed.chain(models).collect();
        tables.push((Layer::Maintenance, Name::new(RUNS)?));
        Ok(tables)
    }

    /// Does to one table what there is to do, and records it. A step that fails does not keep the others from being
    /// taken; it is told by the report. It can be called again at any time, by several processes at once.
    ///
    /// # Errors
    /// `NotFound` if the definition has no such table, `Unavailable` if its log can't be read or the report can't be
    /// recorded.
    pub async fn maintain(&self, layer: Layer, name: &Name) -> Result<Report> {
        self.maintain_until(layer, name, None).await
    }

    /// As [`Self::maintain`]; what is not done at `until` is left to the next run.
    ///
    /// # Errors
    /// As [`Self::maintain`].
    pub async fn maintain_until(&self, layer: Layer, name: &Name, until: Option<Instant>) -> Result<Report> {
        let definition = self.definitions.refresh().await?;
        let Some(policy) = Policy::of(&definition, layer, name) else {
            return Err(Error::not_found(format!("the definition has no table {layer}.{name} to be maintained")));
        };
        let now_us = self.clock.now_us();
        let mut report = Report { at_us: now_us, ..Report::default() };
        if self.lake.open(layer, name).await?.is_none() {
            return Ok(report);
        }
        let job = Job {
            lake: &self.lake,
            layer,
            name,
            policy,
            session: &self.session,
            sorted_bytes_max: self.settings.sort_spill_bytes_max / SORTED_PER_STORED,
            now_us,
            until,
        };
        for action in Action::ALL {
            if job.is_late() {
                report.is_late = true;
                break;
            }
            let started = Instant::now();
            let ended = take(&job, action).await;
            let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let step = Step::ended(action, ended, duration_ms);
            tell(&job, &step);
            report.is_late |= step.result == Ending::Late;
            report.steps.push(step);
        }
        report::record(&self.lake, layer, name, &report).await?;
        Ok(report)
    }
}

async fn take(job: &Job<'_>, action: Action) -> Result<Tally> {
    match (action, &job.policy.expiry) {
        (Action::Expire, None) => Ok(Tally::default()),
        (Action::Expire, Some(expiry)) => expiry::expire(job, expiry).await,
        (Action::Compact, _) => rewriting::compact(job).await,
        (Action::Checkpoint, _) => log::checkpoint(job).await,
        (Action::CleanLog, _) => log::clean(job).await,
        (Action::Vacuum, _) => vacuum::vacuum(job).await,
    }
}

fn tell(job: &Job<'_>, step: &Step) {
    let (layer, table, action) = (job.layer, job.name, step.action);
    let message = step.message.as_deref().unwrap_or_default();
    if step.result == Ending::Failed {
        warn!(%layer, %table, %action, error = message, "a step of maintenance failed");
    } else if step.result != Ending::Nothing {
        let (before, after, rows, ms) = (step.files_before, step.files_after, step.rows, step.duration_ms);
        info!(%layer, %table, %action, result = %step.result, before, after, rows, ms, note = message, "maintained");
    }
}
