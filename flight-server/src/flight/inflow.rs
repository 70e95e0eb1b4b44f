//! Messages on their way in: how much of them the server holds, and for how long.
//!
//! A message is put together before it is decoded, and HTTP/2 gives back its window meanwhile. So a client could begin
//! thousands of large messages and end none. Here the bytes of messages that are not yet whole come out of a budget
//! that all calls share, and a message that has begun must end in time. Between messages a call may idle for days.
//!
//! ```text
//!  chunk ─► how much of it belongs to an unfinished message? ─► room in the budget? ─► tonic puts it together
//!               └ since when is it unfinished? ─► too long: DEADLINE_EXCEEDED   └ none in time: RESOURCE_EXHAUSTED
//! ```
//!
//! The first [`FREE_BYTES`] of a message cost nothing: small messages get through whatever others do.

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
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture as ServiceFuture, Service};
use tonic::server::NamedService;

use super::status::status;

/// Bytes of a message that are not counted.
const FREE_BYTES: usize = 128 << 10;

/// How long a chunk waits for room in the budget.
pub(super) const ROOM_WAIT_MAX: Duration = Duration::from_secs(30);

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
    /// A budget of `bytes` for messages that are not yet whole; a chunk waits for it at most `room_wait_max`, and a
    /// message must be whole within `message_time_max`.
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

/// Follows the messages in a body: how many bytes of an unfinished one have come.
#[derive(Debug, Default)]
struct Unfinished {
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    /// Bytes of the message that are still to come, behind its prefix.
    missing: usize,
    /// Bytes of it that have come.
    received: usize,
}

impl Unfinished {
    fn add(&mut self, mut chunk: &[u8]) {
        while !chunk.is_empty() {
            if self.prefix_bytes < PREFIX_BYTES {
                let taken = chunk.len().min(PREFIX_BYTES - self.prefix_bytes);
                let (head, tail) = chunk.split_at(taken);
                if let Some(place) = self.prefix.get_mut(self.prefix_bytes..self.prefix_bytes + taken) {
                    place.copy_from_slice(head);
                }
                self.prefix_bytes += taken;
                self.received += taken;
                chunk = tail;
                let [_, length @ ..] = self.prefix;
                self.missing = u32::from_be_bytes(length) as usize;
            } else {
                let taken = chunk.len().min(self.missing);
                self.missing -= taken;
                self.received += taken;
                chunk = chunk.split_at(taken).1;
            }
            if self.prefix_bytes == PREFIX_BYTES && self.missing == 0 {
                *self = Self::default();
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
    unfinished: Unfinished,
    held: Option<OwnedSemaphorePermit>,
    waiting: Option<Waiting>,
    /// Runs as long as a message is unfinished.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Metered {
    fn new(body: Body, inflow: Inflow) -> Self {
        Self { body, inflow, unfinished: Unfinished::default(), held: None, waiting: None, deadline: None }
    }

    /// Gives back what belongs to messages that are done with: who asks for more has taken them.
    fn give_back(&mut self) {
        let counted = self.unfinished.received.saturating_sub(FREE_BYTES);
        let Some(held) = &mut self.held else { return };
        let surplus = held.num_permits().saturating_sub(counted);
        if surplus > 0 {
            drop(held.split(surplus));
        }
        if counted == 0 {
            self.held = None;
        }
    }

    /// The room that is needed for what is unfinished now.
    fn wanted(&self) -> usize {
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        self.unfinished.received.saturating_sub(FREE_BYTES).saturating_sub(held)
    }

    fn keep(&mut self, permit: OwnedSemaphorePermit) {
        match &mut self.held {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
    }

    fn set_deadline(&mut self) {
        if self.unfinished.received == 0 {
            self.deadline = None;
        } else if self.deadline.is_none() {
            self.deadline = Some(Box::pin(sleep(self.inflow.message_time_max)));
        }
    }

    fn check_deadline(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        let is_late = self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
        if !is_late {
            return Ok(());
        }
        Err(Status::deadline_exceeded(format!(
            "a message was not whole {} s after it had begun; send smaller ones, or over a faster line",
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
            this.give_back();
            let frame = match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    return match this.check_deadline(cx) {
                        Ok(()) => Poll::Pending,
                        Err(late) => Poll::Ready(Some(Err(late))),
                    };
                }
            };
            let Some(frame) = frame else { return Poll::Ready(None) };
            let frame = frame.map_err(|error| Status::from_error(error.into()))?;
            let chunk = match frame.into_data() {
                Ok(chunk) => chunk,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            };
            this.unfinished.add(&chunk);
            this.set_deadline();
            // What a slow client sends in time is not enough: the whole message must come.
            if let Err(late) = this.check_deadline(cx) {
                return Poll::Ready(Some(Err(late)));
            }
            let wanted = this.wanted();
            if wanted == 0 {
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            this.waiting = Some((chunk, Box::pin(room(this.inflow.clone(), wanted))));
        }
        let Some((_, room)) = &mut this.waiting else { return Poll::Ready(None) };
        let permit = ready!(room.as_mut().poll(cx));
        let chunk = this.waiting.take().map(|(chunk, _)| chunk).unwrap_or_default();
        let outcome = permit.map(|permit| {
            this.keep(permit);
            Frame::data(chunk)
        });
        Poll::Ready(Some(outcome))
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
