//! Requests and answers as they are on the wire: AWS JSON 1.1.

use std::borrow::Cow;
use std::io;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

/// A call of PutRecordBatch.
#[derive(Deserialize)]
pub(super) struct Batch<'a> {
    /// The delivery stream.
    #[serde(rename = "DeliveryStreamName", borrow)]
    pub(super) stream: Cow<'a, str>,
    /// What it is to take.
    #[serde(rename = "Records", borrow)]
    pub(super) records: Vec<Record<'a>>,
}

/// A record.
#[derive(Deserialize)]
pub(super) struct Record<'a> {
    /// In base64; borrowed from the request, where it is most of it.
    #[serde(rename = "Data", borrow)]
    pub(super) data: Cow<'a, str>,
}

/// The bytes that base64 stands for.
pub(super) fn decoded_len(base64: &str) -> usize {
    let padding = base64.bytes().rev().take_while(|byte| *byte == b'=').count();
    (base64.len() / 4 * 3).saturating_sub(padding)
}

/// The answer that judges each record.
pub(super) fn verdicts(taken: &[bool]) -> Response {
    let failed = taken.iter().filter(|taken| !**taken).count();
    let entry = |(position, taken): (usize, &bool)| match taken {
        true => json!({"RecordId": format!("record-{position}")}),
        false => json!({"ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down."}),
    };
    let entries: Vec<_> = taken.iter().enumerate().map(entry).collect();
    let answer = json!({"FailedPutCount": failed, "Encrypted": false, "RequestResponses": entries});
    amz(StatusCode::OK, answer.to_string())
}

/// The answer that refuses a call.
pub(super) fn refused(status: u16, code: &str, message: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    amz(status, json!({"__type": code, "message": message}).to_string())
}

/// No answer: the connection breaks.
pub(super) fn broken_off() -> Response {
    let breaks = async { Err::<Bytes, _>(io::Error::from(io::ErrorKind::ConnectionReset)) };
    let body = Body::from_stream(futures::stream::once(breaks));
    ([("content-type", "application/x-amz-json-1.1"), ("content-length", "100")], body).into_response()
}

fn amz(status: StatusCode, text: String) -> Response {
    (status, [("content-type", "application/x-amz-json-1.1")], Body::from(text)).into_response()
}
