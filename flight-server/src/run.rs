//! What each command builds, runs, and takes down again.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use lakehouse::definition::Definition;
use lakehouse::{Clock, Context as _, Definitions, Error, Kind, Lake, Result, SystemClock};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::{Command, FirehoseFlags, Listen};
use crate::delivery::{DeliveryStream, Firehose, FirehoseOptions, StreamNames};
use crate::door::IngestDoor;
use crate::engine::{AdmissionOptions, Engine, EngineOptions, QueryLog};
use crate::flight::{self, FlightService, Key, Sealer, ServerOptions};
use crate::http::{self, HttpParts};
use crate::ingest::{Door, ShutDoor, Traces};
use crate::replays::Replays;
use crate::results::Results;
use crate::system::{Backlog, NoBacklog, System};

/// What queries may spill, in bytes.
const QUERY_SPILL_BYTES_MAX: u64 = 16 << 30;

/// How long a stop waits at most for calls to Firehose, behind the time that calls of clients are given: together less
/// than the 30 s after which ECS kills a task
/// (<https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_ContainerDefinition.html>).
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(10);

/// How often results that nobody can fetch any more are removed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(300);

/// Runs a command to its end.
///
/// # Errors
/// What stopped it, for the command line.
pub async fn run(command: Command) -> Result<()> {
    match command {
        #[cfg(feature = "local")]
        Command::Check { definition } => check(&definition),
        #[cfg(feature = "local")]
        Command::Local { definition, data, listen } => {
            let definition = load(&definition)?;
            let server = LocalServer::start(definition, &data, &listen).await?;
            let stop = stop_signal()?;
            server.announce();
            server.serve(stop).await
        }
        #[cfg(feature = "local")]
        Command::Demo { data, example, exit, listen } => {
            crate::local::demo(crate::local::DemoOptions { data, example, exit, listen }).await
        }
        #[cfg(feature = "local")]
        Command::Replay(flags) => crate::local::replay(flags).await,
        Command::Serve { definition, lake, firehose, listen } => serve(&definition, &lake, &firehose, &listen).await,
    }
}

/// Reads a definition.
pub(crate) fn load(folder: &Path) -> Result<Arc<Definition>> {
    Definition::load(folder).map(Arc::new).map_err(Error::from)
}

/// All problems as one error, a line each.
#[cfg(feature = "local")]
pub(crate) fn all_of(problems: Vec<Error>) -> Error {
    let lines: Vec<String> = problems.iter().map(Error::chain).collect();
    Error::invalid(lines.join("\n"))
}

#[cfg(feature = "local")]
fn check(folder: &Path) -> Result<()> {
    let definition = load(folder)?;
    let plan = crate::local::check(&definition).map_err(all_of)?;
    say(crate::local::describe(&definition, &plan).trim_end());
    Ok(())
}

/// Writes a line of the command's output at once. Whoever stopped reading (`| head`) does not stop the server.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Where a server listens.
struct Listeners {
    flight: TcpListener,
    http: Option<TcpListener>,
}

impl Listeners {
    /// Binds before anything else is touched, so that a second server fails without harm.
    async fn bind(listen: &Listen) -> Result<Self> {
        let flight = bind(listen.listen, "--listen").await?;
        let http = match listen.http_listen {
            Some(address) => Some(bind(address, "--http-listen").await?),
            None => None,
        };
        Ok(Self { flight, http })
    }

    /// The address of the Flight server.
    #[cfg(feature = "local")]
    fn address(&self) -> Result<SocketAddr> {
        self.flight.local_addr().map_err(|error| Error::internal("the listener has no address").because(error))
    }

    /// The first line of every server: tools wait for it and read the port from it. The HTTP address follows.
    fn announce(&self) {
        if let Ok(address) = self.flight.local_addr() {
            say(&format!("listening on {address}"));
        }
        if let Some(Ok(address)) = self.http.as_ref().map(TcpListener::local_addr) {
            say(&format!("http on {address}"));
        }
    }

    /// Serves until `stop` completes and what ran then is done.
    async fn serve(self, services: Services, stop: impl Future<Output = ()> + Send) -> Result<()> {
        let health = tonic_health::server::HealthReporter::new();
        let (stopping, stopped) = watch::channel(false);
        let until_stopped = || {
            let mut stopped = stopped.clone();
            async move {
                // The sender lives until both servers are done.
                let _ = stopped.wait_for(|stopped| *stopped).await;
            }
        };
        let flight = flight::server(self.flight, services.flight, health, services.options, until_stopped());
        let http = async {
            match self.http {
                Some(listener) => http::serve(listener, services.http, until_stopped()).await,
                None => Ok(()),
            }
        };
        let mut served = pin!(async {
            // If one of them can't go on, the other one stops too.
            let (flight, http) =
                tokio::join!(async { flight.await.inspect_err(|_| _ = stopping.send_replace(true)) }, async {
                    http.await.inspect_err(|_| _ = stopping.send_replace(true))
                },);
            flight.and(http)
        });
        tokio::select! {
            served = &mut served => return served,
            () = stop => { stopping.send_replace(true); }
        }
        served.await
    }
}

async fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let cure = if error.kind() == std::io::ErrorKind::AddrInUse {
            format!("another program has the port; stop it, or choose another with {flag} (port 0 takes a free one)")
        } else {
            format!("choose another address with {flag}")
        };
        Error::new(Kind::Unavailable, format!("can't listen on {address}: {cure}")).because(error)
    })
}

/// Listens for SIGTERM and Ctrl-C from now on; the future completes at the first of them. Call it before the address is
/// announced: who reads it may stop the server at once.
pub(crate) fn stop_signal() -> Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};

    let failed = || "can't listen for signals".to_owned();
    let mut terminated = signal(SignalKind::terminate()).context(Kind::Unavailable, failed)?;
    let mut interrupted = signal(SignalKind::interrupt()).context(Kind::Unavailable, failed)?;
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    })
}

/// The keys that the settings give, if they give any.
fn keys(listen: &Listen) -> Result<Vec<Key>> {
    match &listen.key_file {
        Some(file) => Ok(vec![Key::read(file)?]),
        None => listen.key.iter().map(|key| Key::parse(key)).collect(),
    }
}

/// The parts of a server that do not depend on how rows get to silver.
struct Parts {
    definitions: Arc<Definitions>,
    lake: Lake,
    clock: Arc<dyn Clock>,
    /// None: the server only reads.
    stream: Option<Arc<dyn DeliveryStream>>,
    /// How long a frame waits for others to share its record.
    linger: Duration,
    backlog: Arc<dyn Backlog>,
    /// None: the server merges nothing.
    replays: Option<Arc<dyn Replays>>,
    sealer: Sealer,
}

/// What is served.
struct Services {
    flight: FlightService,
    http: HttpParts,
    options: ServerOptions,
}

impl Parts {
    fn services(self, spill: std::path::PathBuf, listen: &Listen) -> Result<Services> {
        let Self { definitions, lake, clock, stream, linger, backlog, replays, sealer } = self;
        let traces = Traces::default();
        let queries = QueryLog::new(Arc::clone(&clock));
        let system = System::new(
            Arc::clone(&definitions),
            lake.clone(),
            Arc::clone(&clock),
            traces.clone(),
            Arc::clone(&queries),
            backlog,
        );
        let seconds = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
        let options = EngineOptions {
            memory_bytes: listen.query_memory_mib.saturating_mul(1 << 20),
            spill_dir: spill,
            spill_bytes_max: QUERY_SPILL_BYTES_MAX,
            admission: AdmissionOptions {
                running_max: listen.queries_max,
                waiting_max: listen.queue_max,
                wait_max: Duration::from_secs(listen.queue_wait_seconds),
            },
            timeout: seconds(listen.query_timeout_seconds),
            result_bytes_max: (listen.result_mib_max > 0).then_some(listen.result_mib_max.saturating_mul(1 << 20)),
            slice_bytes: listen.slice_mib.saturating_mul(1 << 20),
        };
        let results = Results::new(&lake, Arc::clone(&clock))?;
        tokio::spawn(sweep(Arc::downgrade(&results)));
        let system = Arc::new(system);
        let tables = Arc::clone(&system) as _;
        let engine = Engine::new(Arc::clone(&definitions), lake.clone(), tables, Arc::clone(&clock), queries, options)?
            .with_ingests(system);
        let door: Arc<dyn IngestDoor> = match stream {
            Some(stream) => Arc::new(Door::new(definitions, lake, stream, linger, Arc::clone(&clock), traces)),
            None => Arc::new(ShutDoor),
        };
        let engine = Arc::new(engine);
        let http = HttpParts { engine: Arc::clone(&engine), door: Arc::clone(&door), clock: Arc::clone(&clock) };
        let sealer = Arc::new(sealer);
        let flight = FlightService::new(flight::Parts { engine, door, results, sealer, clock })?.with_replays(replays);
        let options = ServerOptions { message_seconds_max: listen.ingest_message_seconds, ..ServerOptions::default() };
        Ok(Services { flight, http, options })
    }
}

/// Removes old results from time to time, as long as there is a server.
async fn sweep(results: Weak<Results>) {
    while let Some(results) = results.upgrade() {
        if let Err(error) = results.sweep().await {
            tracing::warn!(error = error.chain(), "old results stay for now");
        }
        drop(results);
        tokio::time::sleep(SWEEP_INTERVAL).await;
    }
}

/// A whole lakehouse over a folder, bound and ready to serve.
#[cfg(feature = "local")]
pub(crate) struct LocalServer {
    listeners: Listeners,
    address: SocketAddr,
    services: Services,
    local: crate::local::Local,
}

#[cfg(feature = "local")]
impl LocalServer {
    /// Binds the address, opens the folder, and starts the workers.
    pub(crate) async fn start(definition: Arc<Definition>, data: &Path, listen: &Listen) -> Result<Self> {
        let plan = crate::local::check(&definition).map_err(all_of)?;
        let listeners = Listeners::bind(listen).await?;
        let address = listeners.address()?;
        let lake = Lake::in_folder(data)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let definitions = Definitions::open(definition, lake.clone()).await?;
        let local = crate::local::Local::start(&definitions, plan, lake.clone(), data, clock.clone()).await?;
        let keys = match keys(listen)? {
            keys if keys.is_empty() => vec![Key::kept_at(&data.join("key"))?],
            keys => keys,
        };
        let (stream, backlog, sealer) = (Some(local.stream()), local.backlog(), Sealer::new(keys)?);
        let replays = Some(local.replays());
        // Journals don't bill by the record.
        let parts = Parts { definitions, lake, clock, stream, linger: Duration::ZERO, backlog, replays, sealer };
        let services = parts.services(data.join("spill").join("query"), listen)?;
        Ok(Self { listeners, address, services, local })
    }

    /// The address that it listens on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tells where it listens.
    pub(crate) fn announce(&self) {
        self.listeners.announce();
    }

    /// The workers, to be watched.
    pub(crate) fn local(&self) -> &crate::local::Local {
        &self.local
    }

    /// Serves until `stop` completes, then delivers what was accepted.
    pub(crate) async fn serve(self, stop: impl Future<Output = ()> + Send) -> Result<()> {
        let served = self.listeners.serve(self.services, stop).await;
        let stopped = self.local.stop().await;
        served.and(stopped)
    }
}

async fn serve(definition: &Path, lake: &str, firehose: &FirehoseFlags, listen: &Listen) -> Result<()> {
    let definition = load(definition)?;
    let listeners = Listeners::bind(listen).await?;
    let lake = Lake::open_uri(lake)?;
    let keys = match keys(listen)? {
        keys if keys.is_empty() => {
            tracing::warn!("no --key: tickets and sessions of this server are known to it alone, until it stops");
            vec![Key::random()?]
        }
        keys => keys,
    };
    let stream: Option<Arc<dyn DeliveryStream>> = match &firehose.stream {
        Some(template) => {
            let wrong = |error: Error| Error::invalid("--firehose-stream names no delivery streams").because(error);
            let streams = StreamNames::parse(template, firehose.streams_per_table).map_err(wrong)?;
            for table in definition.tables.keys() {
                streams.of(table).map_err(wrong)?;
            }
            Some(Arc::new(Firehose::connect(FirehoseOptions::new(streams)).await?))
        }
        None => None,
    };
    let parts = Parts {
        definitions: Definitions::open(definition, lake.clone()).await?,
        lake,
        clock: Arc::new(SystemClock),
        stream: stream.clone(),
        linger: Duration::from_millis(firehose.linger_ms),
        backlog: Arc::new(NoBacklog),
        replays: None,
        sealer: Sealer::new(keys)?,
    };
    let spill = tempfile::Builder::new().prefix("mallard-query-spill-").tempdir();
    let spill = spill.context(Kind::Unavailable, || "can't make a folder for what queries spill; set TMPDIR".into())?;
    let services = parts.services(spill.path().to_owned(), listen)?;
    let stop = stop_signal()?;
    listeners.announce();
    let served = listeners.serve(services, stop).await;
    let closed = match stream {
        // Nobody waits for what is still under way: it was not acknowledged, and comes again.
        Some(stream) => match tokio::time::timeout(CLOSE_WAIT_MAX, stream.close()).await {
            Ok(closed) => closed,
            Err(_) => {
                tracing::warn!("some calls to Firehose did not end; their rows were not acknowledged");
                Ok(())
            }
        },
        None => Ok(()),
    };
    served.and(closed)
}
