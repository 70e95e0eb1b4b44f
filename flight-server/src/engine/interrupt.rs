//! Ends the work of a query that nobody wants any more.
//!
//! A worker notices that its stream was dropped when it next waits, and some operators compute for minutes before they
//! do: a nested loop join looks at every pair of rows of two inputs between two waits. So joins, which can make much of
//! little, are made to give way after every few batches, and the conditions that they try on pairs of rows look whether
//! the query is still wanted, and let others have the thread for a while. Plans look the same otherwise.

use std::cell::Cell;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::tree_node::{Transformed, TransformedResult as _, TreeNode as _};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder, PiecewiseMergeJoinExec,
    SortMergeJoinExec,
};
use datafusion::physical_plan::unnest::UnnestExec;

/// How long a thread computes before its other tasks are given to another thread.
const TURN: Duration = Duration::from_millis(10);

thread_local! {
    static TURN_BEGAN: Cell<Instant> = Cell::new(Instant::now());
}

fn is_turn_over() -> bool {
    let now = Instant::now();
    let is_over = now - TURN_BEGAN.get() > TURN;
    if is_over {
        TURN_BEGAN.set(now);
    }
    is_over
}

/// Tells a query's operators to stop, at the latest when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// `plan` with operators that listen.
    pub(super) fn install(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let Some(listening) = self.listening(&node)? else { return Ok(Transformed::no(node)) };
            Ok(Transformed::yes(Arc::new(CooperativeExec::new(listening)) as _))
        })
        .data()
    }

    /// A node that can compute for long, with its condition listening; `None` for other nodes.
    fn listening(&self, node: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
            let filter = join.filter().map(|filter| self.filter(filter));
            let join = NestedLoopJoinExecBuilder::from(join).with_filter(filter).build()?;
            return Ok(Some(Arc::new(join)));
        }
        if let Some(join) = node.downcast_ref::<HashJoinExec>() {
            let filter = join.filter().map(|filter| self.filter(filter));
            return join.builder().with_filter(filter).build_exec().map(Some);
        }
        let is_long = node.is::<CrossJoinExec>()
            || node.is::<SortMergeJoinExec>()
            || node.is::<PiecewiseMergeJoinExec>()
            || node.is::<UnnestExec>();
        Ok(is_long.then(|| Arc::clone(node)))
    }

    fn filter(&self, filter: &JoinFilter) -> JoinFilter {
        let condition = Wanted { inner: Arc::clone(filter.expression()), is_over: Arc::clone(&self.0) };
        JoinFilter::new(Arc::new(condition), filter.column_indices().to_vec(), Arc::clone(filter.schema()))
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// An expression that fails once its query is over.
#[derive(Debug)]
struct Wanted {
    inner: Arc<dyn PhysicalExpr>,
    is_over: Arc<AtomicBool>,
}

impl PartialEq for Wanted {
    fn eq(&self, other: &Self) -> bool {
        self.inner.eq(&other.inner)
    }
}

impl Eq for Wanted {}

impl Hash for Wanted {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl PhysicalExpr for Wanted {
    fn data_type(&self, input_schema: &Schema) -> Result<DataType> {
        self.inner.data_type(input_schema)
    }

    fn nullable(&self, input_schema: &Schema) -> Result<bool> {
        self.inner.nullable(input_schema)
    }

    fn return_field(&self, input_schema: &Schema) -> Result<FieldRef> {
        self.inner.return_field(input_schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        if self.is_over.load(Ordering::Relaxed) {
            return Err(DataFusionError::Execution("the query is over".to_owned()));
        }
        if is_turn_over() {
            // Other queries' tasks go on with another thread, until this one waits.
            tokio::task::block_in_place(|| self.inner.evaluate(batch))
        } else {
            self.inner.evaluate(batch)
        }
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let inner = children.pop().unwrap_or_else(|| Arc::clone(&self.inner));
        Ok(Arc::new(Self { inner, is_over: Arc::clone(&self.is_over) }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}
