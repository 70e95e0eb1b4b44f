//! `GET|POST /v1/query`: a statement in, its rows out, batch by batch.
//!
//! What goes wrong before the first batch has a status of its own. Behind it the answer is under way, so an error cuts
//! it off: no client takes a part for the whole.

#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Field, Schema};
use axum::body::{Body, Bytes};
use axum::extract::{Request as HttpRequest, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use axum::{BoxError, Extension};
use datafusion::execution::SendableRecordBatchStream;
use futures::{Stream, StreamExt as _, stream};
use lakehouse::json::{self, Node, Value, scaled, whole};
use lakehouse::{Error, Result};
use proto::Session;

use super::body::{self, Encoding};
use super::errors::{ApiError, BadRows};
use super::formats::{Encoder, Format};
use super::ingest::answer;
use super::{App, blocking, header, query_of};
use crate::engine::{Plan, QueryText, Request, Who, explain};
use crate::flight::{INGEST_ID_HEADER, ingest_change, set_headers};

/// Carries the query's id, as `system.queries` has it.
const QUERY_ID_HEADER: &str = "mallard-query-id";

/// The most parameters of a statement: each becomes a column.
const PARAMETERS_MAX: usize = 10_000;

/// The decimal digits that a 64-bit float keeps, whatever they are: C's `DBL_DIG`.
const DOUBLE_DIGITS: usize = 15;

/// The most digits of a decimal of 128 bits.
const DECIMAL_DIGITS_MAX: u8 = 38;

/// What is asked.
#[derive(Debug, Default)]
struct Asked {
    sql: String,
    format: Option<Format>,
    parameters: Option<RecordBatch>,
}

/// Answers a statement in the URL, which must only read: what fetches URLs by itself must not write.
pub(super) async fn read(
    State(app): State<App>,
    Extension(who): Extension<Who>,
    request: HttpRequest,
) -> Result<Response, ApiError> {
    let mut asked = Asked::default();
    for (name, value) in query_of(request.uri(), &["sql", "format"])? {
        match name.as_str() {
            "sql" => asked.sql = value,
            _ => asked.format = Some(Format::named(&value)?),
        }
    }
    let headers = request.headers().clone();
    let format = asked.format.map_or_else(|| accepted(&headers), Ok)?;
    let plan = plan(&app, asked, &headers).await?;
    if plan.change().is_some() {
        let what = "the statement writes, and GET only reads; send it with POST";
        return Err(ApiError::method(Some("POST"), what));
    }
    rows(&app, plan, format, &headers, &who).await
}

/// Answers a statement in a body. One that writes gives a receipt, as an ingest does.
pub(super) async fn run(
    State(app): State<App>,
    Extension(who): Extension<Who>,
    request: HttpRequest,
) -> Result<Response, ApiError> {
    let query = query_of(request.uri(), &["format"])?;
    let in_url = query.first().map(|(_, value)| Format::named(value)).transpose()?;
    let encoding = Encoding::of(request.headers())?;
    let (parts, body) = request.into_parts();
    let headers = parts.headers;
    let media_type = body::media_type(&headers);
    let held = body::read(&headers, body, &app.room).await?;
    let turn = app.room.turn(&held, encoding).await;
    let asked = blocking(move || {
        let _turn = turn;
        let (text, _share) = held.into_text(encoding)?;
        asked(&text, &media_type)
    })
    .await?;
    let format = asked.format.or(in_url).map_or_else(|| accepted(&headers), Ok)?;
    let ingest_id = header(&headers, INGEST_ID_HEADER)?.map(str::to_owned);
    let plan = plan(&app, asked, &headers).await?;
    if plan.change().is_some() {
        let receipt = ingest_change(&app.engine, app.door.as_ref(), plan, ingest_id, &who).await?;
        return Ok(answer(&receipt, &BadRows::default()));
    }
    rows(&app, plan, format, &headers, &who).await
}

/// What a body asks.
fn asked(text: &str, media_type: &str) -> Result<Asked, ApiError> {
    match media_type {
        "application/json" => asked_in_json(text),
        "" | "text/plain" | "application/sql" => Ok(Asked { sql: text.to_owned(), ..Asked::default() }),
        other => Err(ApiError::unsupported(format!(
            "content-type {other:?} is not known; send application/sql with the statement, or application/json with \
             {{\"sql\": …}}"
        ))),
    }
}

fn asked_in_json(text: &str) -> Result<Asked, ApiError> {
    const KEYS: &str = "there are sql, parameters and format";
    let node = whole(text).map_err(|broken| {
        let (line, column) = json::place(text, broken.at);
        ApiError::invalid(format!("the JSON is broken at line {line}, column {column}: {}", broken.what))
    })?;
    let Value::Object(entries) = &node.value else {
        return Err(ApiError::invalid(format!("the body must be an object; {KEYS}")));
    };
    let mut asked = Asked::default();
    for (key, node) in entries {
        match (&**key, &node.value) {
            ("sql", Value::Text(sql)) => asked.sql = sql.to_string(),
            ("format", Value::Text(name)) => asked.format = Some(Format::named(name)?),
            ("parameters", Value::List(items)) => asked.parameters = parameters(items)?,
            ("format" | "parameters", Value::Null) => {}
            ("sql" | "format", _) => return Err(ApiError::invalid(format!("{key} must be a text"))),
            ("parameters", _) => return Err(ApiError::invalid("parameters must be a list, a value for each")),
            (other, _) => return Err(ApiError::invalid(format!("there is no key {other:?}; {KEYS}"))),
        }
    }
    Ok(asked)
}

/// A row of values, a column each.
fn parameters(items: &[Node<'_>]) -> Result<Option<RecordBatch>, ApiError> {
    if items.is_empty() {
        return Ok(None);
    }
    if items.len() > PARAMETERS_MAX {
        let what = format!("there are {} parameters, and the most is {PARAMETERS_MAX}", items.len());
        return Err(ApiError::too_large(format!("{what}; send rows to /v1/ingest")));
    }
    let mut columns = Vec::with_capacity(items.len());
    for (item, place) in items.iter().zip(1..) {
        let wrong = |reason: String| ApiError::invalid(format!("parameter {place}: {reason}"));
        columns.push(parameter(item).map_err(wrong)?);
    }
    let fields = columns
        .iter()
        .zip(1..)
        .map(|(values, place)| Field::new(format!("${place}"), values.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let batch = RecordBatch::try_new(schema, columns);
    batch
        .map(Some)
        .map_err(|error| Error::internal("the parameters can't be made an Arrow batch").because(error).into())
}

fn parameter(node: &Node<'_>) -> Result<ArrayRef, String> {
    match &node.value {
        Value::Null => Ok(Arc::new(StringArray::new_null(1))),
        Value::Bool(value) => Ok(Arc::new(BooleanArray::from(vec![*value]))),
        Value::Text(text) => Ok(Arc::new(StringArray::from(vec![text.as_ref()]))),
        Value::Number => number(node.text),
        Value::List(_) | Value::Object(_) => {
            Err(format!("it is {}; send null, a boolean, a number or a text", node.value.kind()))
        }
    }
}

/// A number as SQL would read it, unless a float would round it.
fn number(text: &str) -> Result<ArrayRef, String> {
    if let Ok(value) = text.parse::<i64>() {
        return Ok(Arc::new(Int64Array::from(vec![value])));
    }
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count();
    if let Some(value) = text.parse().ok().filter(|value: &f64| digits <= DOUBLE_DIGITS && value.is_finite()) {
        return Ok(Arc::new(Float64Array::from(vec![value])));
    }
    let too_long = || "the number has more digits than a decimal(38,s); send it as a text".to_owned();
    let fraction = mantissa.split_once('.').map_or("", |(_, fraction)| fraction);
    let scale = u8::try_from(fraction.len()).ok().filter(|scale| *scale <= DECIMAL_DIGITS_MAX);
    let scale = scale.filter(|_| mantissa.len() == text.len()).ok_or_else(too_long)?;
    let value = scaled(text, scale).map_err(|_| too_long())?;
    if value.unsigned_abs() >= 10_u128.pow(DECIMAL_DIGITS_MAX.into()) {
        return Err(too_long());
    }
    let values = Decimal128Array::from(vec![value]);
    let values = values.with_precision_and_scale(DECIMAL_DIGITS_MAX, scale.cast_signed());
    values.map(|values| Arc::new(values) as ArrayRef).map_err(|_| too_long())
}

/// The first format that a client takes.
fn accepted(headers: &HeaderMap) -> Result<Format, ApiError> {
    let types = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    let mut types = types.map(|one| one.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    let Some(first) = types.next() else { return Ok(Format::Json) };
    let found = Format::of_media_type(&first).or_else(|| types.find_map(|one| Format::of_media_type(&one)));
    found.ok_or_else(|| {
        ApiError::not_acceptable(format!("no format that is accepted is known; there are: {}", Format::media_types()))
    })
}

async fn plan(app: &App, asked: Asked, headers: &HeaderMap) -> Result<Plan, ApiError> {
    let Asked { sql, parameters, .. } = asked;
    if sql.trim().is_empty() {
        return Err(ApiError::invalid("there is no statement; send it as sql"));
    }
    let mut session = Session::default();
    set_headers(&mut session, headers, &app.engine.definition().name)?;
    let id = crate::ingest::new_id(app.clock.now_us());
    Ok(app.engine.plan(Request { id, text: QueryText::Sql(sql), session, parameters, pinned: None }).await?)
}

/// Runs a statement that reads. The answer begins with its first batch.
async fn rows(app: &App, plan: Plan, format: Format, headers: &HeaderMap, who: &Who) -> Result<Response, ApiError> {
    let id = plan.id().to_owned();
    let compression = header(headers, "mallard-compression")?.unwrap_or_default();
    let mut encoder = Encoder::new(format, plan.schema(), compression)?;
    let mut batches = guarded(app.engine.run(plan, who).await?);
    let mut head = encoder.begin()?;
    let first = batches.next().await.transpose()?;
    if let Some(batch) = &first {
        head.extend(encoder.encode(batch)?);
    }
    let state = if first.is_some() { Next::Rows } else { Next::End };
    let sending = Sending { encoder, batches, state };
    let head = stream::iter([Ok(Bytes::from(head))]);
    let mut response = Response::new(Body::from_stream(head.chain(stream::unfold(sending, Sending::next))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(QUERY_ID_HEADER, id);
    }
    Ok(response)
}

type Batches = Pin<Box<dyn Stream<Item = Result<RecordBatch>> + Send>>;

/// An operator that panics ends its own query only.
fn guarded(batches: SendableRecordBatchStream) -> Batches {
    let guarded = AssertUnwindSafe(batches).catch_unwind().map(|batch| match batch {
        Ok(batch) => batch.map_err(explain),
        Err(_) => Err(Error::internal("the query failed in the middle; this is a bug")),
    });
    guarded.boxed()
}

/// The rest of an answer.
struct Sending {
    encoder: Encoder,
    batches: Batches,
    state: Next,
}

/// What comes next.
enum Next {
    Rows,
    End,
    Fail(Error),
    Nothing,
}

impl Sending {
    async fn next(mut self) -> Option<(Result<Bytes, BoxError>, Self)> {
        loop {
            let piece = match std::mem::replace(&mut self.state, Next::Nothing) {
                Next::Nothing => return None,
                Next::End => self.encoder.end(),
                Next::Rows => match self.batches.next().await {
                    None => {
                        self.state = Next::End;
                        continue;
                    }
                    Some(batch) => {
                        self.state = Next::Rows;
                        batch.and_then(|batch| self.encoder.encode(&batch))
                    }
                },
                Next::Fail(error) => {
                    // What was given so far goes out before the connection breaks.
                    tokio::task::yield_now().await;
                    return Some((Err(error.into()), self));
                }
            };
            let piece = piece.unwrap_or_else(|error| {
                tracing::debug!(error = error.chain(), "a query failed in the middle of its answer");
                let last = self.encoder.fail(&error);
                self.state = Next::Fail(error);
                last
            });
            if !piece.is_empty() {
                return Some((Ok(piece.into()), self));
            }
        }
    }
}
