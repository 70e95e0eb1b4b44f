//! `information_schema`: DataFusion's own tables, and what the definition says about tables and columns for people.
//!
//! Columns are counted from 1, as the standard does, and have the types that results have.

use std::fmt;
use std::sync::Arc;

use arrow::array::{AsArray as _, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use async_trait::async_trait;
use datafusion::catalog::information_schema::InformationSchemaProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::catalog::{CatalogProviderList as _, MemoryCatalogProviderList, SchemaProvider, TableProvider};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::StreamExt as _;

use super::catalog::{QueryCatalog, SharedCatalog};

/// The column that is added: Databricks and Snowflake call it so.
const COMMENT: &str = "comment";

const POSITION: &str = "ordinal_position";
const DATA_TYPE: &str = "data_type";

/// The schema `information_schema` of one query.
pub(super) struct Information {
    catalog: Arc<QueryCatalog>,
    standard: InformationSchemaProvider,
}

impl Information {
    pub(super) fn new(catalog: Arc<QueryCatalog>) -> Self {
        let catalogs = MemoryCatalogProviderList::new();
        let name = catalog.definition().name.to_string();
        catalogs.register_catalog(name, Arc::new(SharedCatalog(Arc::clone(&catalog))));
        let functions = catalog.session().table_functions().clone();
        let standard = InformationSchemaProvider::new(Arc::new(catalogs)).with_table_functions(functions);
        Self { catalog, standard }
    }
}

impl fmt::Debug for Information {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Information")
    }
}

#[async_trait]
impl SchemaProvider for Information {
    fn table_names(&self) -> Vec<String> {
        self.standard.table_names()
    }

    async fn table(&self, name: &str) -> DataFusionResult<Option<Arc<dyn TableProvider>>> {
        let Some(standard) = self.standard.table(name).await? else { return Ok(None) };
        let comment: fn(&QueryCatalog, &[&str]) -> Option<String> = match name.to_ascii_lowercase().as_str() {
            "tables" => |catalog, row| match row {
                [_, schema, table, ..] => catalog.description(schema, table),
                _ => None,
            },
            "columns" => |catalog, row| match row {
                [_, schema, table, column, ..] => catalog.column_description(schema, table, column),
                _ => None,
            },
            _ => return Ok(Some(standard)),
        };
        let plan = standard.scan(self.catalog.session().as_ref(), None, &[], None).await?;
        let mut fields: Vec<_> = plan.schema().fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(COMMENT, DataType::Utf8, true)));
        let schema = Arc::new(Schema::new(fields));
        let commented = Commented { schema: Arc::clone(&schema), plan, catalog: Arc::clone(&self.catalog), comment };
        Ok(Some(Arc::new(StreamingTable::try_new(schema, vec![Arc::new(commented)])?)))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.standard.table_exist(name)
    }
}

/// A standard table with a column of comments behind its own.
struct Commented {
    schema: SchemaRef,
    plan: Arc<dyn ExecutionPlan>,
    catalog: Arc<QueryCatalog>,
    /// Of a row's leading names: catalog, schema, table, and for columns the column.
    comment: fn(&QueryCatalog, &[&str]) -> Option<String>,
}

impl fmt::Debug for Commented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Commented")
    }
}

impl PartitionStream for Commented {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let schema = Arc::clone(&self.schema);
        let (catalog, comment) = (Arc::clone(&self.catalog), self.comment);
        let rows = futures::stream::once(futures::future::ready(self.plan.execute(0, context)));
        let rows = futures::TryStreamExt::try_flatten(rows);
        let with_comments = rows.map(move |batch| commented(&batch?, &schema, &catalog, comment));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), with_comments))
    }
}

fn commented(
    batch: &RecordBatch,
    schema: &SchemaRef,
    catalog: &QueryCatalog,
    comment: fn(&QueryCatalog, &[&str]) -> Option<String>,
) -> DataFusionResult<RecordBatch> {
    let foreign = || DataFusionError::Internal("information_schema has other columns than it should".to_owned());
    let names = batch.columns().iter().take(4).map(|column| column.as_string_opt::<i32>().ok_or_else(foreign));
    let names: Vec<&StringArray> = names.collect::<DataFusionResult<_>>()?;
    let comments: StringArray = (0..batch.num_rows())
        .map(|row| comment(catalog, &names.iter().map(|column| column.value(row)).collect::<Vec<_>>()))
        .collect();
    let mut columns = batch.columns().to_vec();
    if let Some(positions) = batch.column_by_name(POSITION).and_then(|column| column.as_primitive_opt::<UInt64Type>()) {
        let from_1: UInt64Array = positions.unary(|position| position + 1);
        columns[batch.schema().index_of(POSITION)?] = Arc::new(from_1);
    }
    if let Some(types) = batch.column_by_name(DATA_TYPE).and_then(|column| column.as_string_opt::<i32>()) {
        let plain: StringArray =
            types.iter().map(|name| Some(name?.replace("Utf8View", "Utf8").replace("BinaryView", "Binary"))).collect();
        columns[batch.schema().index_of(DATA_TYPE)?] = Arc::new(plain);
    }
    columns.push(Arc::new(comments));
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}
