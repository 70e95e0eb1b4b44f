//! Messages on their way in: how much of them the server holds, and for how long.
//!
//! A message is put together before it is decoded, and HTTP/2 gives back its window meanwhile. So a client could begin
//! thousands of large messages and end none. Here a message takes its length, which its prefix tells, out of a budget
//! that all calls share, and a client that lets the server wait for the rest of one must not do so for long. Between
//! messages a call may idle for days.
//!
//! ```text
//!  chunk ─► a message begins? its length ─► room in the budget? ─► tonic puts it together
//!               │                              └ none in time: RESOURCE_EXHAUSTED
//!               └ how long has the server waited for the rest of it? ─► too long: DEADLINE_EXCEEDED
//! ```
//!
//! Messages of up to [`FREE_BYTES`] cost nothing: small ones get through whatever others do.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Body as HttpBody, Frame, SizeHint};
use lakehouse::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture as ServiceFuture, Service};
use tonic::server::NamedService;

use super::server::MESSAGE_BYTES_MAX;
use super::status::status;

/// Messages of at most this many bytes are not counted.
const FREE_BYTES: usize = 256 << 10;

/// How long a message waits for room in the budget.
pub(super) const ROOM_WAIT_MAX: Duration = Duration::from_secs(20);

/// A message's prefix: a flag and the length
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
const PREFIX_BYTES: usize = 5;

/// What calls may hold together, and each for how long.
#[derive(Clone)]
pub(super) struct Inflow {
    room: Arc<Semaphore>,
    room_wait_max: Duration,
    message_time_max: Duration,
}

impl Inflow {
    /// A budget of `bytes` for messages that are not yet whole; one waits for it at most `room_wait_max`, and the server
    /// for the rest of one at most `message_time_max`.
    pub(super) fn new(bytes: usize, room_wait_max: Duration, message_time_max: Duration) -> Self {
        Self { room: Arc::new(Semaphore::new(bytes)), room_wait_max, message_time_max }
    }
}

/// A service whose callers' messages are watched as they come in.
#[derive(Clone)]
pub(super) struct Watched<S> {
    pub(super) service: S,
    pub(super) inflow: Inflow,
}

impl<S: NamedService> NamedService for Watched<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Watched<S>
where
    S: Service<
            Request<Body>,
            Response = Response<Body>,
            Error = Infallible,
            Future = ServiceFuture<Response<Body>, Infallible>,
        >,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ServiceFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let inflow = self.inflow.clone();
        self.service.call(request.map(|body| Body::new(Metered::new(body, inflow))))
    }
}

/// Follows the messages in a body.
#[derive(Debug, Default)]
struct Messages {
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    /// Bytes of the message that are still to come, behind its prefix.
    missing: usize,
    /// Bytes that the message has, as its prefix says; 0 while that is not known.
    length: usize,
    /// How many messages have ended so far.
    ended: u64,
}

impl Messages {
    /// Whether a message has begun and not ended.
    fn is_unfinished(&self) -> bool {
        self.prefix_bytes > 0
    }

    fn add(&mut self, mut chunk: &[u8]) {
        while !chunk.is_empty() {
            if self.prefix_bytes < PREFIX_BYTES {
                let taken = chunk.len().min(PREFIX_BYTES - self.prefix_bytes);
                let (head, tail) = chunk.split_at(taken);
                if let Some(place) = self.prefix.get_mut(self.prefix_bytes..self.prefix_bytes + taken) {
                    place.copy_from_slice(head);
                }
                self.prefix_bytes += taken;
                chunk = tail;
                if self.prefix_bytes == PREFIX_BYTES {
                    let [_, length @ ..] = self.prefix;
                    self.length = u32::from_be_bytes(length) as usize;
                    self.missing = self.length;
                }
            } else {
                let taken = chunk.len().min(self.missing);
                self.missing -= taken;
                chunk = chunk.split_at(taken).1;
            }
            if self.prefix_bytes == PREFIX_BYTES && self.missing == 0 {
                *self = Self { ended: self.ended + 1, ..Self::default() };
            }
        }
    }
}

/// A chunk that waits for room.
type Waiting = (Bytes, BoxFuture<'static, Result<OwnedSemaphorePermit, Status>>);

/// A body whose unfinished messages are accounted for.
struct Metered {
    body: Body,
    inflow: Inflow,
    messages: Messages,
    held: Option<OwnedSemaphorePermit>,
    waiting: Option<Waiting>,
    /// How long the server may still wait for the rest of the message.
    patience: Duration,
    /// Since when it does, and until when; none while it has something to do.
    waits: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Metered {
    fn new(body: Body, inflow: Inflow) -> Self {
        let patience = inflow.message_time_max;
        Self { body, inflow, messages: Messages::default(), held: None, waiting: None, patience, waits: None }
    }

    /// The room that the message needs that has begun, if that is known and it has none.
    fn wanted(&self) -> Option<usize> {
        // What is refused for its length anyway needs none.
        let is_counted = (FREE_BYTES + 1..=MESSAGE_BYTES_MAX).contains(&self.messages.length);
        (is_counted && self.held.is_none()).then_some(self.messages.length)
    }

    /// Notes a chunk that came.
    fn take(&mut self, chunk: &[u8]) {
        if let Some((since, _)) = self.waits.take() {
            self.patience = self.patience.saturating_sub(since.elapsed());
        }
        let ended = self.messages.ended;
        self.messages.add(chunk);
        if self.messages.ended != ended {
            self.patience = self.inflow.message_time_max;
            // Who asks for more has taken what was whole.
            self.held = None;
        }
    }

    /// Waits for the rest of a message, as long as there is patience.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if !self.messages.is_unfinished() {
            return Poll::Pending;
        }
        let patience = self.patience;
        let (_, until) = self.waits.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(patience))));
        ready!(until.as_mut().poll(cx));
        Poll::Ready(Status::deadline_exceeded(format!(
            "the server has waited {} s for the rest of a message; send smaller ones, or over a faster line",
            self.inflow.message_time_max.as_secs()
        )))
    }
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.waiting.is_none() {
            let frame = match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => return this.wait(cx).map(|late| Some(Err(late))),
            };
            let Some(frame) = frame else { return Poll::Ready(None) };
            let frame = frame.map_err(|error| Status::from_error(error.into()))?;
            let chunk = match frame.into_data() {
                Ok(chunk) => chunk,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            };
            this.take(&chunk);
            let Some(wanted) = this.wanted() else { return Poll::Ready(Some(Ok(Frame::data(chunk)))) };
            this.waiting = Some((chunk, Box::pin(room(this.inflow.clone(), wanted))));
        }
        let Some((_, room)) = &mut this.waiting else { return Poll::Ready(None) };
        let permit = ready!(room.as_mut().poll(cx));
        let chunk = this.waiting.take().map(|(chunk, _)| chunk).unwrap_or_default();
        Poll::Ready(Some(permit.map(|permit| {
            this.held = Some(permit);
            Frame::data(chunk)
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn room(inflow: Inflow, bytes: usize) -> Result<OwnedSemaphorePermit, Status> {
    let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
    let taken = tokio::time::timeout(inflow.room_wait_max, inflow.room.acquire_many_owned(permits)).await;
    taken.ok().and_then(Result::ok).ok_or_else(|| {
        status(Error::exhausted(format!(
            "the server's memory for incoming messages was in use for {} s; send again later, or smaller messages",
            inflow.room_wait_max.as_secs()
        )))
    })
}

#[cfg(test)]
mod tests;
