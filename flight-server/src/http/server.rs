//! HTTP/1.1 on a listener: bounds on what connections may take, and a stop that ends.
//!
//! A client that sends its header slowly, leaves a connection idle, or does not take what is sent to it, is cut off. On
//! shutdown no connection is taken any more, requests that run may go on for [`SHUTDOWN_GRACE`], then they are cut.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use lakehouse::Result;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Sleep;

use crate::flight::SHUTDOWN_GRACE;

/// Connections at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 1024;

/// How long the header of a request may take, from the end of the one before: idle connections end then too.
const HEADER_TIME_MAX: Duration = Duration::from_secs(30);

/// How long a client may take nothing of its answer.
const STALL_MAX: Duration = Duration::from_secs(120);

/// How long to wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The address that a request came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Serves `router` on `listener` until `stop` completes and what ran then is done, or cut off.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: impl Future<Output = ()> + Send) -> Result<()> {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (stopping, is_stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = accept(&listener, &room) => {
                let (stream, peer, permit) = accepted;
                let (router, is_stopping) = (router.clone(), is_stopping.clone());
                connections.spawn(async move {
                    connection(stream, peer, router, is_stopping).await;
                    drop(permit);
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    stopping.send_replace(true);
    let over = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_GRACE, over).await.is_err() {
        tracing::warn!(
            grace_seconds = SHUTDOWN_GRACE.as_secs(),
            "HTTP requests still ran at the end of the grace period; cutting them off"
        );
        connections.shutdown().await;
    }
    Ok(())
}

/// The next connection, once there is room. What keeps it from being accepted is waited out.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed.
    let permit = Arc::clone(room).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, permit),
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection can't be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, mut is_stopping: watch::Receiver<bool>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "an HTTP connection is gone already");
        return;
    }
    let service = TowerToHyperService::new(router.layer(Extension(Peer(peer))));
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIME_MAX);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(Moving::new(stream, STALL_MAX)), service));
    let stopped = async { is_stopping.wait_for(|stopping| *stopping).await.is_ok() };
    tokio::select! {
        ended = serving.as_mut() => return log(peer, ended.map_err(|error| error.to_string())),
        _ = stopped => serving.as_mut().graceful_shutdown(),
    }
    let ended = serving.await;
    log(peer, ended.map_err(|error| error.to_string()));
}

/// Clients come and go as they like, so this is no warning.
fn log(peer: SocketAddr, ended: Result<(), String>) {
    if let Err(error) = ended {
        tracing::debug!(%peer, error, "an HTTP connection ended early");
    }
}

/// A stream that breaks if its peer takes nothing for some time.
struct Moving<S> {
    stream: S,
    stall_max: Duration,
    /// Set while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Moving<S> {
    fn new(stream: S, stall_max: Duration) -> Self {
        Self { stream, stall_max, stalled: None }
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stall_max = self.stall_max;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall_max)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Moving<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Moving<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_cut_off() {
        let (near, far) = tokio::io::duplex(4);
        let mut near = Moving::new(near, Duration::from_millis(50));
        near.write_all(b"four").await.unwrap();
        let error = near.write_all(b"more").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(far);
    }
}
