//! What is told of a merge: one line in the log with all of its numbers, the same numbers as metrics, and an event.

use bronze_to_silver::Outcome;
use host::publish::BusEvent;
use host::{Call, Metric, peak_bytes};
use lakehouse::{Kind, Layer, Name, Result, delta};
use serde_json::json;

use super::Function;
use super::merging::{Queued, Report};

/// What kind of event a commit is.
const SILVER_COMMITTED: &str = "silver committed";

impl Function {
    /// Tells of what became of a table's objects.
    pub(super) async fn tell(&self, table: &Name, queued: &[Queued], report: &Report, call: &Call) {
        for outcome in &report.outcomes {
            log(table, outcome);
            self.metrics.write(Some(table), &metrics_of(outcome, peak_bytes()));
            if let Some(version) = outcome.version {
                self.announce(table, version, outcome, call).await;
            }
        }
        if self.outbox.is_open() && report.version().is_none() && is_repeated(queued, report) {
            self.announce_again(table, call).await;
        }
        if !report.is_whole(queued) || !report.set_aside.is_empty() {
            self.tell_trouble(table, queued, report);
        }
    }

    /// Sends the event of a commit.
    pub(super) async fn announce(&self, table: &Name, version: u64, outcome: &Outcome, call: &Call) {
        let story = &outcome.story;
        let detail = json!({
            "table": table.as_str(),
            "version": version,
            "objects": story.objects.len(),
            "rows": story.rows_in,
            "changes": story.changes,
            "deletes": story.deletes,
            "quarantined": story.quarantined,
            "request_id": call.request_id,
        });
        let waiting = self.outbox.post(BusEvent { detail_type: SILVER_COMMITTED.to_owned(), detail }).await;
        if waiting > 0 {
            self.metrics.write(Some(table), &[Metric::count("EventsWaiting", waiting as u64)]);
        }
    }

    /// Objects that come again, and are merged already, may have been merged by a call that died before it told so.
    async fn announce_again(&self, table: &Name, call: &Call) {
        match self.silver_version(table).await {
            Ok(Some(version)) => self.announce(table, version, &Outcome::default(), call).await,
            Ok(None) => {}
            Err(error) => tracing::warn!(%table, error = error.chain(), "the version to be told is not known"),
        }
    }

    async fn silver_version(&self, table: &Name) -> Result<Option<u64>> {
        Ok(self.lake.open(Layer::Silver, table).await?.as_ref().map(delta::version))
    }

    fn tell_trouble(&self, table: &Name, queued: &[Queued], report: &Report) {
        let returned = queued.iter().filter(|queued| !report.done.contains(&queued.object.key)).count();
        let is_stopped = report.failure.as_ref().is_some_and(|error| error.kind() == Kind::Stopped);
        match &report.failure {
            Some(error) if is_stopped => {
                tracing::error!(%table, returned, error = error.chain(), "the table is stopped by a rule of its own");
            }
            Some(error) if error.kind().is_retriable() => {
                tracing::warn!(%table, returned, error = error.chain(), "a merge failed; its objects come again");
            }
            Some(error) => {
                tracing::error!(%table, returned, kind = ?error.kind(), error = error.chain(), "a merge failed");
            }
            None if returned > 0 => tracing::warn!(%table, returned, "there was no time for all objects"),
            None => {}
        }
        self.metrics.write(
            Some(table),
            &[
                Metric::count("ObjectsReturned", returned as u64),
                Metric::count("ObjectsSetAside", report.set_aside.len() as u64),
                Metric::count("MergesFailed", u64::from(report.failure.is_some())),
                Metric::count("Stopped", u64::from(is_stopped)),
            ],
        );
    }
}

/// Whether all went well and some of it was tried before.
fn is_repeated(queued: &[Queued], report: &Report) -> bool {
    !report.outcomes.is_empty() && queued.iter().any(|queued| queued.tries > 1)
}

fn log(table: &Name, outcome: &Outcome) {
    let (story, work) = (&outcome.story, &outcome.work);
    let stages_ms = serde_json::to_string(&work.stages_ms).unwrap_or_default();
    tracing::info!(
        %table,
        version = outcome.version,
        objects = outcome.done.len(),
        rows = story.rows_in,
        changes = story.changes,
        inserted = work.inserted,
        updated = work.updated,
        deleted = work.deleted,
        duplicate_frames = work.duplicate_frames,
        late = work.late,
        quarantined = story.quarantined,
        warned = story.warned.values().sum::<u64>(),
        files_scanned = work.files_scanned,
        files_rewritten = work.files_rewritten,
        files_added = work.files_added,
        vectors_written = work.vectors_written,
        bytes_read = work.bytes_read,
        bytes_written = work.bytes_written,
        duration_ms = story.duration_ms,
        stages_ms,
        memory_peak_bytes = peak_bytes(),
        "merge told"
    );
}

/// The numbers of a merge.
fn metrics_of(outcome: &Outcome, memory_peak_bytes: u64) -> Vec<Metric> {
    let (story, work) = (&outcome.story, &outcome.work);
    let mut metrics = vec![
        Metric::count("Commits", u64::from(outcome.version.is_some())),
        Metric::count("Objects", outcome.done.len() as u64),
        Metric::count("RowsIn", story.rows_in),
        Metric::count("Changes", story.changes),
        Metric::count("Inserted", work.inserted),
        Metric::count("Updated", work.updated),
        Metric::count("Deleted", work.deleted),
        Metric::count("DuplicateFrames", work.duplicate_frames),
        Metric::count("Late", work.late),
        Metric::count("Quarantined", story.quarantined),
        Metric::count("Warned", story.warned.values().sum()),
        Metric::count("FilesScanned", work.files_scanned),
        Metric::count("FilesRewritten", work.files_rewritten),
        Metric::count("FilesAdded", work.files_added),
        Metric::count("VectorsWritten", work.vectors_written),
        Metric::bytes("BytesRead", work.bytes_read),
        Metric::bytes("BytesWritten", work.bytes_written),
        Metric::bytes("MemoryPeak", memory_peak_bytes),
        Metric::milliseconds("Duration", story.duration_ms),
    ];
    let stages = work.stages_ms.iter();
    metrics.extend(stages.map(|(stage, ms)| Metric::milliseconds(format!("Stage_{stage}"), *ms)));
    metrics
}

#[cfg(test)]
mod tests {
    use bronze_to_silver::BronzeObject;

    use super::*;

    fn queued(tries: u32) -> Vec<Queued> {
        vec![Queued { object: BronzeObject { key: "a".to_owned(), delivered_at_us: 0 }, tries }]
    }

    #[test]
    fn a_commit_is_told_again_only_if_the_object_may_have_been_merged_before() {
        let merged = Report { outcomes: vec![Outcome::default()], ..Report::default() };
        assert!(is_repeated(&queued(2), &merged));
        assert!(!is_repeated(&queued(1), &merged));
        assert!(!is_repeated(&queued(2), &Report::default()), "nothing was merged");
    }

    #[test]
    fn each_stage_is_a_metric_of_its_own() {
        let mut outcome = Outcome::default();
        outcome.work.stages_ms.insert("scan", 12);
        assert!(metrics_of(&outcome, 5).contains(&Metric::milliseconds("Stage_scan", 12)));
        assert!(metrics_of(&outcome, 5).contains(&Metric::bytes("MemoryPeak", 5)));
    }
}
