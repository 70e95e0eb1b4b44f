//! What each model reads, and in which order models are refreshed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::refresher::storable_columns;
use duck::{Duck, quote};
use lakehouse::definition::{Definition, Model, OnFail};
use lakehouse::schema::known_columns;
use lakehouse::{Error, Layer, Name, Result};

/// A table that a model reads.
pub type Input = (Layer, Name);

/// A model with its inputs.
#[derive(Clone, Debug)]
pub struct Step {
    /// The model.
    pub model: Arc<Model>,
    /// The silver tables and other models that its SELECT names.
    pub inputs: BTreeSet<Input>,
}

/// All models, each after those that it reads.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    steps: Vec<Step>,
}

impl Plan {
    /// Reads the models' SQL with DuckDB's parser and orders them.
    ///
    /// # Errors
    /// All problems, each with its place: SQL that doesn't parse, tables that don't exist, cycles.
    pub fn of(definition: &Definition) -> Result<Self, Vec<Error>> {
        let duck = Duck::open(&duck::Settings::default()).map_err(|error| vec![error])?;
        let mut problems = Vec::new();
        let mut inputs = BTreeMap::new();
        for (name, model) in &definition.models {
            match inputs_of(&duck, definition, model) {
                Ok(found) => drop(inputs.insert(name.clone(), found)),
                Err(error) => problems.push(error),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        order(definition, inputs).map(|steps| Self { steps }).map_err(|error| vec![error])
    }

    /// The steps, in refresh order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Binds every model against the declared columns and the models before it. Models that read a table without
    /// declared columns, or a model that can't be bound itself, are left out.
    ///
    /// Gives all errors, each with its place in the SQL file.
    pub fn bind(&self, definition: &Definition) -> Vec<Error> {
        let duck = match Duck::open(&duck::Settings::default()) {
            Ok(duck) => duck,
            Err(error) => return vec![error],
        };
        let mut bound: BTreeSet<Input> = BTreeSet::new();
        let mut problems = Vec::new();
        for (name, table) in definition.tables.iter().filter(|(_, table)| !table.columns.is_empty()) {
            let create = known_columns(table, None).and_then(|columns| {
                let columns: Vec<String> = columns
                    .iter()
                    .map(|column| format!("{} {}", quote(&column.name), column.data_type.to_duckdb()))
                    .collect();
                duck.execute(&format!("CREATE TABLE silver.{} ({})", quote(name.as_str()), columns.join(", ")))
            });
            match create {
                Ok(()) => drop(bound.insert((Layer::Silver, name.clone()))),
                Err(error) => problems.push(error),
            }
        }
        for step in self.steps.iter() {
            if !step.inputs.is_subset(&bound) {
                continue;
            }
            match bind_model(&duck, &step.model) {
                Ok(()) => drop(bound.insert((Layer::Gold, step.model.name.clone()))),
                Err(error) => problems.push(error),
            }
        }
        problems
    }
}

/// Creates the model's empty table, and binds its expectations and its key.
fn bind_model(duck: &Duck, model: &Model) -> Result<()> {
    let table = format!("gold.{}", quote(model.name.as_str()));
    duck.execute(&format!("CREATE TABLE {table} AS SELECT * FROM ({}\n) LIMIT 0", model.sql.text))
        .map_err(|error| duck::locate(&error, &model.sql.origin))?;
    let (_, schema) = storable_columns(duck, model, &table)?;
    for key in &model.unique_key {
        if !schema.fields().iter().any(|field| lakehouse::name::same_column(field.name(), key)) {
            let columns: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            return Err(Error::invalid(format!(
                "{}: model {:?}: unique_key names {key:?}, which its SELECT does not give; it gives: {}",
                model.origin,
                model.name.as_str(),
                columns.join(", ")
            )));
        }
    }
    for expectation in &model.expect {
        debug_assert!(expectation.on_fail != OnFail::Quarantine, "the definition refuses it for models");
        duck.describe(&format!("SELECT 1 FROM {table} WHERE ({}\n)::BOOLEAN", expectation.check.text))
            .map_err(|error| duck::locate(&error, &expectation.check.origin))?;
    }
    Ok(())
}

fn inputs_of(duck: &Duck, definition: &Definition, model: &Model) -> Result<BTreeSet<Input>> {
    let place = &model.sql.origin;
    let references = duck.references(&model.sql.text).map_err(|error| duck::locate(&error, place))?;
    references
        .into_iter()
        .map(|reference| {
            let table = &reference.table;
            let found = match reference.schema.as_deref() {
                Some("silver") => definition.table(table).map(|table| (Layer::Silver, table.name.clone())),
                Some("gold") => definition.model(table).map(|model| (Layer::Gold, model.name.clone())),
                Some(other) => Err(Error::invalid(format!(
                    "there is no schema {other:?}; models read silver.<table> and gold.<model>"
                ))),
                None => {
                    Err(Error::invalid(format!("table {table:?} has no schema; write silver.{table} or gold.{table}")))
                }
            };
            found
                .map_err(|error| Error::new(error.kind(), format!("{place}: model {:?}: {error}", model.name.as_str())))
        })
        .collect()
}

/// Depth first, so that each model comes after what it reads.
fn order(definition: &Definition, mut inputs: BTreeMap<Name, BTreeSet<Input>>) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut done: BTreeSet<Name> = BTreeSet::new();
    while !inputs.is_empty() {
        let is_ready =
            |found: &BTreeSet<Input>| found.iter().all(|(layer, name)| *layer != Layer::Gold || done.contains(name));
        let ready: Vec<Name> =
            inputs.iter().filter(|(_, found)| is_ready(found)).map(|(name, _)| name.clone()).collect();
        if ready.is_empty() {
            return Err(cycle(definition, &inputs));
        }
        for name in ready {
            if let (Some(inputs), Some(model)) = (inputs.remove(&name), definition.models.get(&name)) {
                steps.push(Step { model: Arc::clone(model), inputs });
            }
            done.insert(name);
        }
    }
    Ok(steps)
}

/// Names one cycle among models none of which can be first.
fn cycle(definition: &Definition, inputs: &BTreeMap<Name, BTreeSet<Input>>) -> Error {
    let mut path: Vec<&Name> = Vec::new();
    let mut next = inputs.keys().next();
    while let Some(name) = next {
        if let Some(start) = path.iter().position(|seen| *seen == name) {
            path.drain(..start);
            path.push(name);
            break;
        }
        path.push(name);
        next = inputs
            .get(name)
            .and_then(|found| found.iter().find(|(layer, name)| *layer == Layer::Gold && inputs.contains_key(name)))
            .map(|(_, name)| name);
    }
    let place = path.first().and_then(|name| definition.models.get(*name)).map(|model| model.origin.to_string());
    let path: Vec<&str> = path.iter().map(|name| name.as_str()).collect();
    Error::invalid(format!(
        "{}: models read each other in a circle: {}; take one of these references out",
        place.unwrap_or_default(),
        path.join(" reads ")
    ))
}

#[cfg(test)]
mod tests;
