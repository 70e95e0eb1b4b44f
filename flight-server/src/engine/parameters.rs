//! Parameters of statements: which there are, of what types, and putting values in.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::metadata::ScalarAndMetadata;
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::logical_expr::expr::Placeholder;
use datafusion::logical_expr::{Expr, LogicalPlan};
use lakehouse::{Error, Result};

use super::{explain, plain_schema};

/// The most rows of values that a query is run for. Each is planned by itself; an INSERT takes any number.
pub const PARAMETER_ROWS_MAX: usize = 1_000;

/// The most parameters of a statement; PostgreSQL's wire protocol has the same bound.
const PARAMETERS_MAX: usize = 65_535;

/// The parameters of a statement, by place, with the types that their surroundings give them: a count behind LIMIT;
/// none where nothing tells, and a value of any type is taken as it is.
#[derive(Clone, Debug)]
pub(super) struct Parameters(Vec<Option<DataType>>);

impl Parameters {
    /// Those of `plan`.
    pub(super) fn of(plan: &LogicalPlan) -> Result<Self> {
        let found = plan.get_parameter_types().map_err(explain)?;
        if found.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let counts = limits(plan)?;
        let mut by_place: BTreeMap<usize, Option<DataType>> = BTreeMap::new();
        for (id, data_type) in found {
            let place = place(&id)?;
            let count = || counts.contains(&id).then_some(DataType::Int64);
            by_place.insert(place, data_type.filter(|known| *known != DataType::Null).or_else(count));
        }
        let last = by_place.keys().next_back().copied().unwrap_or_default();
        if last > PARAMETERS_MAX {
            return Err(Error::exhausted(format!(
                "the statement names parameter ${last}; the most is {PARAMETERS_MAX}"
            )));
        }
        Ok(Self((1..=last).map(|place| by_place.remove(&place).flatten()).collect()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As a client is told: a column each, called by its place; of text where any type is taken, of times in
    /// milliseconds. The JDBC driver binds those whatever the unit is; who binds finer ones loses nothing.
    pub(super) fn schema(&self) -> SchemaRef {
        let fields = self.0.iter().zip(1..).map(|(data_type, place)| {
            let told = match data_type {
                None => DataType::Utf8,
                Some(DataType::Timestamp(_, zone)) => DataType::Timestamp(TimeUnit::Millisecond, zone.clone()),
                Some(DataType::Time32(_) | DataType::Time64(_)) => DataType::Time32(TimeUnit::Millisecond),
                Some(other) => other.clone(),
            };
            Field::new(format!("${place}"), told, true)
        });
        plain_schema(&Schema::new(fields.collect::<Vec<_>>()))
    }

    /// Checks that `values` has a column for each.
    pub(super) fn check(&self, values: Option<&RecordBatch>) -> Result<()> {
        let given = values.map_or(0, RecordBatch::num_columns);
        if given != self.0.len() {
            return Err(Error::invalid(format!(
                "parameters: the statement has {}, and {given} were bound; bind a value to each",
                self.0.len()
            )));
        }
        if given > 0 && values.is_none_or(|values| values.num_rows() == 0) {
            return Err(Error::invalid("parameters were bound without a row of values; bind one row at least"));
        }
        Ok(())
    }

    /// The type of the parameter at a place, from 0.
    pub(super) fn data_type(&self, place: usize) -> Option<&DataType> {
        self.0.get(place)?.as_ref()
    }

    /// `plan` with NULLs, of text where any type is taken.
    pub(super) fn bind_nulls(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let nulls = self.0.iter().map(|data_type| {
            let null = ScalarValue::try_new_null(data_type.as_ref().unwrap_or(&DataType::Utf8)).map_err(explain)?;
            Ok(ScalarAndMetadata::new(null, None))
        });
        plan.with_param_values(ParamValues::List(nulls.collect::<Result<_>>()?)).map_err(explain)
    }

    /// `plan` with the values of one row.
    pub(super) fn bind(&self, plan: LogicalPlan, values: &RecordBatch, row: usize) -> Result<LogicalPlan> {
        let unreadable = |error| Error::invalid("a parameter's value can't be read").because(error);
        let scalars = values.columns().iter().zip(&self.0).map(|(column, data_type)| {
            let value = ScalarValue::try_from_array(column, row).map_err(unreadable)?;
            // A value that does not fit as it is, is left to the comparison, which widens.
            let cast = data_type.as_ref().and_then(|data_type| value.cast_to(data_type).ok());
            let cast = cast.filter(|cast| cast.cast_to(&value.data_type()).is_ok_and(|back| back == value));
            Ok(ScalarAndMetadata::new(cast.unwrap_or(value), None))
        });
        let scalars = scalars.collect::<Result<Vec<_>>>()?;
        plan.with_param_values(ParamValues::List(scalars)).map_err(explain)
    }
}

/// The place of a parameter, from 1: `$3` is 3.
pub(super) fn place(id: &str) -> Result<usize> {
    let digits = id.strip_prefix('$').unwrap_or(id);
    digits.parse().ok().filter(|place| *place > 0).ok_or_else(|| {
        Error::invalid(format!("parameter {id} has a name; number parameters ($1, $2) or write question marks"))
    })
}

/// The parameters that say how many rows to give or to skip.
fn limits(plan: &LogicalPlan) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Limit(limit) = node {
            for count in [&limit.skip, &limit.fetch].into_iter().flatten() {
                count.apply(|expr| {
                    if let Expr::Placeholder(Placeholder { id, .. }) = expr {
                        ids.push(id.clone());
                    }
                    Ok(TreeNodeRecursion::Continue)
                })?;
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map_err(explain)?;
    Ok(ids)
}

/// One batch of all `batches`, for handles that carry values.
///
/// # Errors
/// `Invalid` if they differ in their columns.
pub fn one_batch(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<RecordBatch> {
    arrow::compute::concat_batches(schema, batches)
        .map_err(|error| Error::invalid("the rows of parameters differ in their columns").because(error))
}
