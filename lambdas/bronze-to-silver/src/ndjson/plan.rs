//! Which columns the rows of an object have, and of which types.
//!
//! A column that the definition declares has its type, and a value that is of no such type is wrong. A column that only
//! rows have made may be made wider by rows. A column that nobody knows gets the type that its values have in common in
//! the whole object, so that its frames agree with each other: that takes a look at all of it beforehand.
//!
//! Behind a transform no column is known: the definition declares what the transform gives, not what it gets.

use std::collections::HashMap;

use arrow::datatypes::Schema;
use lakehouse::definition::{OnNewColumn, Table};
use lakehouse::json::Value;
use lakehouse::name::{check_column_name, same_column};
use lakehouse::schema::{COLUMNS_MAX, known_columns};
use lakehouse::{Result, SqlType};

use super::chunks::Entries;
use super::shape::Shape;

/// The most fields of all inferred structs together: as many as a table may have columns.
const FIELDS_MAX: usize = COLUMNS_MAX;

/// The columns of an object's rows.
pub(super) struct Plan {
    columns: Vec<Planned>,
    /// Their positions by name.
    places: HashMap<String, usize>,
    /// The same by name in lower case.
    lower: HashMap<String, usize>,
    fields_left: usize,
}

struct Planned {
    name: String,
    known: Option<SqlType>,
    /// Whether rows may make it wider.
    may_grow: bool,
    shape: Shape,
}

impl Plan {
    /// The columns that `table` has or declares; `stored` are those that it has.
    pub(super) fn new(table: &Table, stored: Option<&Schema>) -> Result<Self> {
        let mut plan =
            Self { columns: Vec::new(), places: HashMap::new(), lower: HashMap::new(), fields_left: FIELDS_MAX };
        if table.transform.is_some() {
            return Ok(plan);
        }
        // What begins with _ is Mallard's own.
        for column in known_columns(table, stored)?.into_iter().filter(|column| !column.name.starts_with('_')) {
            let declared = table.column(&column.name);
            let is_needed = table.is_key(&column.name)
                || table.sequence_by.iter().any(|name| same_column(name, &column.name))
                || declared.is_some_and(|declared| !declared.nullable);
            // Where it does not fit, it is rescued.
            let may_grow = match table.on_new_column {
                OnNewColumn::Add => declared.is_none(),
                OnNewColumn::Rescue => !is_needed,
                OnNewColumn::Reject => false,
            };
            plan.add(&column.name, Some(column.data_type), may_grow);
        }
        for column in table.columns.iter().filter(|column| table.drops(&column.name)) {
            plan.add(&column.name, Some(column.data_type.clone()), false);
        }
        Ok(plan)
    }

    fn add(&mut self, name: &str, known: Option<SqlType>, may_grow: bool) -> usize {
        let at = self.columns.len();
        self.places.insert(name.to_owned(), at);
        self.lower.insert(name.to_lowercase(), at);
        self.columns.push(Planned { name: name.to_owned(), known, may_grow, shape: Shape::Nothing });
        at
    }

    /// The position of the column that `key` names.
    pub(super) fn place(&self, key: &str) -> Option<usize> {
        self.places.get(key).or_else(|| self.lower.get(&key.to_lowercase())).copied()
    }

    /// Why `key` names no column, if it names none once all rows were learnt.
    pub(super) fn why_no_place(key: &str) -> String {
        match check_column_name(key) {
            Err(error) => error.to_string(),
            Ok(()) => format!("the rows have more than {COLUMNS_MAX} columns; put some into a list, or under one key"),
        }
    }

    /// Whether the types of these values are known without a look at others.
    pub(super) fn covers(&self, entries: &Entries<'_>) -> bool {
        let mut keys = entries.iter().filter(|(_, node)| !matches!(node.value, Value::Null)).map(|(key, _)| key);
        keys.all(|key| match self.place(key) {
            Some(at) => self.columns.get(at).is_some_and(Planned::is_settled),
            None => check_column_name(key).is_err(),
        })
    }

    /// Takes the values of a row into account.
    pub(super) fn learn(&mut self, entries: &Entries<'_>) {
        for (key, node) in entries.iter().filter(|(_, node)| !matches!(node.value, Value::Null)) {
            let at = match self.place(key) {
                Some(at) => at,
                None if self.columns.len() >= COLUMNS_MAX || check_column_name(key).is_err() => continue,
                None => self.add(key, None, true),
            };
            if let Some(column) = self.columns.get_mut(at).filter(|column| !column.is_settled()) {
                column.shape.take(node, &mut self.fields_left);
            }
        }
    }

    /// Name and type of each column, by position; no type if it has no value and nobody knows it.
    pub(super) fn types(&self) -> Vec<(&str, Option<SqlType>)> {
        let types = self.columns.iter().map(|column| {
            let data_type = match &column.known {
                Some(known) if column.may_grow => Some(column.shape.widen(known)),
                Some(known) => Some(known.clone()),
                None => column.shape.to_type(),
            };
            (column.name.as_str(), data_type)
        });
        types.collect()
    }
}

impl Planned {
    fn is_settled(&self) -> bool {
        self.known.is_some() && !self.may_grow
    }
}
