//! What a run did, as a value and as rows of the table [`RUNS`] in the lake.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use lakehouse::delta::{self, Commit};
use lakehouse::{Error, Kind, Lake, Layer, Name, Result};
use serde::Serialize;
use serde_json::Value;

use crate::tally::Tally;

/// The table that tells of all runs.
pub const RUNS: &str = "runs";

/// What it is, for people.
const RUNS_DESCRIPTION: &str = "what maintenance did: a row a step that changed something, failed or was put off";

/// How often rows are added anew after another run was quicker.
const ATTEMPTS_MAX: u32 = 10;

/// A step of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Old rows of tables that keep rows for a time.
    Expire,
    /// Small files and deleted rows.
    Compact,
    /// A checkpoint of the log.
    Checkpoint,
    /// Old commits.
    CleanLog,
    /// Files that no version has.
    Vacuum,
}

impl Action {
    /// All of them, in the order in which they are taken.
    pub const ALL: [Self; 5] = [Self::Expire, Self::Compact, Self::Checkpoint, Self::CleanLog, Self::Vacuum];
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expire => "expire",
            Self::Compact => "compact",
            Self::Checkpoint => "checkpoint",
            Self::CleanLog => "clean_log",
            Self::Vacuum => "vacuum",
        })
    }
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Something was changed.
    Done,
    /// There was nothing to do.
    Nothing,
    /// Other writers were in the way; the next run looks again.
    Skipped,
    /// There was no time for all of it; the next run goes on.
    Late,
    /// It failed.
    Failed,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Nothing => "nothing",
            Self::Skipped => "skipped",
            Self::Late => "late",
            Self::Failed => "failed",
        })
    }
}

/// What one step did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Which.
    pub action: Action,
    /// How it ended.
    pub result: Ending,
    /// Files that it looked at: of the table, of its log, of its folder.
    pub files_before: u64,
    /// How many there are of them now.
    pub files_after: u64,
    /// Their bytes before.
    pub bytes_before: u64,
    /// Their bytes now.
    pub bytes_after: u64,
    /// Rows that were rewritten, or that went.
    pub rows: u64,
    /// The version that it made, or looked at.
    pub version: Option<u64>,
    /// In milliseconds.
    pub duration_ms: u64,
    /// What is to be said about it.
    pub message: Option<String>,
}

impl Step {
    /// A step that ended.
    pub(crate) fn ended(action: Action, ended: Result<Tally>, duration_ms: u64) -> Self {
        let (result, message) = match &ended {
            Ok(tally) if tally.is_late => (Ending::Late, Some("no time was left for all of it".to_owned())),
            Ok(tally) if tally.overtaken > 0 => {
                let message = format!("left {} groups of files that others changed meanwhile", tally.overtaken);
                (if tally.is_done { Ending::Done } else { Ending::Skipped }, Some(message))
            }
            Ok(tally) if tally.is_done => (Ending::Done, None),
            Ok(_) => (Ending::Nothing, None),
            Err(error) if error.kind() == Kind::Conflict => (Ending::Skipped, Some(error.chain())),
            Err(error) => (Ending::Failed, Some(error.chain())),
        };
        let tally = ended.unwrap_or_default();
        Self {
            action,
            result,
            files_before: tally.files_before,
            files_after: tally.files_after,
            bytes_before: tally.bytes_before,
            bytes_after: tally.bytes_after,
            rows: tally.rows,
            version: tally.version,
            duration_ms,
            message,
        }
    }
}

/// What a run did to one table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// When it began, in microseconds since the epoch.
    pub at_us: i64,
    /// The steps that were taken; none if there is no such table in the lake yet.
    pub steps: Vec<Step>,
    /// Whether steps are left, for want of time.
    pub is_late: bool,
}

impl Report {
    /// The step, if it was taken.
    pub fn step(&self, action: Action) -> Option<&Step> {
        self.steps.iter().find(|step| step.action == action)
    }

    /// Whether a step failed.
    pub fn has_failed(&self) -> bool {
        self.steps.iter().any(|step| step.result == Ending::Failed)
    }
}

/// The schema of [`RUNS`].
pub fn runs_schema() -> SchemaRef {
    let text = |name| Field::new(name, DataType::Utf8, true);
    let number = |name| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        text("layer"),
        text("table"),
        text("action"),
        number("files_before"),
        number("files_after"),
        number("bytes_before"),
        number("bytes_after"),
        number("rows"),
        number("version"),
        number("duration_ms"),
        text("result"),
        text("message"),
    ]))
}

/// Adds a report to [`RUNS`]: a row a step that was more than a look; if all steps were, one row says so.
pub(crate) async fn record(lake: &Lake, layer: Layer, name: &Name, report: &Report) -> Result<()> {
    let told: Vec<&Step> = report.steps.iter().filter(|step| step.result != Ending::Nothing).collect();
    let told = if told.is_empty() { report.steps.iter().take(1).collect() } else { told };
    if told.is_empty() {
        return Ok(());
    }
    let batch = rows(layer, name, report.at_us, &told)?;
    let runs = Name::new(RUNS)?;
    let commit = Commit { transactions: Vec::new(), story: Value::Null, at_us: report.at_us };
    let mut attempt = 1;
    loop {
        let schema = runs_schema();
        let table = delta::create(lake, Layer::Maintenance, &runs, &schema, &[], Some(RUNS_DESCRIPTION)).await?;
        match delta::append(table, vec![batch.clone()], &commit).await {
            Err(error) if error.kind() == Kind::Conflict && attempt < ATTEMPTS_MAX => attempt += 1,
            Err(error) => return Err(error),
            Ok(_) => return Ok(()),
        }
    }
}

fn rows(layer: Layer, name: &Name, at_us: i64, steps: &[&Step]) -> Result<RecordBatch> {
    let text = |of: &dyn Fn(&Step) -> Option<String>| -> ArrayRef {
        Arc::new(steps.iter().copied().map(of).collect::<StringArray>())
    };
    let number = |of: &dyn Fn(&Step) -> Option<u64>| -> ArrayRef {
        let small = |step| of(step).and_then(|it| i64::try_from(it).ok());
        Arc::new(steps.iter().copied().map(small).collect::<Int64Array>())
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampMicrosecondArray::from(vec![at_us; steps.len()]).with_timezone("UTC")),
        text(&|_| Some(layer.to_string())),
        text(&|_| Some(name.to_string())),
        text(&|step| Some(step.action.to_string())),
        number(&|step| Some(step.files_before)),
        number(&|step| Some(step.files_after)),
        number(&|step| Some(step.bytes_before)),
        number(&|step| Some(step.bytes_after)),
        number(&|step| Some(step.rows)),
        number(&|step| step.version),
        number(&|step| Some(step.duration_ms)),
        text(&|step| Some(step.result.to_string())),
        text(&|step| step.message.clone()),
    ];
    RecordBatch::try_new(runs_schema(), columns)
        .map_err(|error| Error::internal("a run has another shape than its table").because(error))
}
