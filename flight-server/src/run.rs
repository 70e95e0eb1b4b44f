//! What each command builds, runs, and takes down again.

use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use lakehouse::definition::Definition;
use lakehouse::{Clock, Context as _, Definitions, Error, Kind, Lake, Result, SystemClock};
use tokio::net::TcpListener;

use crate::config::{Command, Listen};
use crate::delivery::DeliveryStream;
use crate::engine::{AdmissionOptions, Engine, EngineOptions, QueryLog};
use crate::flight::{self, FlightService, IngestDoor, Key, Sealer};
use crate::ingest::{AcceptedIngests, Door, ShutDoor};
use crate::results::Results;
use crate::system::{Backlog, NoBacklog, System};

/// What queries may spill, in bytes.
const QUERY_SPILL_BYTES_MAX: u64 = 16 << 30;

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
            announce(&server.address());
            server.serve(stop).await
        }
        #[cfg(feature = "local")]
        Command::Demo { data, example, exit, listen } => {
            crate::local::demo(crate::local::DemoOptions { data, example, exit, listen }).await
        }
        Command::Serve { definition, lake, listen } => serve(&definition, &lake, &listen).await,
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

/// The first line of every server: tools wait for it and read the port from it.
pub(crate) fn announce(address: &std::net::SocketAddr) {
    say(&format!("listening on {address}"));
}

/// Binds before anything else is touched, so that a second server fails without harm.
async fn bind(listen: &Listen) -> Result<TcpListener> {
    TcpListener::bind(listen.listen).await.map_err(|error| {
        let cure = if error.kind() == std::io::ErrorKind::AddrInUse {
            "another program has the port; stop it, or choose another with --listen (port 0 takes a free one)"
        } else {
            "choose another address with --listen"
        };
        Error::new(Kind::Unavailable, format!("can't listen on {}: {cure}", listen.listen)).because(error)
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
    backlog: Arc<dyn Backlog>,
    sealer: Sealer,
}

impl Parts {
    fn service(self, spill: std::path::PathBuf, listen: &Listen) -> Result<FlightService> {
        let Self { definitions, lake, clock, stream, backlog, sealer } = self;
        let accepted = Arc::new(AcceptedIngests::default());
        let queries = QueryLog::new(Arc::clone(&clock));
        let system = System::new(
            Arc::clone(&definitions),
            lake.clone(),
            Arc::clone(&clock),
            Arc::clone(&accepted),
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
        let engine = Engine::new(Arc::clone(&definitions), lake.clone(), system, Arc::clone(&clock), queries, options)?;
        let door: Arc<dyn IngestDoor> = match stream {
            Some(stream) => Arc::new(Door::new(definitions, lake, stream, Arc::clone(&clock), accepted)),
            None => Arc::new(ShutDoor),
        };
        FlightService::new(flight::Parts { engine: Arc::new(engine), door, results, sealer: Arc::new(sealer), clock })
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
    listener: TcpListener,
    address: std::net::SocketAddr,
    service: FlightService,
    local: crate::local::Local,
}

#[cfg(feature = "local")]
impl LocalServer {
    /// Binds the address, opens the folder, and starts the workers.
    pub(crate) async fn start(definition: Arc<Definition>, data: &Path, listen: &Listen) -> Result<Self> {
        let plan = crate::local::check(&definition).map_err(all_of)?;
        let listener = bind(listen).await?;
        let address =
            listener.local_addr().map_err(|error| Error::internal("the listener has no address").because(error))?;
        let lake = Lake::in_folder(data)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let definitions = Definitions::open(definition, lake.clone()).await?;
        let local = crate::local::Local::start(&definitions, plan, lake.clone(), data, clock.clone()).await?;
        let keys = match keys(listen)? {
            keys if keys.is_empty() => vec![Key::kept_at(&data.join("key"))?],
            keys => keys,
        };
        let (stream, backlog, sealer) = (Some(local.stream()), local.backlog(), Sealer::new(keys)?);
        let parts = Parts { definitions, lake, clock, stream, backlog, sealer };
        let service = parts.service(data.join("spill").join("query"), listen)?;
        Ok(Self { listener, address, service, local })
    }

    /// The address that it listens on.
    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.address
    }

    /// The workers, to be watched.
    pub(crate) fn local(&self) -> &crate::local::Local {
        &self.local
    }

    /// Serves until `stop` completes, then delivers what was accepted.
    pub(crate) async fn serve(self, stop: impl Future<Output = ()> + Send) -> Result<()> {
        let health = tonic_health::server::HealthReporter::new();
        let served = flight::server(self.listener, self.service, health, stop).await;
        let stopped = self.local.stop().await;
        served.and(stopped)
    }
}

async fn serve(definition: &Path, lake: &str, listen: &Listen) -> Result<()> {
    let definition = load(definition)?;
    let folder = lake_folder(lake)?;
    let listener = bind(listen).await?;
    if !folder.is_dir() {
        return Err(Error::not_found(format!(
            "there is no lake at {}; give the folder that holds silver/",
            folder.display()
        )));
    }
    let lake = Lake::in_folder(&folder)?;
    let keys = match keys(listen)? {
        keys if keys.is_empty() => {
            tracing::warn!("no --key: tickets and sessions of this server are known to it alone, until it stops");
            vec![Key::random()?]
        }
        keys => keys,
    };
    let parts = Parts {
        definitions: Definitions::open(definition, lake.clone()).await?,
        lake,
        clock: Arc::new(SystemClock),
        stream: None,
        backlog: Arc::new(NoBacklog),
        sealer: Sealer::new(keys)?,
    };
    let spill = tempfile::Builder::new().prefix("mallard-query-spill-").tempdir();
    let spill = spill.context(Kind::Unavailable, || "can't make a folder for what queries spill; set TMPDIR".into())?;
    let service = parts.service(spill.path().to_owned(), listen)?;
    let stop = stop_signal()?;
    if let Ok(address) = listener.local_addr() {
        announce(&address);
    }
    flight::server(listener, service, tonic_health::server::HealthReporter::new(), stop).await
}

/// The folder of a lake. Object stores come with the delivery stream that fills them.
fn lake_folder(lake: &str) -> Result<std::path::PathBuf> {
    match lake.split_once("://") {
        None => Ok(lake.into()),
        Some(("file", _)) => url::Url::parse(lake)
            .ok()
            .and_then(|url| url.to_file_path().ok())
            .ok_or_else(|| Error::invalid(format!("--lake {lake} is no file URI; write file:///absolute/path"))),
        Some((scheme, _)) => Err(Error::invalid(format!(
            "--lake {lake}: this version reads lakes in folders only, not {scheme}://; give a path or a file:// URI"
        ))),
    }
}
