//! Puts the rows of some files in order, spilling what does not fit in memory.

use std::fmt;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::{Column, DataFusionError};
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::{Expr, SortExpr};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::prelude::SessionContext;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use lakehouse::{Context as _, Error, Kind, Result};

use crate::zorder::{ZOrder, with_column};

/// The column by which rows are sorted along the curve. No table has it: it is taken off before rows are written.
const PLACE_COLUMN: &str = "_place_on_curve";

type Rows = BoxStream<'static, Result<RecordBatch>>;

/// The rows sorted by these columns, the first one counting most.
pub(crate) async fn sorted(rows: Rows, schema: &SchemaRef, columns: &[String], session: &SessionState) -> Result<Rows> {
    let order: Vec<SortExpr> = columns.iter().map(|column| ascending(column)).collect();
    if order.is_empty() { Ok(rows) } else { run(rows, &nullable(schema), order, session).await }
}

/// The rows sorted along a curve.
pub(crate) async fn curved(rows: Rows, schema: &SchemaRef, curve: ZOrder, session: &SessionState) -> Result<Rows> {
    let width = schema.fields().len();
    let mut fields: Vec<Field> = nullable(schema).fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(Field::new(PLACE_COLUMN, DataType::UInt64, false));
    let wide: SchemaRef = Arc::new(Schema::new(fields));
    let its_schema = Arc::clone(&wide);
    let placed = rows.map(move |batch| {
        let batch = batch?;
        let places = curve.places(&batch)?;
        with_column(&batch, &its_schema, Arc::new(places))
    });
    let sorted = run(placed.boxed(), &wide, vec![ascending(PLACE_COLUMN)], session).await?;
    let narrow = move |batch: Result<RecordBatch>| {
        batch?
            .project(&(0..width).collect::<Vec<_>>())
            .map_err(|error| Error::internal("can't take the place off a row").because(error))
    };
    Ok(sorted.map(narrow).boxed())
}

fn ascending(column: &str) -> SortExpr {
    Expr::Column(Column::new_unqualified(column)).sort(true, true)
}

/// Files are read as if all columns could be NULL: those that a file does not have are.
fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

async fn run(rows: Rows, schema: &SchemaRef, order: Vec<SortExpr>, session: &SessionState) -> Result<Rows> {
    let what = || "can't sort rows".to_owned();
    let rows = rows.map_err(|error| DataFusionError::External(Box::new(error)));
    let rows: SendableRecordBatchStream = Box::pin(RecordBatchStreamAdapter::new(Arc::clone(schema), rows));
    let once = Once { schema: Arc::clone(schema), rows: Mutex::new(Some(rows)) };
    let table = StreamingTable::try_new(Arc::clone(schema), vec![Arc::new(once)]).context(Kind::Internal, what)?;
    let context = SessionContext::new_with_state(session.clone());
    let frame = context.read_table(Arc::new(table)).context(Kind::Internal, what)?;
    let frame = frame.sort(order).context(Kind::Internal, what)?;
    let sorted = frame.execute_stream().await.map_err(failed)?;
    Ok(sorted.map_err(failed).boxed())
}

/// An error of DataFusion's, which may hold one of ours that came through it.
fn failed(error: DataFusionError) -> Error {
    let kind = match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => Kind::Exhausted,
        DataFusionError::External(ours) => ours.downcast_ref::<Error>().map_or(Kind::Internal, Error::kind),
        _ => Kind::Internal,
    };
    Error::new(kind, "can't sort rows").because(error)
}

/// A stream that is read once.
struct Once {
    schema: SchemaRef,
    rows: Mutex<Option<SendableRecordBatchStream>>,
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl PartitionStream for Once {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let taken = self.rows.lock().ok().and_then(|mut rows| rows.take());
        taken.unwrap_or_else(|| {
            let again = DataFusionError::Internal("rows to be sorted are read a second time".to_owned());
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream::iter([Err(again)])))
        })
    }
}
