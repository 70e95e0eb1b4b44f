//! INSERT, UPDATE and DELETE as queries whose rows are ingested.
//!
//! Silver has one way in: frames, merged by key and sequence. So a statement that writes is planned as the query for
//! the rows it would send, and who runs it sends them through the door:
//!
//! ```text
//! INSERT INTO t (a, b) SELECT …     ─► the rows of the SELECT, as a and b
//! UPDATE t SET a = 1 WHERE key = 7  ─► the stored row with the new value and a higher sequence
//! DELETE FROM t WHERE key = 7       ─► the stored row, marked as delete_when wants it
//! ```
//!
//! UPDATE and DELETE name rows by primary key, of a table with a sequence: then the change is ordered against all
//! others, however late it is merged. What is newer than the row that was read stays. Of a table with history, UPDATE
//! reads the current version and makes a new one.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::logical_expr::expr::Placeholder;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, lit};
use datafusion::prelude::ident;
use datafusion::scalar::ScalarValue;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Assignment, AssignmentTarget, BinaryOperator, Delete, Expr as SqlExpr, FromTable, Ident, Insert, ObjectName,
    ObjectNamePart, Statement as SqlStatement, TableFactor, TableObject, TableWithJoins, Update, Value, Visit as _,
    Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use lakehouse::definition::{Definition, Table};
use lakehouse::name::same_column;
use lakehouse::schema::{HISTORY_COLUMNS, IS_CURRENT_COLUMN};
use lakehouse::{Error, Name, Result};

use super::catalog::{QueryCatalog, SILVER, TARGET};
use super::parameters::{Parameters, place};
use super::{explain, plain_schema};

/// The table that bound values stand in while an INSERT reads them.
const PARAMETER_TABLE: &str = "$parameters";

/// What a statement does to a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The silver table.
    pub table: Name,
    /// `insert`, `update` or `delete`.
    pub verb: &'static str,
}

/// A statement that writes, as it is to be planned, and what its plan needs then.
pub(super) struct Rewritten {
    pub(super) statement: Statement,
    pub(super) change: Change,
    /// The column that says "deleted", with the value that says so.
    mark: Option<(String, ScalarValue)>,
}

/// `None` if the statement does not write. The table's columns are asked of `catalog`.
pub(super) async fn rewrite(statement: &Statement, catalog: &QueryCatalog) -> Result<Option<Rewritten>> {
    let Statement::Statement(inner) = statement else { return Ok(None) };
    let writes = matches!(inner.as_ref(), SqlStatement::Insert(_) | SqlStatement::Update(_) | SqlStatement::Delete(_));
    if writes && catalog.reads_the_past() {
        return Err(Error::invalid(
            "the session reads the lake as of a time, so it can't write; unset as_of, and read what is of the past with \
             FOR TIMESTAMP AS OF behind its table",
        ));
    }
    let definition = catalog.definition();
    let rewritten = match inner.as_ref() {
        SqlStatement::Insert(insert) => self::insert(insert.clone(), definition, catalog).await?,
        SqlStatement::Update(update) => self::update(update.clone(), definition, catalog).await?,
        SqlStatement::Delete(delete) => self::delete(delete.clone(), definition)?,
        _ => return Ok(None),
    };
    Ok(Some(rewritten))
}

impl Rewritten {
    /// The query for the rows to send, of the plan of the rewritten statement.
    pub(super) fn rows(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let LogicalPlan::Dml(dml) = plan else {
            return Err(Error::internal("a statement that writes was planned as one that doesn't"));
        };
        let input = Arc::unwrap_or_clone(dml.input);
        let columns = input.schema().columns();
        let is_time = |name: &str| HISTORY_COLUMNS.contains(&name);
        if self.mark.is_none() && !columns.iter().any(|column| is_time(&column.name)) {
            return Ok(input);
        }
        let is_mark = |name: &str| self.mark.as_ref().is_some_and(|(column, _)| same_column(name, column));
        let kept = columns.into_iter().filter(|column| !is_mark(&column.name) && !is_time(&column.name));
        let mark = self.mark.iter().map(|(column, value)| lit(value.clone()).alias(column));
        let sent = kept.map(Expr::Column).chain(mark).collect::<Vec<_>>();
        LogicalPlanBuilder::from(input).project(sent).and_then(LogicalPlanBuilder::build).map_err(explain)
    }
}

/// The plan of an INSERT of one row of parameters, reading all rows of `values`; `None` if it inserts something else.
pub(super) fn over_all(
    plan: &LogicalPlan,
    parameters: &Parameters,
    values: &RecordBatch,
) -> Result<Option<LogicalPlan>> {
    let mut one_row = 0;
    let replaced = plan
        .clone()
        .transform_up(|node| match node {
            LogicalPlan::Values(rows) if rows.values.len() == 1 => {
                one_row += 1;
                from_table(&rows.values[0], rows.schema.fields(), parameters, values).map(Transformed::yes)
            }
            other => Ok(Transformed::no(other)),
        })
        .map_err(explain)?
        .data;
    let rest = replaced.get_parameter_types().map_err(explain)?;
    Ok((one_row == 1 && rest.is_empty()).then_some(replaced))
}

/// One row of VALUES, computed for each row of the parameters.
fn from_table(
    row: &[Expr],
    names: &[FieldRef],
    parameters: &Parameters,
    values: &RecordBatch,
) -> datafusion::error::Result<LogicalPlan> {
    let fields = values.schema_ref().fields().iter().zip(1..);
    let fields: Vec<Field> =
        fields.map(|(field, n)| Field::new(format!("${n}"), field.data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let renamed = RecordBatch::try_new(Arc::clone(&schema), values.columns().to_vec())?;
    let table = MemTable::try_new(schema, vec![vec![renamed]])?;
    let computed = row.iter().zip(names).map(|(expr, field)| {
        let expr = expr.clone().transform_up(|expr| match expr {
            Expr::Placeholder(Placeholder { id, .. }) => {
                let data_type = place(&id).ok().and_then(|place| parameters.data_type(place - 1));
                let column = ident(id);
                Ok(Transformed::yes(match data_type {
                    Some(data_type) => cast(column, data_type.clone()),
                    None => column,
                }))
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(expr.data.alias(field.name()))
    });
    let computed = computed.collect::<datafusion::error::Result<Vec<_>>>()?;
    LogicalPlanBuilder::scan(PARAMETER_TABLE, provider_as_source(Arc::new(table)), None)?.project(computed)?.build()
}

async fn insert(mut insert: Insert, definition: &Definition, catalog: &QueryCatalog) -> Result<Rewritten> {
    let TableObject::TableName(name) = &insert.table else {
        return Err(Error::invalid("INSERT goes into a table of schema silver; name one"));
    };
    let table = target(name, definition, "INSERT")?;
    if insert.overwrite || insert.replace_into || insert.or.is_some() || insert.on.is_some() {
        return Err(Error::invalid(format!(
            "INSERT into {} only adds: with a primary key, a row replaces the stored one of its key if its sequence is \
             higher; leave OVERWRITE, REPLACE and ON CONFLICT out",
            table.name
        )));
    }
    if insert.source.is_none() {
        return Err(Error::invalid(format!("INSERT into {} has no rows; add VALUES (…) or a SELECT", table.name)));
    }
    let stored = columns(&table, catalog).await?;
    let columns = match insert.columns.as_slice() {
        // Those that begin so are Mallard's own, and not for clients to write.
        [] => {
            let fields = stored.fields().iter().filter(|field| !field.name().starts_with('_'));
            Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()))
        }
        named => {
            let fields = named.iter().map(|name| listed(name, &table, &stored)).collect::<Result<Vec<_>>>()?;
            Arc::new(Schema::new(fields))
        }
    };
    catalog.set_target(&table.name, columns);
    let own = Ident::with_quote('"', definition.name.as_str());
    insert.table = TableObject::TableName(ObjectName::from(vec![own, Ident::with_quote('"', TARGET), quoted(&table)]));
    let change = Change { table: table.name.clone(), verb: "insert" };
    Ok(Rewritten { statement: statement(SqlStatement::Insert(insert)), change, mark: None })
}

async fn update(mut update: Update, definition: &Definition, catalog: &QueryCatalog) -> Result<Rewritten> {
    if update.from.is_some() {
        return Err(Error::invalid("UPDATE … FROM is refused; compute the rows with a SELECT, and INSERT them"));
    }
    let table = written(&mut update.table, definition, "UPDATE")?;
    let sequence = changeable(&table, "UPDATE")?;
    check_selection(update.selection.as_ref(), &table, "UPDATE")?;
    let assigned: Vec<String> = update.assignments.iter().map(assigned).collect::<Result<_>>()?;
    if let Some(key) = table.primary_key.iter().find(|key| assigned.iter().any(|name| same_column(name, key))) {
        return Err(Error::invalid(format!(
            "UPDATE of {}: column {key:?} is part of the primary key, which can't change; DELETE the row and INSERT \
             another",
            table.name
        )));
    }
    let moves_on = |name: &String| table.sequence_by.iter().any(|sequence| same_column(name, sequence));
    if !assigned.iter().any(moves_on) {
        let stored = columns(&table, catalog).await?;
        update.assignments.push(next(sequence, &table, &stored)?);
    }
    if table.history {
        update.selection = Some(of_current(update.selection.take()));
    }
    let change = Change { table: table.name.clone(), verb: "update" };
    Ok(Rewritten { statement: statement(SqlStatement::Update(update)), change, mark: None })
}

fn delete(mut delete: Delete, definition: &Definition) -> Result<Rewritten> {
    let (FromTable::WithFromKeyword(tables) | FromTable::WithoutKeyword(tables)) = &mut delete.from;
    let [from] = tables.as_mut_slice() else {
        return Err(Error::invalid("DELETE names one table of schema silver"));
    };
    let table = written(from, definition, "DELETE")?;
    changeable(&table, "DELETE")?;
    if table.history {
        return Err(Error::invalid(format!(
            "DELETE of {} is refused, since the table keeps history, and the statement does not say from when on the row \
             is gone; send the deletion by ingest, with its sequence",
            table.name
        )));
    }
    check_selection(delete.selection.as_ref(), &table, "DELETE")?;
    let mark = mark(&table)?;
    let change = Change { table: table.name.clone(), verb: "delete" };
    Ok(Rewritten { statement: statement(SqlStatement::Delete(delete)), change, mark: Some(mark) })
}

fn statement(inner: SqlStatement) -> Statement {
    Statement::Statement(Box::new(inner))
}

/// The silver table that a name means; without a schema it means silver, since nothing else is written to.
fn target(name: &ObjectName, definition: &Definition, verb: &str) -> Result<Arc<Table>> {
    let parts: Vec<String> = name.0.iter().filter_map(ObjectNamePart::as_ident).map(normalized).collect();
    let own = definition.name.as_str();
    let table = match parts.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [table] | [SILVER, table] => (*table).to_owned(),
        [catalog, SILVER, table] if *catalog == own => (*table).to_owned(),
        _ => {
            return Err(Error::invalid(format!(
                "{verb} of {name} is refused: only tables of schema silver are written to; gold tables are declared as \
                 models, and follow silver"
            )));
        }
    };
    let table = Arc::clone(definition.table(&table)?);
    if table.transform.is_some() {
        return Err(Error::invalid(format!(
            "{verb} of {} is refused, since its rows come in another shape than they are stored (it has a transform); \
             send rows by ingest (DoPut)",
            table.name
        )));
    }
    Ok(table)
}

/// The table that UPDATE or DELETE names, whose name is made a full one.
fn written(from: &mut TableWithJoins, definition: &Definition, verb: &str) -> Result<Arc<Table>> {
    let alone = from.joins.is_empty();
    let TableFactor::Table { name, .. } = &mut from.relation else {
        return Err(Error::invalid(format!("{verb} names one table of schema silver")));
    };
    if !alone {
        return Err(Error::invalid(format!(
            "{verb} with joins is refused; name the rows by primary key, or compute them with a SELECT and INSERT them"
        )));
    }
    let table = target(name, definition, verb)?;
    *name = ObjectName::from(vec![Ident::with_quote('"', SILVER), quoted(&table)]);
    Ok(table)
}

fn quoted(table: &Table) -> Ident {
    Ident::with_quote('"', table.name.as_str())
}

/// As the engine reads it: without quotes, in lower case.
fn normalized(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// The sequence of a table whose rows can be changed by key.
fn changeable<'a>(table: &'a Table, verb: &str) -> Result<&'a str> {
    let refused = |why: &str| {
        Err(Error::invalid(format!(
            "{verb} of {} is refused, since it has no {why}, which orders a change against all others; INSERT rows \
             instead, or declare it in lakehouse.toml",
            table.name
        )))
    };
    if !table.is_keyed() {
        return refused("primary_key");
    }
    match table.sequence_by.first() {
        Some(sequence) => Ok(sequence),
        None => refused("sequence_by"),
    }
}

/// The columns of a table as they are stored, or declared.
async fn columns(table: &Table, catalog: &QueryCatalog) -> Result<SchemaRef> {
    match catalog.columns_of(&table.name).await? {
        Some(schema) => Ok(plain_schema(&schema)),
        None => Err(Error::not_found(format!(
            "table silver.{} has no rows and no declared columns yet; ingest into it first (DoPut)",
            table.name
        ))),
    }
}

/// A column that INSERT lists: a stored one, or one that only the rules see.
fn listed(name: &ObjectName, table: &Table, stored: &SchemaRef) -> Result<FieldRef> {
    let column = match name.0.as_slice() {
        [part] => part.as_ident().map(normalized),
        _ => None,
    };
    let column = column.ok_or_else(|| Error::invalid(format!("{name} is no column of silver.{}", table.name)))?;
    let is_it = |known: &str| same_column(known, &column);
    if let Some(field) = stored.fields().iter().find(|field| is_it(field.name())) {
        return Ok(Arc::new(Field::new(&column, field.data_type().clone(), true)));
    }
    if let Some(declared) = table.column(&column) {
        return Ok(Arc::new(Field::new(&column, declared.data_type.to_arrow(), true)));
    }
    if table.drop_columns.iter().any(|known| is_it(known)) {
        return Ok(Arc::new(Field::new(&column, DataType::Utf8, true)));
    }
    let known: Vec<&str> = stored.fields().iter().map(|field| field.name().as_str()).collect();
    let cure = match lakehouse::definition::did_you_mean(&column, known) {
        Some(near) => format!("did you mean {near:?}?"),
        None => "new columns come by ingest (DoPut), or by declaring them".to_owned(),
    };
    Err(Error::invalid(format!("table silver.{} has no column {column:?}; {cure}", table.name)))
}

fn assigned(assignment: &Assignment) -> Result<String> {
    if let AssignmentTarget::ColumnName(name) = &assignment.target
        && let Some(ident) = name.0.last().and_then(ObjectNamePart::as_ident)
    {
        return Ok(normalized(ident));
    }
    Err(Error::invalid(format!("UPDATE sets one column at a time; write column = value instead of {assignment}")))
}

/// The assignment that moves a row's sequence on: to now for times, else by one.
fn next(sequence: &str, table: &Table, stored: &SchemaRef) -> Result<Assignment> {
    let column = stored.fields().iter().find(|field| same_column(field.name(), sequence));
    let column = column.ok_or_else(|| Error::internal(format!("silver.{} does not store its sequence", table.name)))?;
    let own = format!("\"{}\"", column.name().replace('"', "\"\""));
    let value = match column.data_type() {
        DataType::Timestamp(..) => format!("greatest(now(), {own} + INTERVAL '1 microsecond')"),
        DataType::Date32 => format!("greatest(current_date(), {own} + INTERVAL '1 day')"),
        other if other.is_numeric() => format!("{own} + 1"),
        other => {
            return Err(Error::invalid(format!(
                "UPDATE of {} has to SET {sequence} too: it is the sequence that orders changes, and of type {other} \
                 the next value can't be told",
                table.name
            )));
        }
    };
    let value = expression(&value)?;
    let target = AssignmentTarget::ColumnName(ObjectName::from(vec![Ident::with_quote('"', column.name())]));
    Ok(Assignment { target, value })
}

fn expression(sql: &str) -> Result<SqlExpr> {
    let parsed = Parser::new(&GenericDialect {}).try_with_sql(sql).and_then(|mut parser| {
        let expr = parser.parse_expr()?;
        parser.expect_token(&datafusion::sql::sqlparser::tokenizer::Token::EOF)?;
        Ok(expr)
    });
    parsed.map_err(|error| Error::invalid(format!("not an expression: {sql}")).because(error))
}

/// Refuses a WHERE that does not name rows by their whole primary key.
fn check_selection(selection: Option<&SqlExpr>, table: &Table, verb: &str) -> Result<()> {
    let mut named = Vec::new();
    let mut open: Vec<&SqlExpr> = selection.into_iter().collect();
    while let Some(expr) = open.pop() {
        match expr {
            SqlExpr::Nested(inner) => open.push(inner),
            SqlExpr::BinaryOp { left, op: BinaryOperator::And, right } => open.extend([left.as_ref(), right.as_ref()]),
            SqlExpr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                let sides = [(left, right), (right, left)];
                let fixed = sides.into_iter().filter(|(_, value)| is_fixed(value));
                named.extend(fixed.filter_map(|(column, _)| column_of(column)));
            }
            SqlExpr::InList { expr, list, negated: false } if list.iter().all(is_fixed) => {
                named.extend(column_of(expr))
            }
            _ => {}
        }
    }
    let missing = table.primary_key.iter().find(|key| !named.iter().any(|column| same_column(column, key)));
    match missing {
        None => Ok(()),
        Some(key) => Err(Error::invalid(format!(
            "{verb} of {} has to name rows by primary key: add WHERE {key} = … or {key} IN (…), joined by AND; for \
             other rows, SELECT their keys first",
            table.name
        ))),
    }
}

/// The rows that `selection` names, as they are now: a table with history has their former versions too.
fn of_current(selection: Option<SqlExpr>) -> SqlExpr {
    let current = SqlExpr::Identifier(Ident::with_quote('"', IS_CURRENT_COLUMN));
    match selection {
        None => current,
        Some(selection) => SqlExpr::BinaryOp {
            left: Box::new(SqlExpr::Nested(Box::new(selection))),
            op: BinaryOperator::And,
            right: Box::new(current),
        },
    }
}

fn column_of(expr: &SqlExpr) -> Option<String> {
    match expr {
        SqlExpr::Identifier(ident) => Some(normalized(ident)),
        SqlExpr::CompoundIdentifier(parts) => parts.last().map(normalized),
        SqlExpr::Nested(inner) => column_of(inner),
        _ => None,
    }
}

/// Whether an expression is the same for every row.
fn is_fixed(expr: &SqlExpr) -> bool {
    struct FindColumn;
    impl Visitor for FindColumn {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &SqlExpr) -> ControlFlow<()> {
            match expr {
                SqlExpr::Identifier(_) | SqlExpr::CompoundIdentifier(_) | SqlExpr::Subquery(_) => {
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        }
    }
    expr.visit(&mut FindColumn).is_continue()
}

/// The value by which a row of `table` says that it is a deletion.
fn mark(table: &Table) -> Result<(String, ScalarValue)> {
    let refused = || {
        Error::invalid(format!(
            "DELETE of {} is refused: no row can be marked as deleted unless the table's delete_when is of the form \
             column = 'value', or a boolean column; send deletions by ingest",
            table.name
        ))
    };
    let rule = table.delete_when.as_ref().ok_or_else(refused)?;
    match expression(&rule.text).map_err(|_| refused())? {
        SqlExpr::Identifier(column) => Ok((normalized(&column), ScalarValue::Boolean(Some(true)))),
        SqlExpr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
            let column = column_of(&left).ok_or_else(refused)?;
            let SqlExpr::Value(value) = *right else { return Err(refused()) };
            let value = match value.value {
                Value::SingleQuotedString(text) => ScalarValue::Utf8(Some(text)),
                Value::Boolean(flag) => ScalarValue::Boolean(Some(flag)),
                Value::Number(digits, _) => ScalarValue::Int64(Some(digits.parse().map_err(|_| refused())?)),
                _ => return Err(refused()),
            };
            Ok((column, value))
        }
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_table_with_history_the_current_versions_are_meant() {
        let either = expression("id = 1 OR id = 2").unwrap();
        assert_eq!(of_current(Some(either)).to_string(), r#"(id = 1 OR id = 2) AND "_is_current""#);
        assert_eq!(of_current(None).to_string(), r#""_is_current""#);
    }
}
