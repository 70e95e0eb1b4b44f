//! A lakehouse is declared once, in a folder of `lakehouse.toml` and SQL files, and everything reads that one
//! declaration: the server, the Lambdas, the deployment. So it is parsed once, here, into types that can't be wrong;
//! who holds a [`Definition`] need not check names, keys or paths again.
//!
//! ```text
//! lakehouse.toml ──toml──► sections with lines ──rules──► tables, models ──► Definition
//! silver/*.sql, gold/*.sql ─────────────text─────────────►       │
//!                                                                └──► Problems: all of them, each with file, line, cure
//! ```
//!
//! This module knows no DuckDB: SQL is text with its [`Origin`]; whether it binds is checked where DuckDB is.

mod columns;
mod cron;
mod foreign;
mod load;
mod model;
mod problem;
mod refresh;
mod schema;
mod section;
mod sql;
mod suggest;
mod table;
#[cfg(test)]
mod tests;
mod units;
mod upkeep;
mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::name::same_column;
use crate::types::SqlType;
use crate::{Error, Name, Result};

pub use cron::Cron;
pub use problem::{Problem, Problems};
pub use refresh::Refresh;
pub use schema::COMMENT;
pub use suggest::did_you_mean;
pub use table::TOMBSTONE_RETENTION_DEFAULT;
pub use upkeep::{
    DeletionVectors, LOG_RETENTION_DEFAULT, Maintenance, TARGET_FILE_BYTES_DEFAULT, VACUUM_AFTER_DEFAULT,
};

/// The file in the definition's folder that declares everything.
pub const FILE_NAME: &str = "lakehouse.toml";

/// A whole lakehouse, as declared.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The lakehouse's name: its catalog in SQL.
    pub name: Name,
    /// The folder it was read from.
    pub dir: PathBuf,
    /// Whether ingests may make tables.
    pub allow_create: bool,
    /// Silver tables by name; at least one unless ingests may make some.
    pub tables: BTreeMap<Name, Arc<Table>>,
    /// Gold models by name.
    pub models: BTreeMap<Name, Arc<Model>>,
}

impl Definition {
    /// Reads and checks the folder `dir`.
    ///
    /// # Errors
    /// All problems found, each with file, line and cure.
    pub fn load(dir: &Path) -> Result<Self, Problems> {
        load::load(dir)
    }

    /// The one table that `text` declares, in the words of `lakehouse.toml`; `file` is where it was found.
    ///
    /// # Errors
    /// All problems found.
    pub fn made_table(text: &str, file: &str) -> Result<Table, Problems> {
        load::made_table(text, file)
    }

    /// The table called `name`.
    ///
    /// # Errors
    /// `Kind::NotFound`, naming the tables there are.
    pub fn table(&self, name: &str) -> Result<&Arc<Table>> {
        self.tables.get(name).ok_or_else(|| unknown("table", name, self.tables.keys()))
    }

    /// The model called `name`.
    ///
    /// # Errors
    /// `Kind::NotFound`, naming the models there are.
    pub fn model(&self, name: &str) -> Result<&Arc<Model>> {
        self.models.get(name).ok_or_else(|| unknown("model", name, self.models.keys()))
    }
}

/// The error for a name that nothing has, with the nearest one or, failing that, all there are.
fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a Name>) -> Error {
    let known: Vec<&str> = known.map(Name::as_str).collect();
    let cure = match did_you_mean(name, known.iter().copied()) {
        Some(nearest) => format!("did you mean {nearest:?}?"),
        None if known.is_empty() => format!("the definition has no {what}s"),
        None => format!("there are: {}", known.join(", ")),
    };
    Error::not_found(format!("there is no {what} {name:?}; {cure}"))
}

/// A silver table, fed by ingest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name, in SQL and in paths.
    pub name: Name,
    /// For people.
    pub description: Option<String>,
    /// The columns that tell rows apart; empty: the table is append-only.
    pub primary_key: Vec<String>,
    /// The columns whose highest values win, the first one counting most; empty: arrival order.
    pub sequence_by: Vec<String>,
    /// A boolean over the incoming row: true deletes the stored row of that key.
    pub delete_when: Option<Sql>,
    /// How long a deleted key is remembered, so that what comes late does not bring it back.
    pub tombstone_retention: Duration,
    /// Whether the table keeps each version of a row, with the times from and to which it was valid.
    pub history: bool,
    /// Columns that the rules see and the table does not store.
    pub drop_columns: Vec<String>,
    /// The columns that the Delta table is partitioned by.
    pub partition_by: Vec<String>,
    /// The tables that its rows point to; for tools to know, nothing is enforced.
    pub foreign_keys: Vec<ForeignKey>,
    /// What happens to columns the table does not have yet.
    pub on_new_column: OnNewColumn,
    /// Whether a NULL in an update leaves the stored value as it is.
    pub ignore_null_updates: bool,
    /// A SELECT over `incoming`; none: rows are taken as they come.
    pub transform: Option<Sql>,
    /// The declared columns, in order; empty: the first ingest's Arrow schema declares them.
    pub columns: Vec<Column>,
    /// Checks on each incoming row, by name.
    pub expect: Vec<Expectation>,
    /// Whether changed rows are marked, or their files are written anew.
    pub deletion_vectors: DeletionVectors,
    /// How its files are kept up.
    pub maintenance: Maintenance,
    /// Where it is declared.
    pub origin: Origin,
}

impl Table {
    /// Whether rows have a key, so that later ones replace earlier ones.
    pub fn is_keyed(&self) -> bool {
        !self.primary_key.is_empty()
    }

    /// The declared column called `name`, whatever its case.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| same_column(&column.name, name))
    }
}

/// Columns whose values are another table's primary key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    /// The columns, in the order of the key that they point to.
    pub columns: Vec<String>,
    /// The table that they point to, by its primary key.
    pub references: Name,
}

/// A gold table: a SELECT over silver and other gold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Its name, in SQL and in paths.
    pub name: Name,
    /// For people.
    pub description: Option<String>,
    /// One SELECT over `silver.*` and `gold.*`.
    pub sql: Sql,
    /// How its result becomes the table.
    pub mode: Mode,
    /// The columns that tell rows apart; empty unless the mode is [`Mode::Merge`].
    pub unique_key: Vec<String>,
    /// When it is computed.
    pub refresh: Refresh,
    /// Checks on the result, by name; never [`OnFail::Quarantine`].
    pub expect: Vec<Expectation>,
    /// Where it is declared.
    pub origin: Origin,
}

/// SQL, and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sql {
    /// The text, without blank space around it and semicolons behind it. It may end in a `--` comment, so what is put
    /// behind it belongs on a new line.
    pub text: String,
    /// Where its first line is.
    pub origin: Origin,
}

/// A place in the definition; `Display` gives `file:line`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The file, relative to the definition's folder.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// A declared column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name, as written.
    pub name: String,
    /// Its type.
    pub data_type: SqlType,
    /// Whether it may be NULL; false for key columns.
    pub nullable: bool,
    /// For people.
    pub description: Option<String>,
}

/// A check that each row should pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// Its name, in reports and quarantine.
    pub name: Name,
    /// A boolean over the row.
    pub check: Sql,
    /// What happens to a row that fails.
    pub on_fail: OnFail,
}

/// What happens when an [`Expectation`] fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnFail {
    /// The row is kept, and counted.
    Warn,
    /// The row goes to quarantine (tables only).
    Quarantine,
    /// The whole step fails.
    Fail,
}

/// What happens to a column that the table does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnNewColumn {
    /// The table gets it.
    #[default]
    Add,
    /// Its values are kept as JSON in the column `_rescued`.
    Rescue,
    /// Rows that have it are refused.
    Reject,
}

/// How a model's result becomes its table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The result is the table.
    #[default]
    Replace,
    /// The result is added to the table.
    Append,
    /// Rows replace those of the same unique key.
    Merge,
}
