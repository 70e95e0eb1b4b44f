//! From SQL text to a plan over pinned snapshots.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use futures::StreamExt as _;
use lakehouse::{Error, Result};

use super::catalog::QueryCatalog;
use super::errors::missing_table;
use super::shape::{plain_batch, plain_schema};
use super::workers::Workers;
use super::{Versions, explain, limits};

const INFORMATION_SCHEMA: &str = "information_schema";

/// A query that is ready to run: what it gives, and what it reads.
#[derive(Debug)]
pub struct Plan {
    schema: SchemaRef,
    versions: Versions,
    physical: Arc<dyn ExecutionPlan>,
    task: Arc<TaskContext>,
}

impl Plan {
    /// The result's schema, as it is streamed.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The versions of the Delta tables that the query reads.
    pub fn versions(&self) -> &Versions {
        &self.versions
    }

    pub(super) fn execute(self, workers: &Workers) -> Result<SendableRecordBatchStream> {
        let Self { schema, physical, task, .. } = self;
        let plain = Arc::clone(&schema);
        workers.stream(Arc::clone(&schema), move || {
            let batches = execute_stream(physical, task)?;
            let batches = batches.map(move |batch| Ok(plain_batch(&batch?, &plain)?));
            Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
        })
    }
}

/// Plans `sql` in `session`, whose only catalog is `catalog`.
pub(super) async fn plan(session: SessionState, catalog: &QueryCatalog, sql: &str) -> Result<Plan> {
    limits::check_text(sql)?;
    let dialect = session.config_options().sql_parser.dialect;
    let statement = session.sql_to_statement(sql, &dialect).map_err(explain)?;
    limits::check_tree(&statement)?;
    refuse_writes(&statement)?;
    let references = session.resolve_table_references(&statement).map_err(explain)?;
    if references.iter().any(|table| table.schema() == Some(INFORMATION_SCHEMA)) {
        catalog.load_all().await?;
    }
    let logical = session.statement_to_plan(statement).await.map_err(|error| {
        let explained = explain(error);
        match missing_table(&explained.to_string()) {
            Some((database, schema, table)) => catalog.missing(database, schema, table),
            None => explained,
        }
    })?;
    check(&logical)?;
    let physical = session.create_physical_plan(&logical).await.map_err(explain)?;
    Ok(Plan {
        schema: plain_schema(&physical.schema()),
        versions: catalog.versions(),
        physical,
        task: session.task_ctx(),
    })
}

/// Lets only statements through that read; names the way to do what others would.
fn refuse_writes(statement: &Statement) -> Result<()> {
    let inner = match statement {
        Statement::Explain(explained) => return refuse_writes(&explained.statement),
        Statement::Statement(inner) => inner.as_ref(),
        other => return Err(read_only(&other.to_string())),
    };
    match inner {
        SqlStatement::Explain { statement, .. } => refuse_writes(&Statement::Statement(statement.clone())),
        SqlStatement::Query(_)
        | SqlStatement::ExplainTable { .. }
        | SqlStatement::ShowTables { .. }
        | SqlStatement::ShowColumns { .. }
        | SqlStatement::ShowFunctions { .. }
        | SqlStatement::ShowVariable { .. } => Ok(()),
        SqlStatement::StartTransaction { .. } | SqlStatement::Commit { .. } | SqlStatement::Rollback { .. } => {
            Err(Error::invalid(
                "there are no transactions over SQL: each query reads one snapshot; leave the statement out \
                 (autocommit)",
            ))
        }
        SqlStatement::Set(_) | SqlStatement::Use(_) => Err(Error::invalid(
            "a session has no settings over SQL; set the default schema as a Flight SQL session option, \
             or qualify names (silver.flights)",
        )),
        other => Err(read_only(&other.to_string())),
    }
}

fn read_only(statement: &str) -> Error {
    let verb: String = statement.split_whitespace().next().unwrap_or("this").to_uppercase();
    Error::invalid(format!(
        "{verb} is refused: Mallard is read-only over SQL; send rows by ingest \
         (adbc_ingest with mode \"append\") into a silver table, and declare gold tables as models"
    ))
}

/// Refuses what only the plan shows: writes inside a query, and parameters.
fn check(logical: &LogicalPlan) -> Result<()> {
    let reads = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    reads.verify_plan(logical).map_err(|error| {
        let reason = explain(error);
        Error::invalid(format!("{reason}: Mallard is read-only over SQL; send rows by ingest into a silver table"))
    })?;
    let mut parameters: Vec<String> = logical.get_parameter_names().map_err(explain)?.into_iter().collect();
    if !parameters.is_empty() {
        parameters.sort();
        let parameters = parameters.join(", ");
        return Err(Error::invalid(format!(
            "the statement has parameters ({parameters}), which can't be bound yet; write the values into the SQL"
        )));
    }
    Ok(())
}
