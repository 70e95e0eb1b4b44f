//! Functions that make much of little, with a limit on what they make.
//!
//! `repeat('x', 2000000000)` is a short text, and constant, so it would be computed while the query is planned; no pool
//! counts what it takes, and an allocation that fails takes the process along. So what such a function would make is
//! estimated before it is called, from the sizes of its arguments.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _};
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{FunctionRegistry as _, SessionState};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};
use lakehouse::Error;

/// The most bytes that a function may make of one row's arguments.
pub const VALUE_BYTES_MAX: u64 = 64 << 20;

/// The most bytes that it may make of a batch of rows.
const BATCH_BYTES_MAX: u64 = 512 << 20;

const FUNCTIONS: [(&str, Growth); 8] = [
    ("repeat", Growth::Repeat),
    ("array_repeat", Growth::Repeat),
    ("lpad", Growth::Pad),
    ("rpad", Growth::Pad),
    ("replace", Growth::Replace),
    ("regexp_replace", Growth::Replace),
    ("range", Growth::Sequence),
    ("generate_series", Growth::Sequence),
];

/// How large a function's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Growth {
    /// The first argument as often as the second says.
    Repeat,
    /// As many characters as the second argument says.
    Pad,
    /// At most the third argument beside each byte of the first.
    Replace,
    /// Numbers from the first argument to the second, by steps of the third.
    Sequence,
}

/// Replaces the functions in `session` by their bounded ones.
pub(super) fn bound(session: &mut SessionState) -> Result<()> {
    for (name, growth) in FUNCTIONS {
        let inner = session.udf(name)?;
        session.register_udf(Arc::new(ScalarUDF::new_from_impl(Bounded { inner, growth })))?;
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    growth: Growth,
}

impl Bounded {
    fn check(&self, args: &ScalarFunctionArgs) -> Result<()> {
        let values = &args.args;
        let is_constant = values.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let rows = if is_constant { 1 } else { args.number_rows };
        // Steps of time are left alone: their unit is not that of their bounds.
        let whole = |value: &ColumnarValue| value.cast_to(&DataType::Int64, None).ok();
        let numbers = values.iter().map(|value| whole(value).filter(|_| value.data_type().is_integer()));
        let numbers: Vec<Option<ColumnarValue>> = numbers.collect();
        let number = |at: usize, row| numbers.get(at).and_then(Option::as_ref).and_then(|value| number(value, row));
        let size = |at: usize, row| values.get(at).map_or(0, |value| bytes(value, row));
        let mut total: u64 = 0;
        for row in 0..rows {
            let count = || number(1, row).and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
            let made = match self.growth {
                Growth::Repeat => size(0, row).saturating_mul(count()),
                Growth::Pad => count().saturating_mul(4),
                Growth::Replace => (size(0, row) + 1).saturating_mul(size(2, row) + 1),
                Growth::Sequence => {
                    let (from, to) = match (number(0, row), number(1, row)) {
                        (Some(from), Some(to)) => (from, to),
                        (Some(to), None) => (0, to),
                        _ => (0, 0),
                    };
                    let step = number(2, row).unwrap_or(1).unsigned_abs().max(1);
                    (from.abs_diff(to) / step).saturating_mul(8)
                }
            };
            total = total.saturating_add(made);
            if made > VALUE_BYTES_MAX || total > BATCH_BYTES_MAX {
                let name = self.inner.name();
                return Err(DataFusionError::External(Box::new(Error::exhausted(format!(
                    "{name} would make up to {made} bytes of one row and {total} of {} rows; the most is \
                     {VALUE_BYTES_MAX} and {BATCH_BYTES_MAX}: make less of it",
                    row + 1
                )))));
            }
        }
        Ok(())
    }
}

fn number(value: &ColumnarValue, row: usize) -> Option<i64> {
    match value {
        ColumnarValue::Scalar(ScalarValue::Int64(number)) => *number,
        ColumnarValue::Scalar(_) => None,
        ColumnarValue::Array(array) => {
            let numbers = array.as_primitive_opt::<Int64Type>()?;
            (row < numbers.len() && numbers.is_valid(row)).then(|| numbers.value(row))
        }
    }
}

/// Bytes of a row's value; of what is no text, about as many.
fn bytes(value: &ColumnarValue, row: usize) -> u64 {
    match value {
        ColumnarValue::Scalar(scalar) => match scalar.try_as_str() {
            Some(text) => text.map_or(0, str::len) as u64,
            None => scalar.size() as u64,
        },
        ColumnarValue::Array(array) => array_bytes(array, row),
    }
}

fn array_bytes(array: &ArrayRef, row: usize) -> u64 {
    if row >= array.len() || array.is_null(row) {
        return 0;
    }
    let length = match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(row).len(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).len(),
        DataType::Utf8View => array.as_string_view().value(row).len(),
        _ => array.slice(row, 1).to_data().get_slice_memory_size().unwrap_or(8),
    };
    length as u64
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.inner().coerce_types(arg_types)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner.simplify(args, info)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.check(&args)?;
        self.inner.invoke_with_args(args)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}
