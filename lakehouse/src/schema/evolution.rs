//! What columns a table has after rows with these columns: new ones, wider types, more NULLs.
//!
//! A declared column is a contract: what is stored follows the declaration, what comes in must fit it. All others are
//! as `on_new_column` says: `add` takes new columns, new fields inside of structs, and wider types; `rescue` keeps what
//! does not fit as JSON in `_rescued`; `reject` takes nothing that the table does not have. No column is ever dropped:
//! rows that lack it have NULL there.
//!
//! ```text
//! stored columns ─► as declared (wider, nullable) ─► declared, not stored yet ─► as the rows need it ─► Mallard's own
//! ```
//!
//! The door and the merge ask the same function: what one takes, the other stores. Only that the merge, which must do
//! something with what came past the door (or before the definition changed), goes on where the door refuses: with the
//! single rows, by each column's [`Fate`].

use arrow::datatypes::Schema;

use super::{COLUMNS_MAX, VALID_FROM_COLUMN, find, history_columns, own_columns, stored_columns};
use crate::definition::{Column, OnNewColumn, Table};
use crate::error::{Error, Result};
use crate::name::{check_column_name, same_column};
use crate::types::SqlType;

/// What [`evolve`] decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evolved {
    /// All columns of the table, the stored ones first and in their order.
    pub columns: Vec<Column>,
    /// Columns that a stored table gets; for a table that is not stored yet, none.
    pub added: Vec<String>,
    /// Stored columns whose type becomes wider: name, stored type, new type. Files that have them are written anew,
    /// since Delta Lake's own widening is not written by what writes here.
    pub widened: Vec<(String, SqlType, SqlType)>,
    /// Stored columns that may be NULL from now on.
    pub relaxed: Vec<String>,
    /// What becomes of each incoming column, in their order.
    pub fates: Vec<Fate>,
}

/// What becomes of the values of an incoming column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its column of the table takes all of them.
    Kept,
    /// Its column takes those that fit; the others become NULL there, and go to `_rescued`.
    KeptOrRescued,
    /// The table has no such column: all of them go to `_rescued`.
    Rescued,
    /// The rules see them, the table does not store them.
    Dropped,
    /// Its column takes those that fit, the rows of the others go to quarantine; the door takes none. Why, and what to
    /// do.
    KeptOrRefused(String),
    /// The table takes no such column: rows with a value in it go to quarantine; the door takes none. Why, and what to
    /// do.
    Refused(String),
}

impl Fate {
    /// Why the door does not take such a column; `None`: it does.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Kept | Self::KeptOrRescued | Self::Rescued | Self::Dropped => None,
            Self::KeptOrRefused(why) | Self::Refused(why) => Some(why),
        }
    }
}

impl Evolved {
    /// Whether what is stored has to change before rows are added.
    pub fn changes_table(&self) -> bool {
        !(self.added.is_empty() && self.widened.is_empty() && self.relaxed.is_empty())
    }
}

/// The columns that `table` has, `stored` so far, once rows of the columns `incoming` are in it.
///
/// # Errors
/// `Stopped` if the definition asks for what the stored table can't become. `Invalid` if the incoming columns would
/// make no table: more than [`COLUMNS_MAX`] of them, or keys that can't be compared. `Internal` if the stored schema has
/// a type that no table can have.
pub fn evolve(table: &Table, stored: Option<&Schema>, incoming: &[(String, SqlType)]) -> Result<Evolved> {
    let stored = stored_columns(table, stored)?;
    check_history(table, &stored)?;
    let mut columns = stored.iter().map(|column| as_declared(table, column)).collect::<Result<Vec<_>>>()?;
    for column in table.columns.iter().filter(|column| !table.drops(&column.name)) {
        if find(&columns, &column.name).is_none() {
            // A table that already has rows has no value for them.
            columns.push(Column { nullable: column.nullable || !stored.is_empty(), ..column.clone() });
        }
    }
    let declares_itself = columns.is_empty();
    let mut evolving = Evolving { table, columns, is_stored: !stored.is_empty(), declares_itself };
    let fates = incoming.iter().map(|(name, data_type)| evolving.take(name, data_type)).collect::<Result<Vec<_>>>()?;
    let mut columns = evolving.columns;
    let own = own_columns(table, &columns);
    columns.extend(own);
    follow_sequence(table, &mut columns)?;
    // What is rescued has to be merged too.
    let aside = fates.iter().filter(|fate| matches!(fate, Fate::Rescued | Fate::Refused(_))).count();
    let count = columns.len() + aside;
    if count > COLUMNS_MAX && count > stored.len() {
        return Err(Error::invalid(format!(
            "the ingest would give table {:?} {count} columns; the most is {COLUMNS_MAX}: put some into a struct or a \
             map",
            table.name.as_str()
        )));
    }
    Ok(compared(&stored, columns, fates))
}

/// What `columns` change of what is stored.
fn compared(stored: &[Column], columns: Vec<Column>, fates: Vec<Fate>) -> Evolved {
    let (mut widened, mut relaxed) = (Vec::new(), Vec::new());
    for (was, is) in stored.iter().zip(&columns) {
        // Delta has JSON as text.
        if was.data_type.to_arrow() != is.data_type.to_arrow() {
            widened.push((is.name.clone(), was.data_type.clone(), is.data_type.clone()));
        }
        if is.nullable && !was.nullable {
            relaxed.push(is.name.clone());
        }
    }
    let first_added = if stored.is_empty() { columns.len() } else { stored.len() };
    let added = columns[first_added..].iter().map(|column| column.name.clone()).collect();
    Evolved { columns, added, widened, relaxed, fates }
}

/// A stored column as the definition wants it: never narrower than it is.
fn as_declared(table: &Table, stored: &Column) -> Result<Column> {
    let name = &stored.name;
    if name.starts_with('_') {
        return Ok(stored.clone());
    }
    let declared = table.column(name).filter(|_| !table.drops(name));
    let is_required = table.is_key(name) || declared.is_some_and(|declared| !declared.nullable);
    let mut column = Column { nullable: stored.nullable || !is_required, ..stored.clone() };
    let Some(declared) = declared.filter(|declared| !stored.data_type.can_hold(&declared.data_type)) else {
        return Ok(column);
    };
    let (is, wanted) = (&stored.data_type, &declared.data_type);
    if is_partition(table, name) {
        return Err(conflict(
            table,
            name,
            &format!(
                "is stored as {is} and declared as {wanted}, and partitions the table, so that its type can't change; \
                 declare it as {is}"
            ),
        ));
    }
    column.data_type = is.widened(wanted).ok_or_else(|| {
        conflict(
            table,
            name,
            &format!(
                "is stored as {is} and declared as {wanted}, and no type holds both; declare it as {is}, or give the \
                 new values a column of another name"
            ),
        )
    })?;
    Ok(column)
}

fn conflict(table: &Table, column: &str, what: &str) -> Error {
    Error::stopped(format!("{}: table {:?}: column {column:?} {what}", table.origin, table.name.as_str()))
}

/// A history is begun with the table: of rows that were stored without one, the times are not known.
fn check_history(table: &Table, stored: &[Column]) -> Result<()> {
    let has_history = find(stored, VALID_FROM_COLUMN).is_some();
    if stored.is_empty() || has_history == table.history {
        return Ok(());
    }
    let what = if table.history {
        "declares history, but has rows that were stored without it; give the table with history another name"
    } else {
        "declares no history, but is stored with one; declare history = true, or give the table another name"
    };
    Err(Error::stopped(format!("{}: table {:?} {what}", table.origin, table.name.as_str())))
}

/// The times of a history have the type of the sequence, which may have become wider.
fn follow_sequence(table: &Table, columns: &mut [Column]) -> Result<()> {
    for time in history_columns(table, columns) {
        let Some(column) = columns.iter_mut().find(|column| same_column(&column.name, &time.name)) else { continue };
        if column.data_type.can_hold(&time.data_type) {
            continue;
        }
        let (is, wanted) = (&column.data_type, &time.data_type);
        column.data_type = is.widened(wanted).ok_or_else(|| {
            let what = format!(
                "is stored as {is}, but the first column of sequence_by is {wanted}, and no type holds both; sequence \
                 by the former column"
            );
            conflict(table, &column.name, &what)
        })?;
    }
    Ok(())
}

fn is_partition(table: &Table, name: &str) -> bool {
    table.partition_by.iter().any(|partition| same_column(partition, name))
}

fn is_sequence(table: &Table, name: &str) -> bool {
    table.sequence_by.iter().any(|sequence| same_column(sequence, name))
}

/// The columns on their way.
struct Evolving<'a> {
    table: &'a Table,
    columns: Vec<Column>,
    is_stored: bool,
    /// Neither declared nor stored: the rows that come first say what the table has.
    declares_itself: bool,
}

impl Evolving<'_> {
    fn take(&mut self, name: &str, incoming: &SqlType) -> Result<Fate> {
        if self.table.drops(name) {
            return Ok(Fate::Dropped);
        }
        if let Err(error) = check_column_name(name) {
            return Ok(Fate::Refused(error.to_string()));
        }
        match self.columns.iter().position(|column| same_column(&column.name, name)) {
            Some(at) => Ok(self.meet(at, incoming)),
            None => self.begin(name, incoming),
        }
    }

    /// Values for a column that is there.
    fn meet(&mut self, at: usize, incoming: &SqlType) -> Fate {
        let (table, column) = (self.table, &self.columns[at]);
        let (name, is) = (&column.name, &column.data_type);
        if is.can_hold(incoming) {
            return Fate::Kept;
        }
        let misfit = |cure: &str| {
            Fate::KeptOrRefused(format!("the table has {is}, which can't hold {incoming} without loss; {cure}"))
        };
        let declared = table.column(name);
        // Without the value the row would not be one of the table.
        let needs_value =
            table.is_key(name) || is_sequence(table, name) || declared.is_some_and(|declared| !declared.nullable);
        if table.on_new_column == OnNewColumn::Rescue && !needs_value {
            return Fate::KeptOrRescued;
        }
        if declared.is_some() {
            return misfit("cast it before sending, or declare a wider type");
        }
        match table.on_new_column {
            OnNewColumn::Rescue | OnNewColumn::Reject => misfit("cast it before sending"),
            OnNewColumn::Add if is_partition(table, name) => {
                misfit("its type can't change, since it partitions the table; cast it before sending")
            }
            OnNewColumn::Add => match is.widened(incoming) {
                None => misfit("no type holds both; cast it before sending"),
                Some(wide) if table.is_key(name) && wide.is_float() => {
                    misfit("a key can't become a float, since those that look equal may differ; cast it before sending")
                }
                Some(wide) if wide.leaves() > COLUMNS_MAX.max(is.leaves()) => Fate::KeptOrRefused(format!(
                    "with the fields that come it would have {}, and the most is {COLUMNS_MAX}; send a map",
                    wide.leaves()
                )),
                Some(wide) => {
                    self.columns[at].data_type = wide;
                    Fate::Kept
                }
            },
        }
    }

    /// Values for which there is no column yet.
    fn begin(&mut self, name: &str, incoming: &SqlType) -> Result<Fate> {
        let table = self.table;
        let is_ruled = table.is_key(name) || is_sequence(table, name) || is_partition(table, name);
        if let Some(why) = why_unfit(table, name, incoming) {
            return Err(Error::invalid(format!("column {name:?} of table {:?} {why}", table.name.as_str())));
        }
        if !is_ruled && !self.declares_itself {
            match table.on_new_column {
                OnNewColumn::Add => {}
                OnNewColumn::Rescue => return Ok(Fate::Rescued),
                OnNewColumn::Reject => return Ok(Fate::Refused(self.rejected())),
            }
        }
        // Rows that are there already have no value for it.
        let nullable = self.is_stored || !table.is_key(name);
        self.columns.push(Column { name: name.to_owned(), data_type: incoming.clone(), nullable, description: None });
        Ok(Fate::Kept)
    }

    fn rejected(&self) -> String {
        let names: Vec<_> = self.columns.iter().map(|column| column.name.as_str()).collect();
        format!(
            "the table has no such column and takes no new ones (on_new_column = \"reject\"); it has: {}",
            names.join(", ")
        )
    }
}

/// Why a column that rules name can't have this type; the definition's own columns were checked when it was read.
fn why_unfit(table: &Table, name: &str, data_type: &SqlType) -> Option<String> {
    let is_key = table.is_key(name);
    if is_key && data_type.is_float() {
        return Some(format!(
            "is {data_type} and in primary_key, but floats that look equal may differ; send a decimal, an integer or \
             text"
        ));
    }
    if data_type.is_nested() && (is_key || is_sequence(table, name) || is_partition(table, name)) {
        return Some(format!(
            "is {data_type} and in primary_key, sequence_by or partition_by, but these compare single values; send its \
             parts as columns"
        ));
    }
    None
}

#[cfg(test)]
mod tests;
