//! Which rows of quarantine a user means: a condition in SQL over its columns, and nothing else.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::TreeNode as _;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, ExprSchemable as _, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use lakehouse::{Error, Result};

use crate::quarantine::quarantine_schema;

/// The longest condition, in bytes: it lies in the commit that claims the rows.
const FILTER_BYTES_MAX: usize = 64 << 10;

/// The condition that `filter` is.
pub(super) fn parse(session: &SessionState, filter: &str) -> Result<Expr> {
    if filter.len() > FILTER_BYTES_MAX {
        return Err(Error::invalid(format!(
            "the condition of the replay has {} bytes; the most is {FILTER_BYTES_MAX}: replay in several steps",
            filter.len()
        )));
    }
    let wrong = |error: DataFusionError| refuse(filter, "it can't be read").because(error);
    let schema = DFSchema::try_from(quarantine_schema()).map_err(wrong)?;
    let expr = session.create_logical_expr(filter, &schema).map_err(wrong)?;
    if let Some(what) = forbidden(&expr).map_err(wrong)? {
        return Err(refuse(filter, &format!("{what} is not taken here")));
    }
    let context = SimplifyContext::builder().with_schema(Arc::new(schema.clone())).build();
    let expr = ExprSimplifier::new(context).coerce(expr, &schema).map_err(wrong)?;
    match expr.get_type(&schema).map_err(wrong)? {
        DataType::Boolean => Ok(expr),
        other => Err(refuse(filter, &format!("it is {other}, not true or false"))),
    }
}

fn refuse(filter: &str, what: &str) -> Error {
    let schema = quarantine_schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    Error::invalid(format!(
        "{filter:?} says not which rows to replay: {what}; give a condition in SQL over the columns {}, such as \
         rule = 'not_negative' AND quarantined_at > '2026-01-31'",
        names.join(", ")
    ))
}

/// What in a condition reads more than the row, or gives something else each time.
fn forbidden(expr: &Expr) -> Result<Option<String>, DataFusionError> {
    let mut found = None;
    expr.apply(|part| {
        let what = match part {
            Expr::Column(_)
            | Expr::Literal(..)
            | Expr::BinaryExpr(_)
            | Expr::Like(_)
            | Expr::SimilarTo(_)
            | Expr::Not(_)
            | Expr::IsNotNull(_)
            | Expr::IsNull(_)
            | Expr::IsTrue(_)
            | Expr::IsFalse(_)
            | Expr::IsUnknown(_)
            | Expr::IsNotTrue(_)
            | Expr::IsNotFalse(_)
            | Expr::IsNotUnknown(_)
            | Expr::Negative(_)
            | Expr::Between(_)
            | Expr::Case(_)
            | Expr::Cast(_)
            | Expr::InList(_) => None,
            Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Volatile => None,
            Expr::ScalarFunction(call) => Some(format!("the function {}", call.func.name())),
            Expr::AggregateFunction(_) | Expr::WindowFunction(_) => Some("what sums up rows".to_owned()),
            Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) | Expr::SetComparison(_) => {
                Some("a subquery".to_owned())
            }
            other => Some(other.to_string()),
        };
        found = found.take().or(what);
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use lakehouse::{Kind, delta};

    use super::*;

    fn parsed(filter: &str) -> Result<Expr> {
        parse(&delta::session(64 << 20, 1 << 30), filter)
    }

    #[test]
    fn conditions_over_the_columns_are_taken() {
        for filter in [
            "rule = 'short'",
            "rule IN ('short', 'type') AND NOT (reason LIKE '%x%')",
            "quarantined_at > '2026-01-31T12:00:00Z' OR line BETWEEN 1 AND 17",
            "object IS NULL AND lower(rule) = 'short'",
            "true",
        ] {
            assert!(parsed(filter).is_ok(), "{filter}: {:?}", parsed(filter));
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_columns_there_are() {
        for filter in [
            "",
            "nosuch = 1",
            "rule",
            "rule = 'a'; DROP TABLE t",
            "frame IN (SELECT 1)",
            "EXISTS (SELECT 1)",
            "random() < 0.5",
            "count(*) > 1",
            "rule = $1",
        ] {
            let error = parsed(filter).expect_err(filter);
            assert_eq!(error.kind(), Kind::Invalid, "{filter}");
            assert!(error.to_string().contains("row_json"), "{filter}: {error}");
        }
    }
}
