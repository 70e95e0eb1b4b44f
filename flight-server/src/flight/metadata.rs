//! What there is: catalogs, schemas, tables, keys.
//!
//! The schemas of these answers are the protocol's, nullability included: drivers compare them
//! (<https://arrow.apache.org/docs/format/FlightSql.html>).

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray, UInt8Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::GetCatalogsBuilder;
use arrow_flight::sql::{
    CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys,
    CommandGetPrimaryKeys, CommandGetTableTypes, CommandGetTables,
};
use lakehouse::definition::Definition;

use crate::engine::{CatalogTable, GOLD, SCHEMAS, SILVER};

/// Where declarations, and the tables' own metadata, keep what a column is about.
const COMMENT: &str = "comment";

/// Where JDBC looks for it:
/// <https://arrow.apache.org/docs/format/FlightSql.html#flight-sql-metadata>.
const REMARKS: &str = "ARROW:FLIGHT:SQL:REMARKS";

/// Nothing counts up by itself; JDBC asks for each column.
const IS_AUTO_INCREMENT: (&str, &str) = ("ARROW:FLIGHT:SQL:IS_AUTO_INCREMENT", "0");

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
    let gold = definition.models.get(&*query.table);
    let gold = gold.map(|model| (GOLD, model.unique_key.iter().map(String::as_str).collect::<Vec<_>>()));
    let silver = definition.tables.get(&*query.table).map(|table| (SILVER, table.row_key().collect()));
    let keys: Vec<(&str, &str, i32)> = [gold, silver]
        .into_iter()
        .flatten()
        .filter(|(schema, _)| asked(&query.catalog, catalog) && asked(&query.db_schema, schema))
        .flat_map(|(schema, columns)| (1..).zip(columns).map(move |(place, name)| (schema, name, place)))
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

/// The keys of other tables that point to a table's primary key.
pub(super) fn exported_keys(
    query: &CommandGetExportedKeys,
    definition: &Definition,
) -> Result<RecordBatch, FlightError> {
    let wanted = Wanted::new(query.catalog.as_deref(), query.db_schema.as_deref(), &query.table);
    foreign_keys(definition, |referenced, _| wanted.is(definition, referenced), Order::Referencing)
}

/// The primary keys that a table's columns point to.
pub(super) fn imported_keys(
    query: &CommandGetImportedKeys,
    definition: &Definition,
) -> Result<RecordBatch, FlightError> {
    let wanted = Wanted::new(query.catalog.as_deref(), query.db_schema.as_deref(), &query.table);
    foreign_keys(definition, |_, referencing| wanted.is(definition, referencing), Order::Referenced)
}

/// How one table points to another.
pub(super) fn cross_reference(
    query: &CommandGetCrossReference,
    definition: &Definition,
) -> Result<RecordBatch, FlightError> {
    let to = Wanted::new(query.pk_catalog.as_deref(), query.pk_db_schema.as_deref(), &query.pk_table);
    let from = Wanted::new(query.fk_catalog.as_deref(), query.fk_db_schema.as_deref(), &query.fk_table);
    let both = |referenced: &str, referencing: &str| to.is(definition, referenced) && from.is(definition, referencing);
    foreign_keys(definition, both, Order::Referencing)
}

/// A silver table, as a client asks for it.
struct Wanted<'a> {
    catalog: Option<&'a str>,
    schema: Option<&'a str>,
    table: &'a str,
}

impl<'a> Wanted<'a> {
    fn new(catalog: Option<&'a str>, schema: Option<&'a str>, table: &'a str) -> Self {
        Self { catalog, schema, table }
    }

    fn is(&self, definition: &Definition, table: &str) -> bool {
        self.table == table
            && self.catalog.is_none_or(|catalog| catalog == definition.name.as_str())
            && self.schema.is_none_or(|schema| schema == SILVER)
    }
}

/// By which side's names the protocol wants the rows sorted.
enum Order {
    Referenced,
    Referencing,
}

/// Rule 3: what points to a row does not change with it. Nothing is enforced.
const NO_ACTION: u8 = 3;

fn foreign_keys(
    definition: &Definition,
    is_wanted: impl Fn(&str, &str) -> bool,
    order: Order,
) -> Result<RecordBatch, FlightError> {
    struct Row<'a> {
        referenced: [&'a str; 2],
        referencing: [&'a str; 2],
        place: i32,
        names: [String; 2],
    }
    let mut rows = Vec::new();
    for (name, table) in &definition.tables {
        for key in table.foreign_keys.iter().filter(|key| is_wanted(&key.references, name)) {
            let Some(referenced) = definition.tables.get(&key.references) else { continue };
            let names = [format!("{}_key", key.references), format!("{name}_{}_fkey", key.columns.join("_"))];
            let pairs = referenced.primary_key.iter().zip(&key.columns);
            rows.extend((1..).zip(pairs).map(|(place, (to, from))| Row {
                referenced: [key.references.as_str(), to],
                referencing: [name.as_str(), from],
                place,
                names: names.clone(),
            }));
        }
    }
    rows.sort_by(|a, b| match order {
        Order::Referenced => (a.referenced[0], &a.names, a.place).cmp(&(b.referenced[0], &b.names, b.place)),
        Order::Referencing => (a.referencing[0], &a.names, a.place).cmp(&(b.referencing[0], &b.names, b.place)),
    });
    let texts = |value: &dyn Fn(&Row<'_>) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(value)))
    };
    let (catalog, silver) = (texts(&|_| definition.name.to_string()), texts(&|_| SILVER.to_owned()));
    let rule: ArrayRef = Arc::new(UInt8Array::from_iter_values(rows.iter().map(|_| NO_ACTION)));
    let columns: Vec<ArrayRef> = vec![
        Arc::clone(&catalog),
        Arc::clone(&silver),
        texts(&|row| row.referenced[0].to_owned()),
        texts(&|row| row.referenced[1].to_owned()),
        catalog,
        silver,
        texts(&|row| row.referencing[0].to_owned()),
        texts(&|row| row.referencing[1].to_owned()),
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.place))),
        texts(&|row| row.names[1].clone()),
        texts(&|row| row.names[0].clone()),
        Arc::clone(&rule),
        rule,
    ];
    Ok(RecordBatch::try_new(Arc::clone(&FOREIGN_KEYS), columns)?)
}

/// The table's columns, each with what is known about it for people.
fn described(table: &CatalogTable, definition: &Definition) -> Schema {
    let Some(schema) = &table.arrow_schema else { return Schema::empty() };
    let declared = definition.tables.get(table.name.as_str()).filter(|_| table.schema == SILVER);
    let fields = schema.fields().iter().map(|field| {
        let column = declared.and_then(|declared| declared.column(field.name()));
        let comment = column.and_then(|column| column.description.as_ref()).or_else(|| field.metadata().get(COMMENT));
        let mut metadata = field.metadata().clone();
        metadata.extend(comment.map(|comment| (REMARKS.to_owned(), comment.clone())));
        metadata.insert(IS_AUTO_INCREMENT.0.to_owned(), IS_AUTO_INCREMENT.1.to_owned());
        Arc::new(field.as_ref().clone().with_metadata(metadata))
    });
    let fields: Vec<_> = fields.collect();
    let mut metadata = schema.metadata().clone();
    metadata.extend(table.description.iter().map(|text| (COMMENT.to_owned(), text.clone())));
    Schema::new_with_metadata(fields, metadata)
}
