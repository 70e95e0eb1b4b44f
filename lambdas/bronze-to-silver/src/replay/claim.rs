//! The marks on quarantine's rows: which replay has taken a row, and when that one had merged it.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::AsArray as _;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::{Column, ScalarValue};
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::logical_expr::{Expr, lit};
use datafusion::prelude::SessionContext;
use deltalake::DeltaTable;
use futures::TryStreamExt as _;
use lakehouse::delta::{self, Commit};
use lakehouse::{Context as _, Error, Kind, Result};

use crate::quarantine::quarantine_schema;

const REPLAY_ID: &str = "replay_id";
const REPLAYED_AT: &str = "replayed_at";

/// The order of a replay's rows: by arrival, as far as quarantine knows it, and then by everything else, so that there
/// is one order only.
const ORDER: [&str; 10] =
    ["received_at", "object", "ingest_id", "frame", "row", "line", "byte_offset", "rule", "reason", "row_json"];

pub(super) fn column(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

/// The claims whose rows are not marked as merged, oldest first.
pub(super) async fn unfinished(delta: &DeltaTable, session: &Arc<SessionState>) -> Result<BTreeSet<String>> {
    let filter = column(REPLAY_ID).is_not_null().and(column(REPLAYED_AT).is_null());
    let names = [REPLAY_ID.to_owned()];
    let mut found = delta::read(delta, session, Some(&names), Some(filter)).await?;
    let mut ids = BTreeSet::new();
    while let Some(batch) = found.try_next().await.context(Kind::Unavailable, unreadable)? {
        let texts = cast(batch.column(0), &DataType::Utf8)
            .map_err(|error| Error::internal("replay_id is no text").because(error))?;
        for id in texts.as_string::<i32>().iter().flatten() {
            if !ids.contains(id) {
                ids.insert(id.to_owned());
            }
        }
    }
    Ok(ids)
}

/// Takes the rows that no replay has taken and for which `filter` is true; how many they are.
pub(super) async fn claim(
    delta: DeltaTable,
    session: &Arc<SessionState>,
    filter: Option<&Expr>,
    id: &str,
    now_us: i64,
) -> Result<u64> {
    let is_free = column(REPLAY_ID).is_null();
    let rows = match filter {
        Some(filter) => is_free.and(filter.clone()),
        None => is_free,
    };
    update(delta, session, rows, (REPLAY_ID, ScalarValue::from(id)), now_us).await
}

/// Marks the rows of a claim as merged; how many they are.
pub(super) async fn mark(delta: DeltaTable, session: &Arc<SessionState>, id: &str, now_us: i64) -> Result<u64> {
    let now = ScalarValue::TimestampMicrosecond(Some(now_us), Some("UTC".into()));
    update(delta, session, of_claim(id).and(column(REPLAYED_AT).is_null()), (REPLAYED_AT, now), now_us).await
}

pub(super) fn of_claim(id: &str) -> Expr {
    column(REPLAY_ID).eq(lit(id))
}

/// Sets a column of some rows, in a commit on exactly the version that was read.
async fn update(
    delta: DeltaTable,
    session: &Arc<SessionState>,
    rows: Expr,
    (name, value): (&str, ScalarValue),
    now_us: i64,
) -> Result<u64> {
    let what = format!("can't mark rows of {}", delta.table_url().path());
    let commit = Commit { at_us: now_us, ..Commit::default() };
    let update = delta
        .update()
        .with_predicate(rows)
        .with_update(Column::new_unqualified(name), lit(value))
        .with_session_state(Arc::clone(session) as _)
        .with_writer_properties(delta::writer_properties())
        .with_commit_properties(commit.properties());
    let (_, metrics) = update.await.map_err(|error| delta::convert(&what, error))?;
    Ok(metrics.num_updated_rows as u64)
}

/// The rows of quarantine for which `rows` is true, in the one order that they have.
pub(super) async fn ordered(
    delta: &DeltaTable,
    session: &Arc<SessionState>,
    rows: Expr,
) -> Result<SendableRecordBatchStream> {
    delta.update_datafusion_session(session.as_ref()).map_err(|error| delta::convert(&unreadable(), error))?;
    let provider = delta.table_provider().await.context(Kind::Internal, unreadable)?;
    let context = SessionContext::new_with_state(session.as_ref().clone());
    let schema = quarantine_schema();
    let columns: Vec<Expr> = schema.fields().iter().map(|field| column(field.name())).collect();
    let order = ORDER.iter().map(|name| column(name).sort(true, true)).collect();
    let frame = context.read_table(provider).and_then(|frame| frame.filter(rows)?.select(columns)?.sort(order));
    frame.context(Kind::Internal, unreadable)?.execute_stream().await.context(Kind::Unavailable, unreadable)
}

fn unreadable() -> String {
    "can't read the rows of a quarantine".to_owned()
}
