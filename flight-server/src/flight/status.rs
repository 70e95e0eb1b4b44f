//! The one place where [`lakehouse::Error`]s become gRPC statuses.

use std::time::Duration;

use arrow_flight::sql::Any;
use bytes::Bytes;
use lakehouse::{Error, Kind};
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

/// The longest message in a status, in bytes. It travels as an HTTP/2 trailer, percent-encoded, and many clients
/// refuse header lists over 8 KiB: <https://grpc.io/docs/guides/metadata/>.
const MESSAGE_BYTES_MAX: usize = 2 << 10;

/// Where gRPC clients look for how long to wait before they try again, in milliseconds:
/// <https://github.com/grpc/proposal/blob/master/A6-client-retries.md#pushback>.
const RETRY_HEADER: &str = "grpc-retry-pushback-ms";

/// `error` as a client sees it. What is internal is logged with its causes and shown without them.
pub fn status(error: Error) -> Status {
    let code = code(error.kind());
    let message = match error.kind() {
        Kind::Internal => {
            tracing::error!(error = %error.chain(), "internal error");
            error.to_string()
        }
        Kind::Invalid
        | Kind::Unauthenticated
        | Kind::Forbidden
        | Kind::NotFound
        | Kind::Conflict
        | Kind::AlreadyExists
        | Kind::Stopped
        | Kind::Exhausted
        | Kind::Unavailable
        | Kind::Timeout
        | Kind::Cancelled => error.chain(),
    };
    let message = shortened(message);
    let (mut metadata, mut details) = (MetadataMap::new(), Bytes::new());
    if let Some(wait) = error.retry_hint() {
        metadata.insert(RETRY_HEADER, u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).into());
        details = retry_details(code, &message, wait);
    }
    Status::with_details_and_metadata(code, message, details, metadata)
}

/// `google.rpc.Status`: <https://github.com/googleapis/googleapis/blob/master/google/rpc/status.proto>.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.rpc.RetryInfo`: <https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto>.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

/// The hint for clients that read details. Some take code and message from here too.
fn retry_details(code: Code, message: &str, wait: Duration) -> Bytes {
    let info = RetryInfo { retry_delay: prost_types::Duration::try_from(wait).ok() };
    let info =
        Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(), value: info.encode_to_vec().into() };
    RpcStatus { code: code.into(), message: message.to_owned(), details: vec![info] }.encode_to_vec().into()
}

/// A status for what clients may ask for and this server does not have.
pub(super) fn unimplemented(message: impl Into<String>) -> Status {
    Status::unimplemented(message)
}

/// A status for a failure to encode our own answer.
pub(super) fn unencodable(error: impl std::error::Error + Send + Sync + 'static) -> Status {
    status(Error::internal("the server can't encode its answer").because(error))
}

/// The code of a kind.
pub(crate) fn code(kind: Kind) -> Code {
    match kind {
        Kind::Invalid => Code::InvalidArgument,
        Kind::Unauthenticated => Code::Unauthenticated,
        Kind::Forbidden => Code::PermissionDenied,
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::Conflict => Code::Aborted,
        Kind::Stopped => Code::FailedPrecondition,
        Kind::Exhausted => Code::ResourceExhausted,
        Kind::Unavailable => Code::Unavailable,
        Kind::Timeout => Code::DeadlineExceeded,
        Kind::Cancelled => Code::Cancelled,
        Kind::Internal => Code::Internal,
    }
}

fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        message.push_str(" […]");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_code() {
        let codes = [
            (Kind::Invalid, Code::InvalidArgument),
            (Kind::Unauthenticated, Code::Unauthenticated),
            (Kind::Forbidden, Code::PermissionDenied),
            (Kind::NotFound, Code::NotFound),
            (Kind::AlreadyExists, Code::AlreadyExists),
            (Kind::Conflict, Code::Aborted),
            (Kind::Stopped, Code::FailedPrecondition),
            (Kind::Exhausted, Code::ResourceExhausted),
            (Kind::Unavailable, Code::Unavailable),
            (Kind::Timeout, Code::DeadlineExceeded),
            (Kind::Cancelled, Code::Cancelled),
            (Kind::Internal, Code::Internal),
        ];
        for (kind, code) in codes {
            assert_eq!(status(Error::new(kind, "x")).code(), code);
        }
    }

    #[test]
    fn causes_are_shown_unless_the_error_is_internal() {
        let cause = || std::io::Error::other("disk on fire");
        let shown = status(Error::unavailable("can't read the log").because(cause()));
        assert_eq!(shown.message(), "can't read the log: disk on fire");
        let hidden = status(Error::internal("a bug").because(cause()));
        assert_eq!(hidden.message(), "a bug");
    }

    #[test]
    fn a_hint_when_to_try_again_travels_in_milliseconds() {
        let wait = Duration::from_millis(1500);
        let hinted = status(Error::new(Kind::Exhausted, "full").retry_after(wait));
        assert_eq!(hinted.metadata().get(RETRY_HEADER).unwrap(), "1500");
        let RpcStatus { code, message, details } = RpcStatus::decode(hinted.details()).unwrap();
        assert_eq!((code, message.as_str()), (i32::from(hinted.code()), "full"));
        let info = RetryInfo::decode(details[0].value.clone()).unwrap();
        assert_eq!(info.retry_delay.map(|delay| (delay.seconds, delay.nanos)), Some((1, 500_000_000)));
        let plain = status(Error::new(Kind::Exhausted, "full"));
        assert!(plain.metadata().is_empty() && plain.details().is_empty());
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let cut = status(Error::invalid("ü".repeat(3000)));
        assert!(cut.message().len() <= MESSAGE_BYTES_MAX + 6);
        assert!(cut.message().ends_with("ü […]"));
    }
}
