//! Whether a definition holds together, SQL included; and the plan that it makes.

use std::fmt::Write as _;

use gold_refresh::Plan;
use lakehouse::definition::{Definition, Table};
use lakehouse::{Error, Layer};

/// Binds all SQL of a definition and orders its models.
///
/// # Errors
/// All problems, each with file, line and cure.
pub fn check(definition: &Definition) -> Result<Plan, Vec<Error>> {
    let mut problems = Vec::new();
    match duck::Duck::open(&duck::Settings::default()) {
        Ok(duck) => {
            for table in definition.tables.values() {
                problems.extend(bronze_to_silver::check(&duck, table));
            }
        }
        Err(error) => problems.push(error),
    }
    match Plan::of(definition) {
        Ok(plan) => {
            problems.extend(plan.bind(definition));
            if problems.is_empty() { Ok(plan) } else { Err(problems) }
        }
        Err(more) => {
            problems.extend(more);
            Err(problems)
        }
    }
}

/// The plan, for people: tables, then models in refresh order with what each reads.
pub(crate) fn describe(definition: &Definition, plan: &Plan) -> String {
    let mut text = format!("lakehouse {}\n\ntables\n", definition.name);
    for table in definition.tables.values() {
        let _ = writeln!(text, "  silver.{}: {}", table.name, rules(table));
    }
    text.push_str("\nmodels, in refresh order\n");
    if plan.steps().is_empty() {
        text.push_str("  none\n");
    }
    for step in plan.steps() {
        let inputs: Vec<String> = step.inputs.iter().map(|(layer, name)| input(*layer, name.as_str())).collect();
        let reads = if inputs.is_empty() { "no table".to_owned() } else { inputs.join(", ") };
        let model = &step.model;
        let _ = writeln!(text, "  gold.{}: {}, {}; reads {reads}", model.name, model.mode, model.refresh);
    }
    text
}

fn input(layer: Layer, name: &str) -> String {
    format!("{layer}.{name}")
}

fn rules(table: &Table) -> String {
    let mut rules = Vec::new();
    if table.is_keyed() {
        rules.push(format!("key {}", table.primary_key.join(", ")));
        let sequence = if table.sequence_by.is_empty() { "arrival".to_owned() } else { table.sequence_by.join(", ") };
        rules.push(if table.history { format!("history by {sequence}") } else { format!("newest by {sequence}") });
    } else {
        rules.push("append-only".to_owned());
    }
    if let Some(delete_when) = &table.delete_when {
        rules.push(format!("deletes when {}", delete_when.text));
    }
    if !table.partition_by.is_empty() {
        rules.push(format!("partitioned by {}", table.partition_by.join(", ")));
    }
    rules.push(match table.columns.len() {
        0 => "columns from the first ingest".to_owned(),
        columns => format!("{columns} columns"),
    });
    if !table.expect.is_empty() {
        let names: Vec<&str> = table.expect.iter().map(|expectation| expectation.name.as_str()).collect();
        rules.push(format!("expects {}", names.join(", ")));
    }
    rules.join("; ")
}
