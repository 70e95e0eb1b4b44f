//! Whether a table's SQL binds, found out before any row arrives.

use duck::{Duck, quote};
use lakehouse::definition::{Origin, Sql, Table};
use lakehouse::schema::ROW_COLUMN;
use lakehouse::{Error, Result};

/// Binds the transform, the delete rule and the expectations of a table against its declared columns, in an empty
/// DuckDB. A table without declared columns can't be bound before its first ingest; neither can rules that see the
/// output of a transform before that is known.
///
/// Gives all errors, each with its place in the definition.
pub fn check(duck: &Duck, table: &Table) -> Vec<Error> {
    if table.columns.is_empty() {
        return Vec::new();
    }
    let incoming = relation(table);
    let mut problems = Vec::new();
    let rows = match &table.transform {
        None => incoming,
        Some(transform) => match bind_transform(duck, table, transform, &incoming) {
            Ok(()) => format!("SELECT * FROM (SELECT NULL::BIGINT AS {ROW_COLUMN}) CROSS JOIN ({incoming})"),
            Err(error) => return vec![error],
        },
    };
    let rules = table.delete_when.iter().map(|sql| ("delete_when".to_owned(), sql));
    let checks =
        table.expect.iter().map(|expectation| (format!("expectation {}", expectation.name), &expectation.check));
    for (what, sql) in rules.chain(checks) {
        if let Err(error) = duck.describe(&format!("SELECT 1 FROM ({rows}) WHERE ({}\n)::BOOLEAN", sql.text)) {
            problems.push(at(&sql.origin, table, &what, &error));
        }
    }
    problems
}

fn at(origin: &Origin, table: &Table, what: &str, error: &Error) -> Error {
    let located = duck::locate(error, origin);
    Error::new(located.kind(), format!("{located} ({what} of table {:?})", table.name.as_str()))
}

/// A SELECT of no rows with the declared columns and those that only the rules see.
fn relation(table: &Table) -> String {
    let mut columns: Vec<String> = table
        .columns
        .iter()
        .map(|column| format!("NULL::{} AS {}", column.data_type.to_duckdb(), quote(&column.name)))
        .collect();
    let undeclared = table.drop_columns.iter().filter(|name| table.column(name).is_none());
    columns.extend(undeclared.map(|name| format!("NULL::VARCHAR AS {}", quote(name))));
    format!("SELECT {} WHERE false", columns.join(", "))
}

/// Binds a transform over the declared columns. What it reads need not be declared (it may rename), so a column that
/// is missing is not an error yet; anything else is, and so is losing [`ROW_COLUMN`].
fn bind_transform(duck: &Duck, table: &Table, transform: &Sql, incoming: &str) -> Result<()> {
    let bind = || {
        duck.execute(&format!(
            "CREATE OR REPLACE TEMP VIEW incoming AS SELECT 0::BIGINT AS {ROW_COLUMN}, * FROM ({incoming})"
        ))?;
        duck.references(&transform.text)?;
        duck.describe(&transform.text)
    };
    match bind() {
        Ok(schema) if schema.fields().iter().any(|field| field.name() == ROW_COLUMN) => Ok(()),
        Ok(_) => Err(Error::invalid(format!(
            "{}: the transform of table {:?} loses the column {ROW_COLUMN}, which tells where a row came from; add it \
             to the SELECT list",
            transform.origin,
            table.name.as_str()
        ))),
        Err(error) if error.to_string().contains("Referenced column") => Ok(()),
        Err(error) => Err(at(&transform.origin, table, "transform", &error)),
    }
}
