//! Rows of a system table, written value by value, to a batch of its schema.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use lakehouse::{Error, Result};

/// A column of a system table.
pub(super) enum Values {
    Text(Vec<Option<String>>),
    Number(Vec<Option<i64>>),
    /// Microseconds since the epoch.
    Instant(Vec<Option<i64>>),
}

/// `name` as a text column.
pub(super) fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

/// `name` as a column of whole numbers.
pub(super) fn number(name: &str) -> Field {
    Field::new(name, DataType::Int64, true)
}

/// `name` as a column of instants.
pub(super) fn instant(name: &str) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true)
}

/// A count as a column's value.
pub(super) fn count(value: u64) -> Option<i64> {
    i64::try_from(value).ok()
}

/// A time as a column's value; 0 is none.
pub(super) fn time(us: i64) -> Option<i64> {
    (us != 0).then_some(us)
}

/// A schema whose first column is never NULL.
pub(super) fn schema(fields: Vec<Field>) -> SchemaRef {
    let fields: Vec<Field> = fields.into_iter().enumerate().map(|(at, field)| field.with_nullable(at > 0)).collect();
    Arc::new(Schema::new(fields))
}

/// The batch of some columns.
pub(super) fn batch(schema: SchemaRef, columns: Vec<Values>) -> Result<Vec<RecordBatch>> {
    let columns: Vec<ArrayRef> = columns
        .into_iter()
        .map(|values| match values {
            Values::Text(values) => Arc::new(StringArray::from(values)) as ArrayRef,
            Values::Number(values) => Arc::new(Int64Array::from(values)),
            Values::Instant(values) => Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC")),
        })
        .collect();
    RecordBatch::try_new(schema, columns)
        .map(|batch| vec![batch])
        .map_err(|error| Error::internal("a system table's rows have another shape than its schema").because(error))
}
