//! The gRPC server around the service: limits, windows, health, reflection, and a stop that ends.
//!
//! On shutdown it says it is not serving, takes no more calls, lets those that run go on for [`SHUTDOWN_GRACE`], and
//! then cuts the connections that are left: an orchestrator kills what does not stop by itself.

use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use futures::{StreamExt as _, stream};
use lakehouse::{Context as _, Error, Kind, Result};
use proto::FLIGHT_DESCRIPTORS;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tonic_reflection::server::Builder as ReflectionBuilder;

use super::FlightService;
use super::deadline::InTime;
use super::inflow::{Inflow, ROOM_WAIT_MAX, Watched};

/// The largest message that is taken from a client, in bytes. gRPC's default of 4 MiB is too small: Go's writer sends
/// a batch as one message, however large (<https://grpc.io/docs/guides/performance/> has the defaults).
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How much a client may have under way on one stream, in bytes: at 100 ms and 1 MiB, the default, a stream moves only
/// 10 MiB/s.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;

/// The same for all streams of a connection together.
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;

/// Calls at once on one connection; further ones wait.
const STREAMS_MAX: u32 = 256;

/// How often a connection without traffic is asked for a sign of life, and how long it may take.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long to wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long calls may go on after a shutdown began.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// Bytes of unfinished messages that the server holds for all clients together.
const INFLOW_BYTES_MAX: usize = 256 << 20;

/// How a server treats its clients.
#[derive(Clone, Copy, Debug)]
pub struct ServerOptions {
    /// How long one message may take to arrive, in seconds.
    pub message_seconds_max: u64,
    /// How long calls may go on after a shutdown began.
    pub grace: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { message_seconds_max: 60, grace: SHUTDOWN_GRACE }
    }
}

/// The names under which health is reported: the process, and the service.
const HEALTH_NAMES: [&str; 2] = ["", "arrow.flight.protocol.FlightService"];

/// Serves `service` on `listener` until `shutdown` completes and what ran then is done, or cut off.
///
/// # Errors
/// `Unavailable` if connections can't be accepted any more.
pub async fn server(
    listener: TcpListener,
    service: FlightService,
    health: HealthReporter,
    options: ServerOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<()> {
    let reflection = |error| Error::internal("the server can't describe its services").because(error);
    let reflection_v1 = reflection_builder().build_v1().map_err(reflection)?;
    // What grpcurl and other tools asked for before there was v1.
    let reflection_v1alpha = reflection_builder().build_v1alpha().map_err(reflection)?;
    report(&health, ServingStatus::Serving).await;
    let (cut, is_cut) = watch::channel(false);
    let (stop, stopped) = oneshot::channel();
    let connections = stream::unfold(listener, |listener| async { Some((accept(&listener).await, listener)) });
    let connections = connections.map(move |connection| {
        connection.set_nodelay(true)?;
        Ok::<_, io::Error>(Connection::new(connection, is_cut.clone()))
    });
    let stopping = service.stopping();
    let inflow = Inflow::new(INFLOW_BYTES_MAX, ROOM_WAIT_MAX, Duration::from_secs(options.message_seconds_max));
    let flight = FlightServiceServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(usize::MAX);
    let serving = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_INTERVAL))
        .add_service(HealthServer::new(HealthService::from_health_reporter(health.clone())))
        .add_service(reflection_v1)
        .add_service(reflection_v1alpha)
        .add_service(Watched { service: InTime(flight), inflow })
        .serve_with_incoming_shutdown(connections, async move {
            shutdown.await;
            stopping.begin();
            report(&health, ServingStatus::NotServing).await;
            // The receiver waits below for as long as this future is polled.
            let _ = stop.send(());
        });
    tokio::select! {
        served = serving => served.context(Kind::Unavailable, || "the server can't go on accepting connections".into()),
        () = cut_after(stopped, options.grace, cut) => Ok(()),
    }
}

/// The next connection. What keeps it from being accepted, such as too many open files, is waited out.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((connection, _)) => return connection,
            Err(error) => {
                tracing::warn!(%error, "a connection can't be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Cuts all connections once `grace` has passed since the stop; never completes, since serving then does.
async fn cut_after(stopped: oneshot::Receiver<()>, grace: Duration, cut: watch::Sender<bool>) {
    if stopped.await.is_ok() {
        tokio::time::sleep(grace).await;
        tracing::warn!(
            grace_seconds = grace.as_secs(),
            "calls still ran at the end of the grace period; cutting them off"
        );
        cut.send_replace(true);
    }
    pending().await
}

fn reflection_builder() -> ReflectionBuilder<'static> {
    ReflectionBuilder::configure()
        .register_encoded_file_descriptor_set(FLIGHT_DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

async fn report(health: &HealthReporter, state: ServingStatus) {
    for name in HEALTH_NAMES {
        health.set_service_status(name, state).await;
    }
}

/// A connection that can be cut from outside.
struct Connection {
    stream: TcpStream,
    /// None once the connection is cut.
    cut: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Connection {
    fn new(stream: TcpStream, mut is_cut: watch::Receiver<bool>) -> Self {
        let cut = async move {
            if is_cut.wait_for(|cut| *cut).await.is_err() {
                // The server is gone, and with it who could cut.
                pending::<()>().await;
            }
        };
        Self { stream, cut: Some(Box::pin(cut)) }
    }

    fn check(&mut self, cx: &mut TaskContext<'_>) -> io::Result<()> {
        if let Some(cut) = &mut self.cut
            && cut.as_mut().poll(cx).is_pending()
        {
            return Ok(());
        }
        self.cut = None;
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server is shutting down"))
    }
}

impl Connected for Connection {
    type ConnectInfo = <TcpStream as Connected>::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
