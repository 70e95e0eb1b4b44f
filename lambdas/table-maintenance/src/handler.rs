//! Serves the calls of the Lambda: a schedule's event, whatever it says, or the names of tables.
//!
//! | event | maintains |
//! | --- | --- |
//! | `{"tables": ["orders", "runs"]}` | the tables and models called so, with what lies beside them |
//! | any other object | all there are |
//!
//! The answer tells what was done, and what was left for want of time. A table that fails does not fail the call: the
//! next one comes anyway, and metrics and log tell of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use host::{Call, Handler, Host, Metric, Metrics};
use lakehouse::definition::Definition;
use lakehouse::{Clock, Definitions, Error, Lake, Layer, Name, Result};
use serde_json::{Value, json};
use table_maintenance::{Action, Ending, Maintainer, Report, Settings};
use tracing::error;

/// What part of the function's memory sorting may hold: the rest is for files that are decoded and written, and for logs.
const SORT_MEMORY_SHARE: u64 = 4;

/// After this time, another table comes first, so that one that takes all of the time does not keep it from the others
/// for ever: in microseconds.
const TURN_US: i64 = 15 * 60 * 1_000_000;

/// All that calls share.
pub(crate) struct Function {
    maintainer: Maintainer,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
}

impl Function {
    /// Reads the definition, opens the lake.
    ///
    /// # Errors
    /// `Invalid` if the definition or a setting is wrong, `NotFound` or `Unavailable` if the lake can't be reached.
    pub(crate) async fn open(host: Host) -> Result<Self> {
        let Host { settings, metrics, clock } = host;
        let definition = Arc::new(Definition::load(&settings.definition)?);
        let lake = Lake::open_uri(&settings.lake)?;
        let definitions = Definitions::open(definition, lake.clone()).await?;
        let budget = Settings {
            sort_memory_bytes: usize::try_from(settings.memory_bytes / SORT_MEMORY_SHARE).unwrap_or(usize::MAX),
            sort_spill_bytes_max: settings.spill_bytes_max,
        };
        let maintainer = Maintainer::new(definitions, lake, Arc::clone(&clock), budget);
        Ok(Self { maintainer, metrics, clock })
    }

    async fn maintain(&self, tables: Vec<(Layer, Name)>, call: &Call) -> Value {
        let (mut maintained, mut failed, mut left) = (Vec::new(), Vec::new(), Vec::new());
        for (layer, name) in tables {
            let table = format!("{layer}.{name}");
            if call.is_late() {
                left.push(table);
                continue;
            }
            match call.in_time(self.maintainer.maintain_until(layer, &name, call.until)).await {
                None => left.push(table),
                Some(Err(error)) => {
                    error!(table, error = error.chain(), "a table can't be maintained");
                    self.metrics.write(Some(&name), &[Metric::count("MaintenanceFailed", 1)]);
                    failed.push(json!({ "table": table, "error": error.chain() }));
                }
                Some(Ok(report)) => {
                    if report.is_late {
                        left.push(table.clone());
                    }
                    if !report.steps.is_empty() {
                        self.metrics.write(Some(&name), &metrics_of(&report));
                        maintained.push(json!({ "table": table, "steps": report.steps }));
                    }
                }
            }
        }
        self.metrics.write(None, &[Metric::bytes("MemoryPeak", host::peak_bytes())]);
        json!({ "maintained": maintained, "failed": failed, "left": left })
    }
}

#[async_trait]
impl Handler for Function {
    async fn call(&self, event: Value, call: &Call) -> Result<Value> {
        let mut tables = self.maintainer.tables().await?;
        match asked(&event)? {
            Some(names) => tables = those(tables, &names)?,
            None => take_turns(&mut tables, self.clock.now_us()),
        }
        Ok(self.maintain(tables, call).await)
    }
}

/// The tables that are asked for; `None`: all.
fn asked(event: &Value) -> Result<Option<BTreeSet<Name>>> {
    let wrong = || Error::invalid(r#"the event is not understood; send {"tables": ["orders"]}, or {} for all tables"#);
    let event = event.as_object().ok_or_else(wrong)?;
    let Some(tables) = event.get("tables") else { return Ok(None) };
    let names = tables.as_array().ok_or_else(wrong)?.iter();
    names.map(|name| Name::new(name.as_str().ok_or_else(wrong)?)).collect::<Result<_>>().map(Some)
}

fn those(tables: Vec<(Layer, Name)>, names: &BTreeSet<Name>) -> Result<Vec<(Layer, Name)>> {
    let is_known = |name: &&Name| tables.iter().any(|(_, known)| known == *name);
    if let Some(unknown) = names.iter().find(|name| !is_known(name)) {
        return Err(Error::not_found(format!("there is no table or model {:?} to be maintained", unknown.as_str())));
    }
    Ok(tables.into_iter().filter(|(_, name)| names.contains(name)).collect())
}

fn take_turns(tables: &mut [(Layer, Name)], now_us: i64) {
    let turn = usize::try_from(now_us / TURN_US).unwrap_or_default();
    if let Some(first) = turn.checked_rem(tables.len()) {
        tables.rotate_left(first);
    }
}

fn metrics_of(report: &Report) -> Vec<Metric> {
    let ended = |ending| report.steps.iter().filter(|step| step.result == ending).count() as u64;
    let mut metrics = vec![
        Metric::count("MaintenanceFailed", ended(Ending::Failed)),
        Metric::count("MaintenanceSkipped", ended(Ending::Skipped)),
        Metric::milliseconds("MaintenanceDuration", report.steps.iter().map(|step| step.duration_ms).sum()),
    ];
    if let Some(step) = report.step(Action::Compact) {
        metrics.push(Metric::count("Files", step.files_after));
        metrics.push(Metric::bytes("Bytes", step.bytes_after));
        metrics.push(Metric::count("RowsRewritten", step.rows));
    }
    if let Some(step) = report.step(Action::Vacuum) {
        metrics.push(Metric::count("FilesVacuumed", step.files_before.saturating_sub(step.files_after)));
    }
    metrics
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use host::metrics::Sink;
    use lakehouse::ManualClock;

    use super::*;

    fn name(name: &str) -> Name {
        Name::new(name).unwrap()
    }

    fn function(folder: &Path) -> Function {
        let toml = "name = \"lab\"\n[tables.t]\ncolumns = [{ name = \"id\", type = \"bigint\" }]\n";
        std::fs::write(folder.join("lakehouse.toml"), toml).unwrap();
        let definition = Arc::new(Definition::load(folder).unwrap());
        let lake = Lake::in_folder(&folder.join("data")).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(1_800_000_000_000_000));
        let metrics = Metrics::new("table-maintenance", Arc::clone(&clock), Sink::Stderr);
        let definitions = Definitions::fixed(definition);
        Function {
            maintainer: Maintainer::new(definitions, lake, Arc::clone(&clock), Settings::default()),
            metrics,
            clock,
        }
    }

    #[test]
    fn an_event_names_tables_or_means_all() {
        assert_eq!(asked(&json!({ "source": "aws.scheduler", "detail": {} })).unwrap(), None);
        let names = asked(&json!({ "tables": ["t", "runs"] })).unwrap();
        assert_eq!(names, Some(BTreeSet::from([name("t"), name("runs")])));
        for wrong in [json!([]), json!("t"), json!({ "tables": "t" }), json!({ "tables": [1] })] {
            assert!(asked(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_table_comes_first_in_its_turn() {
        let all: Vec<_> = ["a", "b", "c"].map(|text| (Layer::Silver, name(text))).to_vec();
        let first = |turn: i64| {
            let mut tables = all.clone();
            take_turns(&mut tables, turn * TURN_US + 1);
            tables.swap_remove(0).1
        };
        assert_eq!([0, 1, 2, 3].map(first), ["a", "b", "c", "a"].map(name));
        take_turns(&mut [], TURN_US);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_lake_without_tables_has_nothing_to_be_maintained() {
        let folder = tempfile::tempdir().unwrap();
        let function = function(folder.path());
        let answer = function.call(json!({}), &Call::without_deadline("a")).await.unwrap();
        assert_eq!(answer, json!({ "maintained": [], "failed": [], "left": [] }));
        let unknown = function.call(json!({ "tables": ["u"] }), &Call::without_deadline("a")).await.unwrap_err();
        assert!(unknown.to_string().contains("no table or model \"u\""), "{unknown}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_there_is_no_time_for_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let late = Call::ends_at("a", 1_800_000_000_100, 1_800_000_000_000_000);
        let answer = function(folder.path()).call(json!({ "tables": ["t"] }), &late).await.unwrap();
        assert_eq!(answer["left"], json!(["silver.t", "silver/_tombstones.t", "quarantine.t"]));
    }
}
