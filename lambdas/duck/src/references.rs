//! Which tables a SELECT reads, by DuckDB's own parser.

use std::collections::BTreeSet;

use lakehouse::{Context, Error, Kind, Result};
use serde_json::Value;

use crate::connection::Duck;
use crate::literal;

/// A table as a query names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableReference {
    /// The schema, if the query gives one.
    pub schema: Option<String>,
    /// The table.
    pub table: String,
}

impl Duck {
    /// The tables that one SELECT reads, without the names that it defines itself (CTEs).
    ///
    /// # Errors
    /// `Invalid` if the text is not exactly one SELECT.
    pub fn references(&self, sql: &str) -> Result<BTreeSet<TableReference>> {
        let json = self
            .text(&format!("SELECT json_serialize_sql({}, skip_null := true)", literal(sql)))?
            .ok_or_else(|| Error::internal("DuckDB serialized no SQL"))?;
        let tree: Value =
            serde_json::from_str(&json).context(Kind::Internal, || "DuckDB's parse tree is not JSON".to_owned())?;
        if tree["error"].as_bool() == Some(true) {
            // json_serialize_sql refuses what is not a SELECT, and reports syntax errors without their line; preparing
            // the text gives the line.
            self.describe(sql)?;
            let message = tree["error_message"].as_str().unwrap_or("not a SELECT");
            return Err(Error::invalid(format!("{message}; write one SELECT")));
        }
        let statements = tree["statements"].as_array().map_or(0, Vec::len);
        if statements != 1 {
            return Err(Error::invalid(format!("{statements} statements; write one SELECT")));
        }
        let mut found = BTreeSet::new();
        collect(&tree["statements"], &mut Vec::new(), &mut found);
        Ok(found)
    }
}

/// Walks the parse tree; `defined` holds the CTEs in scope.
fn collect(node: &Value, defined: &mut Vec<String>, found: &mut BTreeSet<TableReference>) {
    match node {
        Value::Array(items) => items.iter().for_each(|item| collect(item, defined, found)),
        Value::Object(fields) => {
            if fields.get("type").and_then(Value::as_str) == Some("BASE_TABLE") {
                add(fields, defined, found);
            }
            let scope = defined.len();
            if let Some(entries) = fields.get("cte_map").and_then(|map| map.get("map")).and_then(Value::as_array) {
                defined.extend(entries.iter().filter_map(|entry| entry["key"].as_str()).map(str::to_lowercase));
            }
            fields.values().for_each(|value| collect(value, defined, found));
            defined.truncate(scope);
        }
        _ => {}
    }
}

fn add(fields: &serde_json::Map<String, Value>, defined: &[String], found: &mut BTreeSet<TableReference>) {
    let text = |key: &str| fields.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let Some(table) = text("table_name") else { return };
    let schema = text("schema_name").map(str::to_lowercase);
    let table = table.to_lowercase();
    if schema.is_some() || !defined.contains(&table) {
        found.insert(TableReference { schema, table });
    }
}
