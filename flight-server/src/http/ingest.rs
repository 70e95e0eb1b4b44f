//! `POST /v1/ingest/{table}`: JSON rows in, a receipt out.
//!
//! By default all rows are taken or none is: every row is looked at before the first one goes on. With `?partial=true`
//! the good ones are taken, and the others come back with their reasons.

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
use crate::door::{IngestDoor, IngestOptions, OpenIngest, Rejected};
use crate::flight::INGEST_ID_HEADER;

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
    let (rows, _room) = blocking(move || {
        let (text, room) = held.into_text(encoding)?;
        Ok((rows::read(&text, &columns, shape)?, room))
    })
    .await?;
    let (receipt, bad) = send(app.door.as_ref(), &table, rows, options).await?;
    Ok(answer(&receipt, &bad))
}

fn options(request: &Request) -> Result<IngestOptions, ApiError> {
    let ingest_id = header(request.headers(), INGEST_ID_HEADER)?.map(str::to_owned);
    let query = query_of(request.uri(), &["partial"])?;
    let is_partial = match query.first().map(|(_, value)| value.as_str()) {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => return Err(ApiError::invalid(format!("partial must be true or false, not {other:?}"))),
    };
    Ok(IngestOptions { ingest_id, is_partial })
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
    let Some(batch) = batch else { return Err(refused(bad)) };
    let is_partial = options.is_partial;
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
    if !is_partial {
        add(&mut bad, ingest.check(&batch)?, places);
        if bad.count > 0 {
            return Err(refused(bad));
        }
    }
    add(&mut bad, ingest.push(batch).await?, places);
    Ok((ingest.finish().await?, bad))
}

/// Adds what the door refused, by the rows' places in the body.
fn add(bad: &mut BadRows, rejected: Rejected, places: &[Place]) {
    let rows = rejected.rows.into_iter().filter_map(|row| {
        let place = places.get(usize::try_from(row.row).ok()?)?;
        Some(BadRow { row: place.row, line: place.line, column: row.column, reason: row.reason })
    });
    bad.add(rejected.count, rows);
}

fn refused(bad: BadRows) -> ApiError {
    let first = bad.rows.first().map(|bad| match &bad.column {
        Some(column) => format!("row {}, column {column:?}: {}", bad.row, bad.reason),
        None => format!("row {}: {}", bad.row, bad.reason),
    });
    let count = bad.count;
    let message = format!(
        "no row was taken, since {count} can't be; the first is {}; mend them, or send the others with partial=true",
        first.unwrap_or_default()
    );
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
