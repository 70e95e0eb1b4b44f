//! What a declared table looks like in Arrow.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};

use super::{Column, Table};
use crate::name::same_column;
use crate::schema::{VALID_FROM_COLUMN, history_columns};

/// The key under which a field's metadata carries the column's description; Delta Lake's readers know it.
pub const COMMENT: &str = "comment";

impl Table {
    /// The schema as which the table is stored, if it declares columns: in their order, without
    /// [`Table::drop_columns`], key columns not nullable, descriptions as metadata under [`COMMENT`], behind them the
    /// times of a table with history.
    pub fn declared_schema(&self) -> Option<SchemaRef> {
        if self.columns.is_empty() {
            return None;
        }
        let stored = self.columns.iter().filter(|column| !self.drops(&column.name));
        let times = history_columns(self, &self.columns);
        let fields: Vec<Field> = stored.chain(&times).map(Column::to_arrow).collect();
        Some(Arc::new(Schema::new(fields)))
    }

    /// The columns that tell the table's stored rows apart: its primary key, and with history the time from which on a
    /// version is valid.
    pub fn row_key(&self) -> impl Iterator<Item = &str> {
        let time = (self.is_keyed() && self.history).then_some(VALID_FROM_COLUMN);
        self.primary_key.iter().map(String::as_str).chain(time)
    }

    /// Whether the table does not store the column called `name`, whatever its case.
    pub fn drops(&self, name: &str) -> bool {
        self.drop_columns.iter().any(|dropped| same_column(dropped, name))
    }

    /// Whether the column called `name`, whatever its case, is part of the key.
    pub fn is_key(&self, name: &str) -> bool {
        self.primary_key.iter().any(|key| same_column(key, name))
    }
}

impl Column {
    /// The column as an Arrow field, its description as metadata under [`COMMENT`].
    pub fn to_arrow(&self) -> Field {
        let field = Field::new(&self.name, self.data_type.to_arrow(), self.nullable);
        match &self.description {
            Some(text) => field.with_metadata(HashMap::from([(COMMENT.to_owned(), text.clone())])),
            None => field,
        }
    }
}
