//! Whose fault an error in the definition's SQL is. If it is the definition's, the same SQL fails over every object:
//! the table is stopped until it is mended. If it is that of what was read, an object may be poison.
//!
//! | DuckDB's class | whose |
//! | --- | --- |
//! | Parser, Catalog, Permission | the definition's, whatever is read |
//! | Binder | the definition's, if its SQL does not bind over the table's own columns either |
//! | Binder | else an object's, which lacks a column or has one of another type |
//! | all others: Conversion, Out of Range, … | a row's |

use std::sync::Arc;

use duck::{Duck, Settings};
use lakehouse::definition::{Column, Table};
use lakehouse::{Error, Kind};

use crate::check::check;

/// Classes of errors that no row and no column causes.
const WRONG_SQL: [&str; 3] = ["Parser", "Catalog", "Permission"];

/// The class of errors of SQL that does not go with the columns.
const MISFIT: &str = "Binder";

/// What is to be known for it.
pub(super) struct Blame {
    /// The table with the columns that it had before the merge.
    table: Table,
    settings: Settings,
}

impl Blame {
    /// For a table that has the columns `known` before the merge.
    pub(super) fn new(table: &Arc<Table>, known: &[Column], settings: &Settings) -> Self {
        let mut table = table.as_ref().clone();
        // A transform reads other columns than it makes; which, only a declaration tells.
        if table.columns.is_empty() && table.transform.is_none() {
            table.columns = known.to_vec();
        }
        Self { table, settings: settings.clone() }
    }

    /// The error of SQL out of the definition, as DuckDB gave it: `Stopped` if the definition is to be mended.
    pub(super) fn of(&self, error: Error) -> Error {
        if self.is_of_definition(&error) { Error::stopped(error.to_string()) } else { error }
    }

    fn is_of_definition(&self, error: &Error) -> bool {
        if error.kind() != Kind::Invalid {
            return false;
        }
        let message = error.to_string();
        let text = message.strip_prefix("DuckDB: ").unwrap_or(&message);
        let class = text.split(" Error:").next().unwrap_or_default();
        WRONG_SQL.contains(&class) || class == MISFIT && self.never_binds()
    }

    fn never_binds(&self) -> bool {
        let Ok(duck) = Duck::open(&self.settings) else { return false };
        check(&duck, &self.table).iter().any(|problem| problem.kind() == Kind::Invalid)
    }
}

#[cfg(test)]
mod tests {
    use lakehouse::SqlType;
    use lakehouse::definition::Definition;

    use super::*;

    const COLUMNS: &str = "columns = [{ name = \"id\", type = \"bigint\" }, { name = \"v\", type = \"varchar\" }]\n";

    fn table(rules: &str, transform: Option<&str>) -> Arc<Table> {
        let folder = tempfile::tempdir().unwrap();
        let mut toml = format!("name = \"lab\"\n[tables.t]\nprimary_key = [\"id\"]\n{rules}");
        if let Some(sql) = transform {
            std::fs::write(folder.path().join("t.sql"), sql).unwrap();
            toml.push_str("transform = \"t.sql\"\n");
        }
        std::fs::write(folder.path().join("lakehouse.toml"), toml).unwrap();
        Arc::clone(Definition::load(folder.path()).unwrap().table("t").unwrap())
    }

    /// The kind of the error that `sql` gives over a row of `incoming`.
    fn kind(table: &Arc<Table>, known: &[Column], incoming: &str, sql: &str) -> Kind {
        let settings = Settings::default();
        let duck = Duck::open(&settings).unwrap();
        duck.execute(&format!("CREATE VIEW incoming AS SELECT 0::BIGINT AS _row, {incoming}")).unwrap();
        let error = duck.execute(&format!("CREATE TABLE made AS {sql}")).unwrap_err();
        Blame::new(table, known, &settings).of(error).kind()
    }

    #[test]
    fn sql_that_is_wrong_over_anything_stops_the_table() {
        let (table, row) = (table("", None), "1 AS id, 'a' AS v");
        for sql in
            ["SELEC 1", "SELECT nosuch(id) FROM incoming", "SELECT * FROM nosuch", "FROM read_csv('/etc/passwd')"]
        {
            assert_eq!(kind(&table, &[], row, sql), Kind::Stopped, "{sql}");
        }
    }

    #[test]
    fn a_row_that_breaks_the_sql_is_poison() {
        let (table, row) = (table(COLUMNS, None), "1 AS id, 'Parser Error: a' AS v");
        for sql in ["SELECT v::BIGINT FROM incoming", "SELECT error('Catalog Error: ' || v) FROM incoming"] {
            assert_eq!(kind(&table, &[], row, sql), Kind::Invalid, "{sql}");
        }
    }

    #[test]
    fn an_object_that_lacks_a_column_of_a_transform_is_poison() {
        let sql = "SELECT _row, id, upper(v) AS v FROM incoming";
        let table = table(COLUMNS, Some(sql));
        assert_eq!(kind(&table, &[], "1 AS id", sql), Kind::Invalid);
        assert_eq!(kind(&table, &[], "1 AS id, {'a': 1} AS v", sql), Kind::Invalid);
    }

    #[test]
    fn a_rule_that_does_not_go_with_the_columns_of_the_table_stops_it() {
        let rule = "delete_when = \"op = 'delete'\"\n";
        let row = "1 AS id, 'a' AS v";
        let sql = "SELECT op = 'delete' FROM incoming";
        assert_eq!(kind(&table(&format!("{COLUMNS}{rule}"), None), &[], row, sql), Kind::Stopped);
        let dropped = format!("{COLUMNS}{rule}drop_columns = [\"op\"]\n");
        assert_eq!(kind(&table(&dropped, None), &[], row, sql), Kind::Invalid, "the object lacks it");
    }

    #[test]
    fn a_table_without_declared_columns_is_known_by_those_that_it_has() {
        let rule = "delete_when = \"op = 'delete'\"\n";
        let (undeclared, row, sql) = (table(rule, None), "1 AS id", "SELECT op = 'delete' FROM incoming");
        let column = |name: &str| Column {
            name: name.to_owned(),
            data_type: SqlType::Varchar,
            nullable: true,
            description: None,
        };
        assert_eq!(kind(&undeclared, &[], row, sql), Kind::Invalid, "nothing tells what it will have");
        assert_eq!(kind(&undeclared, &[column("id")], row, sql), Kind::Stopped);
        assert_eq!(kind(&undeclared, &[column("id"), column("op")], row, sql), Kind::Invalid);
    }
}
