//! A client's deadline (`grpc-timeout`), kept under its own name.
//!
//! tonic ends a call whose client gave it a time, and says CANCELLED; the protocol's word is DEADLINE_EXCEEDED
//! (<https://grpc.io/docs/guides/status-codes/>). So calls end here, a moment earlier.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;

/// How much earlier than tonic a call is ended: more than a timer's tick.
const EARLIER: Duration = Duration::from_millis(3);

/// A service whose answers begin in time, or never. The time that streaming them takes is the client's to watch.
#[derive(Clone)]
pub(super) struct InTime<S>(pub(super) S);

impl<S: NamedService> NamedService for InTime<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for InTime<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let limit = limit(request.headers());
        let answer = self.0.call(request);
        Box::pin(async move {
            let Some(limit) = limit else { return answer.await };
            match tokio::time::timeout(limit.saturating_sub(EARLIER), answer).await {
                Ok(answer) => answer,
                Err(_elapsed) => {
                    let message = "the call took longer than its client allowed; allow it more time";
                    Ok(Status::deadline_exceeded(message).into_http())
                }
            }
        })
    }
}

/// The time that a call may take: up to 8 digits and a unit
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). What is no such time is left to tonic.
fn limit(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count.checked_mul(3600)?)),
        "M" => Some(Duration::from_secs(count.checked_mul(60)?)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tonic::codegen::http::HeaderValue;

    use super::*;

    #[test]
    fn times_are_read_in_every_unit() {
        let limit = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_bytes(text.as_bytes()).unwrap());
            super::limit(&headers)
        };
        assert_eq!(limit("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(limit("3M"), Some(Duration::from_secs(180)));
        assert_eq!(limit("4S"), Some(Duration::from_secs(4)));
        assert_eq!(limit("5m"), Some(Duration::from_millis(5)));
        assert_eq!(limit("6u"), Some(Duration::from_micros(6)));
        assert_eq!(limit("7n"), Some(Duration::from_nanos(7)));
        for nonsense in ["", "S", "x", "1", "-1S", "1\u{e9}", "99999999999999999999H"] {
            assert_eq!(limit(nonsense), None, "{nonsense}");
        }
    }
}
