//! A checked result becomes a model's next version, in one commit.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{Column as ColumnName, TableReference};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, Operator, binary_expr};
use datafusion::prelude::SessionContext;
use deltalake::DeltaTable;
use lakehouse::definition::{Mode, Model};
use lakehouse::delta::{self, Commit};
use lakehouse::name::same_column;
use lakehouse::{Context, Error, Kind, Lake, Layer, Result};

/// A model's result in types that Delta stores.
pub(crate) struct Computed {
    pub(crate) schema: SchemaRef,
    /// In mode `append`, only the rows that are not published yet.
    pub(crate) batches: Vec<RecordBatch>,
}

/// Publishes a result. `published` is the model's current table, if it has one.
pub(crate) async fn publish(
    lake: &Lake,
    model: &Model,
    published: Option<&DeltaTable>,
    computed: Computed,
    session: &Arc<SessionState>,
    commit: &Commit,
) -> Result<DeltaTable> {
    let Some(table) = published else {
        let description = model.description.as_deref();
        let table = delta::create(lake, Layer::Gold, &model.name, &computed.schema, &[], description).await?;
        return delta::replace(table, or_empty(computed), commit).await;
    };
    let same_columns = has_columns(&delta::stored_schema(table)?, &computed.schema);
    let table = table.clone();
    match model.mode {
        Mode::Append if same_columns && computed.batches.iter().all(|batch| batch.num_rows() == 0) => {
            delta::commit_only(table, commit).await
        }
        Mode::Append if same_columns => delta::append(table, computed.batches, commit).await,
        Mode::Append => Err(Error::invalid(format!(
            "{}: model {:?} appends, and its SELECT gives other columns than its table has; replacing the table would \
             lose its former rows. Give the new SELECT to a model of another name, or take the change back",
            model.origin,
            model.name.as_str()
        ))),
        Mode::Merge if same_columns => merge(table, model, computed, session, commit).await,
        _ => delta::replace(table, or_empty(computed), commit).await,
    }
}

/// Whether both have the same columns; Delta's own nullability does not count.
pub(crate) fn has_columns(stored: &Schema, computed: &Schema) -> bool {
    stored.fields().len() == computed.fields().len()
        && stored
            .fields()
            .iter()
            .zip(computed.fields())
            .all(|(a, b)| same_column(a.name(), b.name()) && a.data_type() == b.data_type())
}

/// A write of no batches has no schema.
fn or_empty(computed: Computed) -> Vec<RecordBatch> {
    if computed.batches.is_empty() { vec![RecordBatch::new_empty(computed.schema)] } else { computed.batches }
}

/// Changes what differs, adds what is new, removes what is gone; rows that are the same are not rewritten.
async fn merge(
    table: DeltaTable,
    model: &Model,
    computed: Computed,
    session: &Arc<SessionState>,
    commit: &Commit,
) -> Result<DeltaTable> {
    let what = || format!("can't merge into gold.{}", model.name);
    let column = |side: &str, name: &str| Expr::Column(ColumnName::new(Some(TableReference::bare(side)), name));
    let (source, target) = (|name: &str| column("source", name), |name: &str| column("target", name));
    let schema = Arc::clone(&computed.schema);
    let frame = SessionContext::new_with_state(session.as_ref().clone())
        .read_batches(or_empty(computed))
        .context(Kind::Internal, what)?;
    let Some(on) = model.unique_key.iter().map(|key| target(key).eq(source(key))).reduce(Expr::and) else {
        return Err(Error::internal("a merge model has no unique key"));
    };
    let is_key = |name: &str| model.unique_key.iter().any(|key| same_column(key, name));
    let values: Vec<&str> =
        schema.fields().iter().map(|field| field.name().as_str()).filter(|name| !is_key(name)).collect();
    let differs =
        values.iter().map(|name| binary_expr(target(name), Operator::IsDistinctFrom, source(name))).reduce(Expr::or);
    let before = table.version();
    let mut builder = table
        .merge(frame, on)
        .with_source_alias("source")
        .with_target_alias("target")
        .with_session_state(Arc::clone(session) as _)
        .with_writer_properties(delta::writer_properties())
        .with_commit_properties(commit.properties());
    let failed = |error| delta::convert(&what(), error);
    if let Some(differs) = differs {
        builder = builder
            .when_matched_update(|update| {
                values.iter().fold(update.predicate(differs), |update, name| {
                    update.update(ColumnName::new_unqualified(*name), source(name))
                })
            })
            .map_err(failed)?;
    }
    builder = builder
        .when_not_matched_insert(|insert| {
            schema.fields().iter().fold(insert, |insert, field| {
                insert.set(ColumnName::new_unqualified(field.name()), source(field.name()))
            })
        })
        .map_err(failed)?
        .when_not_matched_by_source_delete(|delete| delete)
        .map_err(failed)?;
    let (merged, _) = builder.await.map_err(failed)?;
    if merged.version() == before { delta::commit_only(merged, commit).await } else { Ok(merged) }
}
