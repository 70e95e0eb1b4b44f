//! The shape of results: one place decides it, for the announcement and for the stream.
//!
//! Inside, the engine uses string views and dictionaries; many clients know neither. So a plan's schema is made plain
//! (views, dictionaries and run-ends become what they stand for; large texts and nullability stay), and each batch is
//! cast to it.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;

/// `schema` with plain types throughout.
pub fn plain_schema(schema: &Schema) -> SchemaRef {
    let fields: Vec<FieldRef> = schema.fields().iter().map(|field| with_precision(plain_field(field))).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// `batch` cast to `schema`, which is the plain schema of its plan.
///
/// # Errors
/// If a column can't be cast, or has a NULL where the schema has none: an operator broke its own word.
pub(super) fn plain_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| {
        if column.data_type() == field.data_type() { Ok(Arc::clone(column)) } else { cast(column, field.data_type()) }
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

/// Bytes in memory of a batch's rows, whatever else its buffers hold.
pub fn batch_bytes(batch: &RecordBatch) -> usize {
    // A type that can't say is taken by its buffers.
    let column =
        |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size());
    batch.columns().iter().map(column).sum()
}

/// JDBC reads a decimal's digits from the metadata, not from the type:
/// <https://arrow.apache.org/docs/format/FlightSql.html#flight-sql-metadata>.
fn with_precision(field: FieldRef) -> FieldRef {
    let (DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale)) = field.data_type() else {
        return field;
    };
    let mut metadata = field.metadata().clone();
    metadata.insert("ARROW:FLIGHT:SQL:PRECISION".to_owned(), precision.to_string());
    metadata.insert("ARROW:FLIGHT:SQL:SCALE".to_owned(), scale.to_string());
    Arc::new(field.as_ref().clone().with_metadata(metadata))
}

fn plain_field(field: &FieldRef) -> FieldRef {
    let plain = plain_type(field.data_type());
    if plain == *field.data_type() {
        Arc::clone(field)
    } else {
        // Not a copy of the field: a dictionary's order flag means nothing here.
        let field = Field::new(field.name(), plain, field.is_nullable()).with_metadata(field.metadata().clone());
        Arc::new(field)
    }
}

fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::RunEndEncoded(_, values) => plain_type(values.data_type()),
        // The JDBC driver knows 128 and 256 bits only.
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        // Large lists too: arrow-flight's encoder announces them as lists whatever it is told.
        DataType::List(item) | DataType::ListView(item) | DataType::LargeList(item) | DataType::LargeListView(item) => {
            DataType::List(plain_field(item))
        }
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(plain_field(item), *length),
        DataType::Map(entries, sorted) => DataType::Map(plain_field(entries), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect()),
        other => other.clone(),
    }
}
