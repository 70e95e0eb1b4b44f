//! From a statement to a plan over pinned snapshots.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties as _, execute_stream};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use datafusion_substrait::logical_plan::consumer::from_substrait_plan;
use datafusion_substrait::substrait::proto::Plan as SubstraitPlan;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use lakehouse::{Error, Result};
use prost::Message as _;

use super::catalog::{INFORMATION_SCHEMA, QueryCatalog};
use super::changes::{self, Change, Rewritten};
use super::errors::missing_table;
use super::interrupt::Interrupt;
use super::memory::QueryMemory;
use super::parameters::{PARAMETER_ROWS_MAX, Parameters};
use super::request::{QueryText, Request, Slice};
use super::shape::{plain_batch, plain_schema};
use super::workers::Workers;
use super::{Versions, explain, limits, session, slices, text};

/// What a statement gives and takes, before values are bound to its parameters.
#[derive(Clone, Debug)]
pub struct Description {
    /// The columns of its result; none if it writes.
    pub schema: SchemaRef,
    /// Its parameters, a column each.
    pub parameters: SchemaRef,
    /// Whether it writes.
    pub is_update: bool,
}

/// A statement that is ready to run: what it gives, and what it reads.
#[derive(Debug)]
pub struct Plan {
    id: String,
    kind: &'static str,
    shown: String,
    schema: SchemaRef,
    versions: Versions,
    planned_at_us: i64,
    change: Option<Change>,
    slices: u32,
    partitions: u32,
    fingerprint: u64,
    slice: Option<Slice>,
    files: u64,
    /// One for each row of parameters.
    runs: Vec<Arc<dyn ExecutionPlan>>,
    task: Arc<TaskContext>,
    pub(super) memory: Arc<QueryMemory>,
    /// Stops the operators once the plan, or who took this, is dropped.
    pub(super) interrupt: Interrupt,
    /// The client's own limit, in milliseconds.
    pub(super) timeout_ms: Option<u64>,
}

impl Plan {
    /// The query's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `select`, `insert`, `show` and so on, for the log.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The statement, for the log.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// The schema of the rows, as they are streamed. A change's rows are those to ingest.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The versions of the Delta tables that are read.
    pub fn versions(&self) -> &Versions {
        &self.versions
    }

    /// What `now()` is, in microseconds since the epoch.
    pub fn planned_at_us(&self) -> i64 {
        self.planned_at_us
    }

    /// What the rows are to do; `None` if the statement only reads.
    pub fn change(&self) -> Option<&Change> {
        self.change.as_ref()
    }

    /// The slices that the result can be read by, at least one.
    pub fn slices(&self) -> impl Iterator<Item = Slice> + use<> {
        let (partitions, fingerprint) = (self.partitions, self.fingerprint);
        (0..self.slices).map(move |index| Slice { index, partitions, fingerprint })
    }

    /// Whether the rows have an order.
    pub fn is_ordered(&self) -> bool {
        self.runs.first().is_some_and(|plan| plan.output_ordering().is_some())
    }

    /// Bytes of the files that are to be read.
    pub fn file_bytes(&self) -> u64 {
        self.runs.iter().map(slices::file_bytes).sum()
    }

    /// How many files the tables have that are read.
    pub(super) fn files(&self) -> u64 {
        self.files
    }

    /// The operators, whose metrics tell how far the work is.
    pub(super) fn operators(&self) -> Vec<Arc<dyn ExecutionPlan>> {
        self.runs.clone()
    }

    pub(super) fn execute(self, workers: &Workers) -> Result<SendableRecordBatchStream> {
        let Self { schema, runs, task, slice, .. } = self;
        let plain = Arc::clone(&schema);
        workers.stream(Arc::clone(&schema), move || {
            let open = move |plan: Arc<dyn ExecutionPlan>| match slice {
                Some(slice) => plan.execute(slice.index as usize, Arc::clone(&task)),
                None => execute_stream(plan, Arc::clone(&task)),
            };
            // One after the other, each opened when the one before it has ended.
            let batches = stream::iter(runs).map(open).try_flatten();
            let batches = batches.map(move |batch| Ok(plain_batch(&batch?, &plain)?));
            Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
        })
    }
}

/// How to plan.
pub(super) struct Planner {
    pub(super) session: SessionState,
    pub(super) catalog: Arc<QueryCatalog>,
    pub(super) memory: Arc<QueryMemory>,
    pub(super) planned_at_us: i64,
    pub(super) slice_bytes: u64,
}

/// A statement that is understood, and not bound to values yet.
struct Logical {
    plan: LogicalPlan,
    kind: &'static str,
    change: Option<Change>,
    parameters: Parameters,
}

impl Planner {
    pub(super) async fn describe(self, request: &Request) -> Result<Description> {
        let Logical { plan, change, parameters, .. } = self.logical(&request.text).await?;
        let schema = if change.is_some() {
            Arc::new(Schema::empty())
        } else if parameters.is_empty() {
            plain_schema(&self.physical(&plan, None).await?.schema())
        } else {
            match self.with_nulls(&plan, &parameters).await {
                Some(run) => plain_schema(&run.schema()),
                None => plain_schema(plan.schema().as_arrow()),
            }
        };
        Ok(Description { schema, parameters: parameters.schema(), is_update: change.is_some() })
    }

    pub(super) async fn plan(self, request: Request) -> Result<Plan> {
        let shown = request.text.shown();
        let Logical { plan, kind, change, parameters } = self.logical(&request.text).await?;
        let values = request.parameters.as_ref().filter(|values| values.num_columns() > 0);
        parameters.check(values)?;
        let unbound = plan.clone();
        let logical = match values {
            None => vec![plan],
            Some(values) => bound(plan, &parameters, values, change.is_some())?,
        };
        // Rows of a change become frames, whose numbers must stand for the same rows at a second try.
        let one_partition = change.is_some().then_some(1);
        let slice = request.pinned.as_ref().and_then(|pinned| pinned.slice);
        let mut runs = Vec::with_capacity(logical.len());
        for plan in &logical {
            runs.push(self.physical(plan, slice.map(|slice| slice.partitions).or(one_partition)).await?);
        }
        let (mut slices, mut partitions, mut fingerprint) = (1, 1, 0);
        if let ([run], Some(slice)) = (runs.as_slice(), slice) {
            if slices::fingerprint(run) != slice.fingerprint || slices::count(run) <= slice.index {
                return Err(Error::unavailable(
                    "this server would cut the result elsewhere than the one that planned it; plan the query again \
                     (GetFlightInfo)",
                ));
            }
        } else if let ([run], [plan], None) = (runs.as_slice(), logical.as_slice(), &change) {
            let wanted = slices::wanted(slices::file_bytes(run), self.slice_bytes, request.session.max_endpoints);
            if wanted > 1 && slices::count(run) > 0 {
                let sliced = self.physical(plan, Some(wanted)).await?;
                if slices::count(&sliced) > 1 {
                    (slices, partitions) = (slices::count(&sliced), wanted);
                    fingerprint = slices::fingerprint(&sliced);
                }
            }
        }
        // A parameter may be NULL, whatever the values are: as it was told when the statement was prepared.
        let with_nulls = match (logical.first(), values, &change) {
            (Some(_), Some(_), None) => self.with_nulls(&unbound, &parameters).await,
            _ => None,
        };
        let schema = common_schema(&runs, with_nulls.as_ref())?;
        let interrupt = Interrupt::default();
        let runs = runs.into_iter().map(|run| interrupt.install(run).map_err(explain)).collect::<Result<Vec<_>>>()?;
        let task = match slice {
            None => self.session.task_ctx(),
            Some(slice) => session::with_partitions(&self.session, slice.partitions as usize).task_ctx(),
        };
        Ok(Plan {
            id: request.id,
            kind,
            shown,
            schema,
            versions: self.catalog.versions(),
            planned_at_us: self.planned_at_us,
            change,
            slices,
            partitions,
            fingerprint,
            slice,
            files: self.catalog.files(),
            runs,
            task,
            memory: self.memory,
            interrupt,
            timeout_ms: request.session.timeout_ms,
        })
    }

    async fn logical(&self, text: &QueryText) -> Result<Logical> {
        let (plan, kind, change) = match text {
            QueryText::Sql(sql) => self.sql(sql).await?,
            QueryText::Substrait(plan) => (self.substrait(plan).await?, "substrait", None),
        };
        check(&plan)?;
        let parameters = Parameters::of(&plan)?;
        Ok(Logical { plan, kind, change, parameters })
    }

    async fn sql(&self, sql: &str) -> Result<(LogicalPlan, &'static str, Option<Change>)> {
        limits::check_text(sql)?;
        let sql = text::rewrite(sql)?;
        let dialect = self.session.config_options().sql_parser.dialect;
        let statement = self.session.sql_to_statement(&sql, &dialect).map_err(|error| {
            let explained = explain(error);
            let has_several = explained.to_string().contains("single SQL statement");
            if has_several { Error::invalid("there are several statements; send one at a time") } else { explained }
        })?;
        limits::check_tree(&statement)?;
        let rewritten = changes::rewrite(&statement, &self.catalog).await?;
        let kind = match &rewritten {
            Some(rewritten) => rewritten.change.verb,
            None => reading(&statement)?,
        };
        let statement = rewritten.as_ref().map_or(statement, |rewritten| rewritten.statement.clone());
        let plan = self.to_plan(statement).await?;
        match rewritten {
            None => Ok((plan, kind, None)),
            Some(rewritten) => {
                let rows = Rewritten::rows(&rewritten, plan)?;
                Ok((rows, kind, Some(rewritten.change)))
            }
        }
    }

    async fn to_plan(&self, statement: Statement) -> Result<LogicalPlan> {
        let references = self.session.resolve_table_references(&statement).map_err(explain)?;
        if references.iter().any(|table| table.schema() == Some(INFORMATION_SCHEMA)) {
            self.catalog.load_all().await?;
        }
        self.session.statement_to_plan(statement).await.map_err(|error| {
            let explained = explain(error);
            match missing_table(&explained.to_string()) {
                Some((database, schema, table)) => self.catalog.missing(database, schema, table),
                None => with_hint(explained),
            }
        })
    }

    async fn substrait(&self, plan: &Bytes) -> Result<LogicalPlan> {
        let foreign = || Error::invalid("the Substrait plan can't be decoded; send a substrait.Plan message");
        let plan = SubstraitPlan::decode(plan.as_ref()).map_err(|error| foreign().because(error))?;
        if plan.relations.is_empty() {
            return Err(Error::invalid("the Substrait plan has no relation; send one with a root"));
        }
        // The consumer takes for granted what the format only recommends.
        let consumed = AssertUnwindSafe(from_substrait_plan(&self.session, &plan)).catch_unwind().await;
        consumed
            .map_err(|_| Error::invalid("the Substrait plan lacks a part that its relations need; make it anew"))?
            .map_err(|error| {
                let explained = explain(error);
                Error::new(explained.kind(), format!("Substrait: {explained}"))
            })
    }

    /// The operators for `plan` if all its parameters are NULL; `None` if they may not be.
    async fn with_nulls(&self, plan: &LogicalPlan, parameters: &Parameters) -> Option<Arc<dyn ExecutionPlan>> {
        self.physical(&parameters.bind_nulls(plan.clone()).ok()?, None).await.ok()
    }

    /// The operators for `plan`, working on as many `partitions` at once; by default one a core.
    async fn physical(&self, plan: &LogicalPlan, partitions: impl Into<Option<u32>>) -> Result<Arc<dyn ExecutionPlan>> {
        match partitions.into() {
            None => self.session.create_physical_plan(plan).await.map_err(explain),
            Some(partitions) => {
                let session = session::with_partitions(&self.session, partitions as usize);
                session.create_physical_plan(plan).await.map_err(explain)
            }
        }
    }
}

/// The schema of the rows of all runs, which differ in the columns that may be NULL, as their values do.
fn common_schema(runs: &[Arc<dyn ExecutionPlan>], with_nulls: Option<&Arc<dyn ExecutionPlan>>) -> Result<SchemaRef> {
    let nothing = || Error::internal("a statement was planned to nothing");
    let schema = plain_schema(&runs.first().ok_or_else(nothing)?.schema());
    let all = || runs.iter().chain(with_nulls);
    let is_nullable = |at: usize| all().any(|run| run.schema().fields().get(at).is_some_and(|f| f.is_nullable()));
    let fields = schema.fields().iter().enumerate();
    let fields: Vec<_> = fields.map(|(at, field)| field.as_ref().clone().with_nullable(is_nullable(at))).collect();
    Ok(Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())))
}

/// `plan` with values, once for each row of them; an INSERT of parameters takes all rows at once.
fn bound(
    plan: LogicalPlan,
    parameters: &Parameters,
    values: &RecordBatch,
    is_change: bool,
) -> Result<Vec<LogicalPlan>> {
    let rows = values.num_rows();
    if is_change
        && rows > 1
        && let Some(all) = changes::over_all(&plan, parameters, values)?
    {
        return Ok(vec![all]);
    }
    if rows > PARAMETER_ROWS_MAX {
        return Err(Error::exhausted(format!(
            "{rows} rows of parameters were bound, and the statement is planned for each; the most is \
             {PARAMETER_ROWS_MAX}: bind fewer at a time, or send rows by ingest"
        )));
    }
    (0..rows).map(|row| parameters.bind(plan.clone(), values, row)).collect()
}

/// What kind of reading a statement does; refuses those that do something else, and names the way to do that.
fn reading(statement: &Statement) -> Result<&'static str> {
    let inner = match statement {
        Statement::Explain(explained) => return reading(&explained.statement).map(|_| "explain"),
        Statement::Statement(inner) => inner.as_ref(),
        other => return Err(refused(&other.to_string())),
    };
    match inner {
        SqlStatement::Explain { statement, .. } => reading(&Statement::Statement(statement.clone())).map(|_| "explain"),
        SqlStatement::Query(_) => Ok("select"),
        SqlStatement::ExplainTable { .. } => Ok("describe"),
        SqlStatement::ShowTables { .. }
        | SqlStatement::ShowColumns { .. }
        | SqlStatement::ShowFunctions { .. }
        | SqlStatement::ShowVariable { .. } => Ok("show"),
        SqlStatement::StartTransaction { .. } | SqlStatement::Commit { .. } | SqlStatement::Rollback { .. } => {
            Err(Error::invalid(
                "there are no transactions over SQL: each query reads one snapshot, each ingest is kept as a whole; \
                 leave the statement out (autocommit)",
            ))
        }
        SqlStatement::Set(_) | SqlStatement::Use(_) => Err(Error::invalid(
            "a session has no settings over SQL; set Flight SQL session options (schema, as_of, timeout, …), \
             or qualify names (silver.flights)",
        )),
        other => Err(refused(&other.to_string())),
    }
}

/// Operators on parameters alone tell no types.
fn with_hint(error: Error) -> Error {
    let message = error.to_string();
    if !message.contains("infer common") || !message.contains("Null") {
        return error;
    }
    let hint = "if these are parameters, give them a type, as in CAST($1 AS VARCHAR)";
    Error::new(error.kind(), format!("{message}; {hint}"))
}

fn refused(statement: &str) -> Error {
    let verb: String = statement.split_whitespace().next().unwrap_or("this").to_uppercase();
    let instead = match verb.as_str() {
        "CREATE" | "ALTER" | "DROP" | "TRUNCATE" | "COMMENT" | "RENAME" => {
            "tables and models are declared in the definition (lakehouse.toml); an ingest in mode \"create\" can make a \
             table where the definition has allow_create = true"
        }
        "MERGE" | "REPLACE" | "UPSERT" => {
            "INSERT or ingest the new rows: those of a table with a primary key replace the stored rows of their key"
        }
        "COPY" | "LOAD" | "UNLOAD" | "EXPORT" | "ATTACH" | "INSTALL" => {
            "files are not read or written over SQL; fetch results over Flight, send rows by ingest (adbc_ingest with \
             mode \"append\")"
        }
        "INSERT" | "UPDATE" | "DELETE" => "what writes can't be explained; EXPLAIN the SELECT behind it",
        "GRANT" | "REVOKE" | "DENY" => "there are no privileges to give over SQL",
        "PREPARE" | "EXECUTE" | "DEALLOCATE" => "prepare statements over Flight SQL, as drivers do",
        "VACUUM" | "OPTIMIZE" | "ANALYZE" => "tables are looked after by Mallard itself",
        _ => {
            "SELECT reads, INSERT adds rows to silver tables, UPDATE and DELETE change them by primary key; everything \
             else is done by ingest and in the definition"
        }
    };
    Error::invalid(format!("{verb} is refused: {instead}"))
}

/// Refuses what only the plan shows: writes inside a query.
fn check(logical: &LogicalPlan) -> Result<()> {
    let reads = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    reads.verify_plan(logical).map_err(|error| {
        let reason = explain(error);
        Error::invalid(format!("{reason}: only INSERT, UPDATE and DELETE write, to silver tables, and by themselves"))
    })
}
