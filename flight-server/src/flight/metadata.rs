//! What there is: catalogs, schemas, tables, keys.
//!
//! The schemas of these answers are the protocol's, nullability included: drivers compare them
//! (<https://arrow.apache.org/docs/format/FlightSql.html>).

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::GetCatalogsBuilder;
use arrow_flight::sql::{CommandGetDbSchemas, CommandGetPrimaryKeys, CommandGetTableTypes, CommandGetTables};
use lakehouse::definition::Definition;

use crate::engine::{CatalogTable, GOLD, SCHEMAS, SILVER};

/// Where declarations, and the tables' own metadata, keep what a column is about.
const COMMENT: &str = "comment";

/// Where JDBC looks for it:
/// <https://arrow.apache.org/docs/format/FlightSql.html#flight-sql-metadata>.
const REMARKS: &str = "ARROW:FLIGHT:SQL:REMARKS";

/// All kinds of tables.
const TABLE_TYPES: [&str; 2] = ["TABLE", "SYSTEM TABLE"];

pub(super) static PRIMARY_KEYS: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("catalog_name", DataType::Utf8, true),
        Field::new("db_schema_name", DataType::Utf8, true),
        Field::new("table_name", DataType::Utf8, false),
        Field::new("column_name", DataType::Utf8, false),
        Field::new("key_name", DataType::Utf8, true),
        Field::new("key_sequence", DataType::Int32, false),
    ]))
});

/// Of exported and imported keys and of cross references.
pub(super) static FOREIGN_KEYS: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("pk_catalog_name", DataType::Utf8, true),
        Field::new("pk_db_schema_name", DataType::Utf8, true),
        Field::new("pk_table_name", DataType::Utf8, false),
        Field::new("pk_column_name", DataType::Utf8, false),
        Field::new("fk_catalog_name", DataType::Utf8, true),
        Field::new("fk_db_schema_name", DataType::Utf8, true),
        Field::new("fk_table_name", DataType::Utf8, false),
        Field::new("fk_column_name", DataType::Utf8, false),
        Field::new("key_sequence", DataType::Int32, false),
        Field::new("fk_key_name", DataType::Utf8, true),
        Field::new("pk_key_name", DataType::Utf8, true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ]))
});

pub(super) fn catalogs(definition: &Definition) -> Result<RecordBatch, FlightError> {
    let mut builder = GetCatalogsBuilder::new();
    builder.append(definition.name.as_str());
    builder.build()
}

pub(super) fn schemas(query: CommandGetDbSchemas, definition: &Definition) -> Result<RecordBatch, FlightError> {
    let mut builder = query.into_builder();
    for schema in SCHEMAS {
        builder.append(&*definition.name, schema);
    }
    builder.build()
}

pub(super) fn table_types(query: CommandGetTableTypes) -> Result<RecordBatch, FlightError> {
    let mut builder = query.into_builder();
    for kind in TABLE_TYPES {
        builder.append(kind);
    }
    builder.build()
}

/// Tables without columns yet are listed with an empty schema.
pub(super) fn tables(
    query: CommandGetTables,
    definition: &Definition,
    catalog: &[CatalogTable],
) -> Result<RecordBatch, FlightError> {
    let mut builder = query.into_builder();
    for table in catalog {
        let schema = described(table, definition);
        builder.append(&*definition.name, table.schema, &table.name, table.table_type, &schema)?;
    }
    builder.build()
}

/// The keys of a keyed silver table, or the unique key of a gold model.
pub(super) fn primary_keys(query: &CommandGetPrimaryKeys, definition: &Definition) -> Result<RecordBatch, FlightError> {
    let catalog = definition.name.as_str();
    let asked = |filter: &Option<String>, name: &str| filter.as_deref().is_none_or(|wanted| wanted == name);
    let gold = definition.models.get(&*query.table).map(|model| (GOLD, &model.unique_key));
    let silver = definition.tables.get(&*query.table).map(|table| (SILVER, &table.primary_key));
    let keys: Vec<(&str, &str, i32)> = [gold, silver]
        .into_iter()
        .flatten()
        .filter(|(schema, _)| asked(&query.catalog, catalog) && asked(&query.db_schema, schema))
        .flat_map(|(schema, columns)| (1..).zip(columns).map(move |(place, name)| (schema, name.as_str(), place)))
        .collect();
    let repeat = |text: &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(keys.iter().map(|_| text))) };
    let columns: Vec<ArrayRef> = vec![
        repeat(catalog),
        Arc::new(StringArray::from_iter_values(keys.iter().map(|(schema, ..)| schema))),
        repeat(&query.table),
        Arc::new(StringArray::from_iter_values(keys.iter().map(|(_, column, _)| column))),
        repeat(&format!("{}_key", query.table)),
        Arc::new(Int32Array::from_iter_values(keys.iter().map(|(.., place)| *place))),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&PRIMARY_KEYS), columns)?)
}

/// There are no foreign keys.
pub(super) fn no_foreign_keys() -> RecordBatch {
    RecordBatch::new_empty(Arc::clone(&FOREIGN_KEYS))
}

/// The table's columns, each with what is known about it for people.
fn described(table: &CatalogTable, definition: &Definition) -> Schema {
    let Some(schema) = &table.arrow_schema else { return Schema::empty() };
    let declared = definition.tables.get(table.name.as_str()).filter(|_| table.schema == SILVER);
    let fields = schema.fields().iter().map(|field| {
        let column = declared.and_then(|declared| declared.column(field.name()));
        let comment = column.and_then(|column| column.description.as_ref()).or_else(|| field.metadata().get(COMMENT));
        let Some(comment) = comment.cloned() else { return Arc::clone(field) };
        let mut metadata = field.metadata().clone();
        metadata.insert(REMARKS.to_owned(), comment);
        Arc::new(field.as_ref().clone().with_metadata(metadata))
    });
    let fields: Vec<_> = fields.collect();
    let mut metadata = schema.metadata().clone();
    metadata.extend(table.description.iter().map(|text| (COMMENT.to_owned(), text.clone())));
    Schema::new_with_metadata(fields, metadata)
}
