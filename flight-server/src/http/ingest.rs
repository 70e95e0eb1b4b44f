//! `POST /v1/ingest/{table}`: JSON rows in, a receipt out.
//!
//! By default all rows are taken or none is: every row is looked at before the first one goes on. With `?partial=true`
//! the good ones are taken, and the others come back with their reasons; if none is good, or more are bad than can be
//! named, it is an error as by default.

use arrow::array::RecordBatch;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::HeaderValue;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use proto::Receipt;
use serde_json::{Value, json};

use super::body::{self, Encoding};
use super::errors::{ApiError, BadRow, BadRows, json_response};
use super::rows::{self, Place, Rows, Shape};
use super::{App, blocking, header, query_of};
use crate::door::{BAD_ROWS_TOLD_MAX, IngestDoor, IngestOptions, OpenIngest, Rejected};
use crate::flight::{INGEST_ID_HEADER, PARTIAL_HEADER};

/// The query parameter that says the same as [`PARTIAL_HEADER`].
const PARTIAL: &str = "partial";

/// Takes rows.
pub(super) async fn ingest(
    State(app): State<App>,
    table: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let Path(table) = table.map_err(|error| ApiError::invalid(format!("the table's name can't be read: {error}")))?;
    let options = options(&request)?;
    let (encoding, shape) = (Encoding::of(request.headers())?, shape(request.headers()));
    let (parts, body) = request.into_parts();
    let held = body::read(&parts.headers, body, &app.room).await?;
    let columns = app.door.columns(&table).await?;
    let turn = app.room.turn(&held, encoding).await;
    let (rows, _share) = blocking(move || {
        let _turn = turn;
        let (text, mut share) = held.into_text(encoding)?;
        let rows = rows::read(&text, &columns, shape)?;
        drop(text);
        share.resize(rows.bytes())?;
        Ok((rows, share))
    })
    .await?;
    let (receipt, bad) = send(app.door.as_ref(), &table, rows, options).await?;
    Ok(answer(&receipt, &bad))
}

fn options(request: &Request) -> Result<IngestOptions, ApiError> {
    let ingest_id = header(request.headers(), INGEST_ID_HEADER)?.map(str::to_owned);
    let query = query_of(request.uri(), &[PARTIAL])?;
    let in_url = query.first().map(|(_, value)| is_true(PARTIAL, value)).transpose()?;
    let in_header =
        header(request.headers(), PARTIAL_HEADER)?.map(|value| is_true(PARTIAL_HEADER, value)).transpose()?;
    let is_partial = in_url.unwrap_or_default() || in_header.unwrap_or_default();
    Ok(IngestOptions { ingest_id, is_partial })
}

fn is_true(what: &str, text: &str) -> Result<bool, ApiError> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(ApiError::invalid(format!("{what} must be true or false, not {other:?}"))),
    }
}

fn shape(headers: &HeaderMap) -> Shape {
    match body::media_type(headers).as_str() {
        "application/json" => Shape::Document,
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => Shape::Lines,
        _ => Shape::Any,
    }
}

/// Sends rows through the door: what is kept of them, and which were left out.
async fn send(
    door: &dyn IngestDoor,
    table: &str,
    rows: Rows,
    options: IngestOptions,
) -> Result<(Receipt, BadRows), ApiError> {
    let Rows { batch, places, bad } = rows;
    let is_partial = options.is_partial;
    let Some(batch) = batch else { return Err(refused(bad, 0, is_partial)) };
    let mut ingest = door.begin(table, batch.schema(), options).await?;
    let id = ingest.ingest_id().to_owned();
    let taken = take(ingest.as_mut(), batch, &places, bad, is_partial).await;
    taken.map_err(|error| error.of_ingest(&id))
}

async fn take(
    ingest: &mut dyn OpenIngest,
    batch: RecordBatch,
    places: &[Place],
    mut bad: BadRows,
    is_partial: bool,
) -> Result<(Receipt, BadRows), ApiError> {
    let checked = ingest.check(&batch)?;
    let good = u64::try_from(batch.num_rows()).unwrap_or(u64::MAX).saturating_sub(checked.count);
    add(&mut bad, checked, places);
    let is_named = bad.count == u64::try_from(bad.rows.len()).unwrap_or(u64::MAX);
    if bad.count > 0 && !(is_partial && is_named && good > 0) {
        return Err(refused(bad, good, is_partial));
    }
    match keep(ingest, batch).await {
        Ok(receipt) => Ok((receipt, bad)),
        Err(error) => Err(ApiError::from(error).with_kept(ingest.give_up().await)),
    }
}

async fn keep(ingest: &mut dyn OpenIngest, batch: RecordBatch) -> lakehouse::Result<Receipt> {
    // Those that are left out are known from the check.
    ingest.push(batch).await?;
    ingest.finish().await
}

/// Adds what the door refused, by the rows' places in the body.
fn add(bad: &mut BadRows, rejected: Rejected, places: &[Place]) {
    let rows = rejected.rows.into_iter().filter_map(|row| {
        let place = places.get(usize::try_from(row.row).ok()?)?;
        Some(BadRow { row: place.row, line: place.line, column: row.column, reason: row.reason })
    });
    bad.add(rejected.count, rows);
}

/// No row is taken: `good` of them could have been.
fn refused(bad: BadRows, good: u64, is_partial: bool) -> ApiError {
    let first = bad.rows.first().map(|bad| match &bad.column {
        Some(column) => format!("row {}, column {column:?}: {}", bad.row, bad.reason),
        None => format!("row {}: {}", bad.row, bad.reason),
    });
    let first = first.unwrap_or_default();
    let count = bad.count;
    let message = match (good, is_partial) {
        (0, _) => format!("no row was taken, since none can be; the first is {first}; mend them"),
        (_, false) => format!(
            "no row was taken, since {count} can't be; the first is {first}; mend them, or send the others with \
             partial=true"
        ),
        (_, true) => format!(
            "no row was taken, since {count} can't be, and at most {BAD_ROWS_TOLD_MAX} are left out of a body; the \
             first is {first}; mend them, or send fewer rows at once"
        ),
    };
    ApiError::bad_rows(message, bad)
}

fn told(receipt: &Receipt, bad: &BadRows) -> Value {
    let mut told = json!({
        "ingest_id": receipt.ingest_id,
        "table": receipt.table,
        "rows": receipt.rows,
        "frames": receipt.frames,
        "bytes": receipt.bytes,
        "rejected_rows": bad.count,
    });
    if let Some(fields) = told.as_object_mut().filter(|_| bad.count > 0) {
        fields.insert("rejected".to_owned(), bad.to_json());
    }
    told
}

/// A receipt as an answer, with the rows that were left out.
pub(super) fn answer(receipt: &Receipt, bad: &BadRows) -> Response {
    let mut response = json_response(StatusCode::OK, &told(receipt, bad));
    if let Ok(id) = HeaderValue::from_str(&receipt.ingest_id) {
        response.headers_mut().insert(INGEST_ID_HEADER, id);
    }
    response
}
