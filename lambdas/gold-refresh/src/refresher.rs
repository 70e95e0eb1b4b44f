//! Refreshes models: finds what changed, computes, checks, publishes.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::execution::SessionState;
use deltalake::DeltaTable;
use duck::{Duck, quote};
use lakehouse::definition::{Definition, Mode, Model, OnFail};
use lakehouse::delta::{self, Commit};
use lakehouse::name::check_column_name;
use lakehouse::schema::conform;
use lakehouse::story::RefreshStory;
use lakehouse::{Clock, Error, Lake, Layer, Name, Result, SqlType};
use tracing::{info, warn};

use crate::plan::{Input, Plan, Step};
use crate::publish::{Computed, has_columns, publish};
use crate::sources::{Sources, plain_name, sql_name};

/// Where a merge or append model's result lies before it is compared with what is published.
const PUBLISHED: &str = "_published";

/// How far back a model's own commits are searched for its last refresh.
const HISTORY_MAX: usize = 20;

/// Budgets of a round of refreshes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// DuckDB's.
    pub duck: duck::Settings,
    /// Bytes that Delta's own plans may hold in memory.
    pub delta_memory_bytes: usize,
    /// Bytes that they may spill.
    pub delta_spill_bytes_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { duck: duck::Settings::default(), delta_memory_bytes: 256 << 20, delta_spill_bytes_max: 8 << 30 }
    }
}

/// What became of a model in a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A new version was published.
    Published {
        /// Its Delta version.
        version: u64,
        /// What its commit tells.
        story: RefreshStory,
    },
    /// Nothing that it reads has changed.
    Unchanged,
    /// Nothing that it reads has ever been written.
    Waiting,
    /// It reads a model that failed in this round.
    Skipped {
        /// That model.
        failed: Name,
    },
}

/// What the last try of a model came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// When, in microseconds since the epoch; 0 if there was none in this process.
    pub tried_at_us: i64,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// Refreshes the models of a definition.
pub struct Refresher {
    definition: Arc<Definition>,
    plan: Plan,
    lake: Lake,
    clock: Arc<dyn Clock>,
    settings: Settings,
    session: Arc<SessionState>,
    states: Mutex<BTreeMap<Name, State>>,
}

impl Refresher {
    /// A refresher of the models of `definition` in `lake`.
    pub fn new(definition: Arc<Definition>, plan: Plan, lake: Lake, clock: Arc<dyn Clock>, settings: Settings) -> Self {
        let session = delta::session(settings.delta_memory_bytes, settings.delta_spill_bytes_max);
        Self { definition, plan, lake, clock, settings, session, states: Mutex::default() }
    }

    /// The models in refresh order.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What the last tries of the models came to.
    pub fn states(&self) -> BTreeMap<Name, State> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Refreshes those of the `due` models whose inputs changed, in order, all from one set of versions. A model that
    /// fails keeps its former version; those that read it are skipped, the others are not.
    ///
    /// # Errors
    /// Only if no model could even be tried. Each model's own error is in its result.
    pub async fn refresh(&self, due: &BTreeSet<Name>) -> Result<BTreeMap<Name, Result<Outcome>>> {
        let settings = self.settings.duck.clone();
        let duck = tokio::task::spawn_blocking(move || Duck::open(&settings))
            .await
            .map_err(|error| Error::internal("the refresh's DuckDB thread died").because(error))??;
        let mut sources = Sources::new(self.lake.clone(), Arc::clone(&self.session), duck);
        let mut results: BTreeMap<Name, Result<Outcome>> = BTreeMap::new();
        for step in self.plan.steps().iter().filter(|step| due.contains(&step.model.name)) {
            let failed = step.inputs.iter().find(|(layer, name)| {
                *layer == Layer::Gold && matches!(results.get(name), Some(Err(_) | Ok(Outcome::Skipped { .. })))
            });
            let result = match failed {
                Some((_, failed)) => Ok(Outcome::Skipped { failed: failed.clone() }),
                None => self.refresh_one(step, &mut sources).await,
            };
            self.note(&step.model.name, &result);
            results.insert(step.model.name.clone(), result);
        }
        Ok(results)
    }

    fn note(&self, model: &Name, result: &Result<Outcome>) {
        let error = match result {
            Err(error) => {
                warn!(%model, error = error.chain(), "the refresh failed; the former version stays");
                Some(error.chain())
            }
            Ok(Outcome::Skipped { failed }) => Some(format!("skipped, since model {failed} failed")),
            Ok(Outcome::Published { version, story }) => {
                info!(%model, version, rows = story.rows, "published");
                None
            }
            Ok(_) => None,
        };
        let state = State { tried_at_us: self.clock.now_us(), error };
        self.states.lock().unwrap_or_else(PoisonError::into_inner).insert(model.clone(), state);
    }

    async fn refresh_one(&self, step: &Step, sources: &mut Sources) -> Result<Outcome> {
        let started = Instant::now();
        let model = &step.model;
        let mut read = BTreeMap::new();
        for input in &step.inputs {
            if let Some(version) = sources.version(input).await? {
                read.insert(plain_name(input), version);
            } else if !self.is_declared(input) {
                return Ok(Outcome::Waiting);
            }
        }
        if read.is_empty() && !step.inputs.is_empty() {
            return Ok(Outcome::Waiting);
        }
        let own: Input = (Layer::Gold, model.name.clone());
        let fingerprint = fingerprint(model);
        let published = sources.snapshot(&own).await?.cloned();
        if let Some(last) = last_story(published.as_ref()).await?
            && last.read == read
            && last.model == fingerprint
        {
            return Ok(Outcome::Unchanged);
        }
        for input in &step.inputs {
            sources.load(&self.definition, input).await?;
        }
        let (computed, warned, rows) = self.compute(model, published.as_ref(), sources).await?;
        let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let story = RefreshStory { read, model: fingerprint, rows, warned, duration_ms };
        let commit = Commit {
            transactions: Vec::new(),
            story: serde_json::to_value(&story)
                .map_err(|error| Error::internal("a story is no JSON").because(error))?,
            at_us: self.clock.now_us(),
        };
        let table = publish(&self.lake, model, published.as_ref(), computed, &self.session, &commit).await?;
        let version = delta::version(&table);
        // In mode append, the table has rows that the result no longer has.
        sources.published(own, table, model.mode != Mode::Append);
        Ok(Outcome::Published { version, story })
    }

    fn is_declared(&self, (layer, name): &Input) -> bool {
        *layer == Layer::Silver && self.definition.tables.get(name).is_some_and(|table| !table.columns.is_empty())
    }

    /// Computes and checks a result, and takes what is to be published of it.
    async fn compute(
        &self,
        model: &Arc<Model>,
        published: Option<&DeltaTable>,
        sources: &mut Sources,
    ) -> Result<(Computed, BTreeMap<String, u64>, u64)> {
        let compared = match published {
            Some(table) if model.mode == Mode::Append => {
                sources.run(|duck| duck.execute(&format!("DROP TABLE IF EXISTS {PUBLISHED}"))).await?;
                sources.load_snapshot(PUBLISHED, table).await?;
                Some(delta::stored_schema(table)?)
            }
            _ => None,
        };
        let model = Arc::clone(model);
        sources
            .run(move |duck| {
                let table = sql_name(&(Layer::Gold, model.name.clone()));
                let result = compute(duck, &model, &table, compared.as_ref());
                if result.is_err() || model.mode == Mode::Append {
                    // Models that read this one must see what is published, not what failed.
                    duck.execute(&format!("DROP TABLE IF EXISTS {table}"))?;
                }
                result
            })
            .await
    }
}

/// Creates the model's table in DuckDB, checks it, and takes it out in storable types.
fn compute(
    duck: &Duck,
    model: &Model,
    table: &str,
    compared: Option<&Schema>,
) -> Result<(Computed, BTreeMap<String, u64>, u64)> {
    duck.execute(&format!("CREATE OR REPLACE TABLE {table} AS {}", model.sql.text))
        .map_err(|error| duck::locate(&error, &model.sql.origin))?;
    check_key(duck, model, table)?;
    let warned = expect(duck, model, table)?;
    let rows = duck.count(&format!("SELECT count(*) FROM {table}"))?;
    let (columns, schema) = storable_columns(duck, model, table)?;
    let select = format!("SELECT {columns} FROM {table}");
    let select = match compared {
        // Rows that are published already, as often as they are, are not added again.
        Some(stored) if has_columns(stored, &schema) => format!("{select} EXCEPT ALL SELECT * FROM {PUBLISHED}"),
        _ => select,
    };
    let mut batches = Vec::new();
    duck.query_each(&select, |batch| {
        batches.push(conform(&batch, &schema)?);
        Ok(())
    })?;
    Ok((Computed { schema, batches }, warned, rows))
}

/// The result's columns as a SELECT list that casts them to types that Delta stores, and their schema.
pub(crate) fn storable_columns(duck: &Duck, model: &Model, table: &str) -> Result<(String, SchemaRef)> {
    let refuse = |column: &str, error: &Error| {
        let (place, model) = (&model.sql.origin, model.name.as_str());
        Error::invalid(format!("{place}: model {model:?}, column {column:?}: {}", error.chain()))
    };
    let schema = duck.describe(&format!("SELECT * FROM {table}"))?;
    let (mut columns, mut fields) = (Vec::new(), Vec::new());
    for field in schema.fields() {
        check_column_name(field.name()).map_err(|error| refuse(field.name(), &error))?;
        let data_type = SqlType::from_arrow(field.data_type()).map_err(|error| refuse(field.name(), &error))?;
        let name = quote(field.name());
        columns.push(format!("{name}::{} AS {name}", data_type.to_duckdb()));
        fields.push(Field::new(field.name(), data_type.to_arrow(), true));
    }
    Ok((columns.join(", "), Arc::new(Schema::new(fields))))
}

fn check_key(duck: &Duck, model: &Model, table: &str) -> Result<()> {
    if model.unique_key.is_empty() {
        return Ok(());
    }
    let keys: Vec<String> = model.unique_key.iter().map(|key| quote(key)).collect();
    let null = keys.iter().map(|key| format!("{key} IS NULL")).collect::<Vec<_>>().join(" OR ");
    let keys = keys.join(", ");
    let bad = duck
        .text(&format!(
            "SELECT row({keys})::VARCHAR FROM {table} GROUP BY {keys} HAVING count(*) > 1 OR {null} ORDER BY ALL LIMIT 1"
        ))
        .map_err(|error| duck::locate(&error, &model.origin))?;
    match bad {
        None => Ok(()),
        Some(row) => Err(Error::invalid(format!(
            "{}: model {:?}: its SELECT gives the unique_key {row} twice or with a NULL; \
             group by the key, or name more columns in unique_key",
            model.origin,
            model.name.as_str()
        ))),
    }
}

/// Counts what warns; the first that fails is an error.
fn expect(duck: &Duck, model: &Model, table: &str) -> Result<BTreeMap<String, u64>> {
    let mut warned = BTreeMap::new();
    for expectation in &model.expect {
        let failing = duck
            .count(&format!("SELECT count(*) FROM {table} WHERE ({}\n) = false", expectation.check.text))
            .map_err(|error| duck::locate(&error, &expectation.check.origin))?;
        if failing > 0 && expectation.on_fail == OnFail::Fail {
            return Err(Error::invalid(format!(
                "{}: model {:?}: expectation {:?} failed for {failing} rows: {}",
                expectation.check.origin,
                model.name.as_str(),
                expectation.name.as_str(),
                expectation.check.text
            )));
        }
        if failing > 0 {
            warned.insert(expectation.name.to_string(), failing);
        }
    }
    Ok(warned)
}

/// What a model is, besides its inputs: if it changes, the model is computed anew.
fn fingerprint(model: &Model) -> String {
    let mut hasher = DefaultHasher::new();
    (&model.sql.text, model.mode as u8, &model.unique_key).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

async fn last_story(table: Option<&DeltaTable>) -> Result<Option<RefreshStory>> {
    let Some(table) = table else { return Ok(None) };
    let told = delta::history::<RefreshStory>(table, HISTORY_MAX).await?;
    Ok(told.into_iter().find_map(|commit| commit.story))
}

#[cfg(test)]
mod tests;
