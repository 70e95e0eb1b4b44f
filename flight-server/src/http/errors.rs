//! The one place where errors become HTTP statuses and the JSON that says what is wrong.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use lakehouse::{Error, Kind};
use serde_json::{Map, Value, json};

use crate::door::BAD_ROWS_TOLD_MAX;
use crate::flight::INGEST_ID_HEADER;

/// How long a client should wait that is told nothing better.
const RETRY_AFTER_SECONDS: u64 = 1;

/// A row that is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadRow {
    /// Its place in the body, from 1.
    pub(super) row: u64,
    /// Its line in the body, from 1, if rows are lines.
    pub(super) line: Option<u64>,
    pub(super) column: Option<String>,
    pub(super) reason: String,
}

/// The rows that are not taken: how many, and the first [`BAD_ROWS_TOLD_MAX`] of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BadRows {
    pub(super) count: u64,
    pub(super) rows: Vec<BadRow>,
}

impl BadRows {
    pub(super) fn push(&mut self, row: BadRow) {
        self.count += 1;
        if self.rows.len() < BAD_ROWS_TOLD_MAX {
            self.rows.push(row);
        }
    }

    /// Adds `count` others, of which `rows` are the first.
    pub(super) fn add(&mut self, count: u64, rows: impl IntoIterator<Item = BadRow>) {
        self.count += count;
        self.rows.extend(rows);
        self.rows.sort_by_key(|bad| bad.row);
        self.rows.truncate(BAD_ROWS_TOLD_MAX);
    }

    pub(super) fn to_json(&self) -> Value {
        self.rows.iter().map(BadRow::to_json).collect()
    }
}

impl BadRow {
    fn to_json(&self) -> Value {
        let mut row = Map::new();
        row.insert("row".to_owned(), self.row.into());
        if let Some(line) = self.line {
            row.insert("line".to_owned(), line.into());
        }
        if let Some(column) = &self.column {
            row.insert("column".to_owned(), column.as_str().into());
        }
        row.insert("reason".to_owned(), self.reason.as_str().into());
        row.into()
    }
}

/// What goes back instead of an answer.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: Box<str>,
    retry_after: Option<Duration>,
    is_retriable: bool,
    bad_rows: Option<Box<BadRows>>,
    ingest_id: Option<String>,
    kept_rows: Option<u64>,
    allow: Option<&'static str>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into().into_boxed_str();
        Self {
            status,
            code,
            message,
            retry_after: None,
            is_retriable: false,
            bad_rows: None,
            ingest_id: None,
            kept_rows: None,
            allow: None,
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", message)
    }

    /// What was sent is over a limit: it fails again unless it gets smaller.
    pub(super) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// The client took too long to send.
    pub(super) fn too_slow(message: impl Into<String>) -> Self {
        Self { is_retriable: true, ..Self::new(StatusCode::REQUEST_TIMEOUT, "timeout", message) }
    }

    pub(super) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported", message)
    }

    pub(super) fn not_acceptable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", message)
    }

    pub(super) fn method(allow: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { allow, ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message) }
    }

    /// Rows were refused.
    pub(super) fn bad_rows(message: impl Into<String>, bad_rows: BadRows) -> Self {
        Self { bad_rows: Some(Box::new(bad_rows)), ..Self::invalid(message) }
    }

    /// Tells which ingest it was, so that it can be sent again under the same id.
    #[must_use]
    pub(super) fn of_ingest(mut self, ingest_id: &str) -> Self {
        self.ingest_id = Some(ingest_id.to_owned());
        self
    }

    /// Tells how many rows are kept all the same.
    #[must_use]
    pub(super) fn with_kept(mut self, rows: u64) -> Self {
        self.kept_rows = Some(rows);
        self
    }

    #[cfg(test)]
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    #[cfg(test)]
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// `{"error": …}`
    pub(super) fn to_json(&self) -> Value {
        let mut error = Map::new();
        error.insert("code".to_owned(), self.code.into());
        error.insert("message".to_owned(), (&*self.message).into());
        error.insert("retriable".to_owned(), self.is_retriable.into());
        if let Some(ingest_id) = &self.ingest_id {
            error.insert("ingest_id".to_owned(), ingest_id.as_str().into());
        }
        if let Some(rows) = self.kept_rows {
            error.insert("kept_rows".to_owned(), rows.into());
        }
        if let Some(bad) = &self.bad_rows {
            error.insert("rejected_rows".to_owned(), bad.count.into());
            error.insert("rows".to_owned(), bad.to_json());
        }
        json!({ "error": error })
    }
}

impl From<Error> for ApiError {
    /// What is internal is logged with its causes and shown without them.
    fn from(error: Error) -> Self {
        let kind = error.kind();
        let message = if kind == Kind::Internal {
            tracing::error!(error = %error.chain(), "internal error");
            error.to_string()
        } else {
            error.chain()
        };
        let (status, code) = status(kind);
        let retry_after = error.retry_hint();
        Self { retry_after, is_retriable: kind.is_retriable(), ..Self::new(status, code, message) }
    }
}

/// The status of a kind, and its name.
fn status(kind: Kind) -> (StatusCode, &'static str) {
    match kind {
        Kind::Invalid => (StatusCode::BAD_REQUEST, "invalid"),
        Kind::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
        Kind::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
        Kind::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        Kind::AlreadyExists => (StatusCode::CONFLICT, "already_exists"),
        Kind::Conflict => (StatusCode::CONFLICT, "conflict"),
        Kind::Stopped => (StatusCode::CONFLICT, "stopped"),
        Kind::Cancelled => (StatusCode::CONFLICT, "cancelled"),
        Kind::Exhausted => (StatusCode::TOO_MANY_REQUESTS, "exhausted"),
        Kind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        Kind::Timeout => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
        Kind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, &self.to_json());
        let headers = response.headers_mut();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            let seconds = self.retry_after.map_or(RETRY_AFTER_SECONDS, whole_seconds);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(id) = self.ingest_id.as_deref().and_then(|id| HeaderValue::from_str(id).ok()) {
            headers.insert(INGEST_ID_HEADER, id);
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0))
}

/// An answer in JSON, with a line end for people at a terminal.
pub(super) fn json_response(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(format!("{body}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Each status that an error can have, and each code with it.
#[cfg(test)]
pub(super) fn all() -> Vec<(u16, &'static str)> {
    let of_kinds = tests::STATUSES.map(|(kind, _)| ApiError::from(Error::new(kind, "x")));
    let own = [
        ApiError::invalid("x"),
        ApiError::too_large("x"),
        ApiError::too_slow("x"),
        ApiError::unsupported("x"),
        ApiError::not_acceptable("x"),
        ApiError::method(None, "x"),
    ];
    of_kinds.into_iter().chain(own).map(|error| (error.status.as_u16(), error.code)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const STATUSES: [(Kind, u16); 12] = [
        (Kind::Invalid, 400),
        (Kind::Unauthenticated, 401),
        (Kind::Forbidden, 403),
        (Kind::NotFound, 404),
        (Kind::AlreadyExists, 409),
        (Kind::Conflict, 409),
        (Kind::Stopped, 409),
        (Kind::Cancelled, 409),
        (Kind::Exhausted, 429),
        (Kind::Unavailable, 503),
        (Kind::Timeout, 504),
        (Kind::Internal, 500),
    ];

    #[test]
    fn each_kind_has_its_status() {
        for (kind, status) in STATUSES {
            let error = ApiError::from(Error::new(kind, "x"));
            assert_eq!(error.status().as_u16(), status, "{kind:?}");
            assert_eq!(error.to_json()["error"]["retriable"], kind.is_retriable());
        }
    }

    #[test]
    fn causes_are_shown_unless_the_error_is_internal() {
        let cause = || std::io::Error::other("disk on fire");
        let shown = ApiError::from(Error::unavailable("can't read the log").because(cause()));
        assert_eq!(shown.message(), "can't read the log: disk on fire");
        assert_eq!(ApiError::from(Error::internal("a bug").because(cause())).message(), "a bug");
    }

    #[test]
    fn a_hint_when_to_try_again_is_rounded_up_to_seconds() {
        let wait = Duration::from_millis(1500);
        let hinted = ApiError::from(Error::exhausted("full").retry_after(wait)).into_response();
        assert_eq!(hinted.headers()[RETRY_AFTER], "2");
        let plain = ApiError::from(Error::unavailable("gone")).into_response();
        assert_eq!(plain.headers()[RETRY_AFTER], "1");
        assert!(!ApiError::invalid("wrong").into_response().headers().contains_key(RETRY_AFTER));
    }

    #[test]
    fn bad_rows_are_told_in_order_and_counted_beyond_what_is_told() {
        let bad = |row| BadRow { row, line: None, column: Some("x".to_owned()), reason: "wrong".to_owned() };
        let mut rows = BadRows::default();
        let half = u64::try_from(BAD_ROWS_TOLD_MAX).unwrap() / 2;
        (0..half + 40).for_each(|number| rows.push(bad(2 * number + 2)));
        rows.add(half, (0..half).map(|number| bad(2 * number + 1)));
        assert_eq!((rows.count, rows.rows.len()), (2 * half + 40, BAD_ROWS_TOLD_MAX));
        assert!(rows.rows.iter().zip(1..).all(|(bad, row)| bad.row == row));
        let error = ApiError::bad_rows("rows were refused", rows).of_ingest("mine").with_kept(7).to_json();
        assert_eq!(error["error"]["rejected_rows"], 2 * half + 40);
        assert_eq!((&error["error"]["ingest_id"], &error["error"]["kept_rows"]), (&json!("mine"), &json!(7)));
        assert_eq!(error["error"]["rows"][0], json!({ "row": 1, "column": "x", "reason": "wrong" }));
    }
}
