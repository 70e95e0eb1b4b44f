//! Replays: by the process that merges, between its merges; and as a command, over a folder, a lake or a server.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow_flight::Action;
use arrow_flight::flight_service_client::FlightServiceClient;
use async_trait::async_trait;
use bronze_to_silver::Merger;
use futures::FutureExt as _;
use futures::TryStreamExt as _;
use lakehouse::definition::Definition;
use lakehouse::{Clock, Context as _, Definitions, Error, Kind, Lake, Layer, Name, Result, SystemClock};
use tonic::Status;
use tonic::transport::Endpoint;

use super::{Local, Shared, check, merging};
use crate::config::{ReplayAt, ReplayFlags};
use crate::replays::{ACTION, Asked, Replayed, Replays};
use crate::run::{all_of, load, say};

/// The replays of a process that merges.
pub(super) struct LocalReplays {
    pub(super) shared: Arc<Shared>,
    pub(super) merger: Arc<Merger>,
}

#[async_trait]
impl Replays for LocalReplays {
    async fn replay(&self, table: &Name, filter: Option<&str>) -> Result<Replayed> {
        // It merges, so it waits for its turn.
        let permit = self.shared.merges.acquire().await;
        let replayed = AssertUnwindSafe(self.merger.replay(table, filter)).catch_unwind().await;
        drop(permit);
        // One that fails may have committed before.
        self.shared.silver_changed.send_modify(|count| *count += 1);
        let replayed = replayed.map_err(|_| Error::internal("the replay panicked (see the log)"))??;
        if let Some(version) = replayed.version {
            self.shared.due.committed(Layer::Silver, table, version);
        }
        Ok(told(replayed))
    }
}

fn told(replayed: bronze_to_silver::Replayed) -> Replayed {
    let bronze_to_silver::Replayed { rows, merged, quarantined_again, version } = replayed;
    Replayed { rows, merged, quarantined_again, version }
}

/// Runs the command `replay`.
pub(crate) async fn run(flags: ReplayFlags) -> Result<()> {
    let ReplayFlags { table, filter, definition, at } = flags;
    let definition = || {
        let missing = "which definition? give its folder with --definition, as the lakehouse has it";
        load(definition.as_deref().ok_or_else(|| Error::invalid(missing))?)
    };
    let replayed = match at {
        ReplayAt { server: Some(server), .. } => ask(&server, Asked { table: table.clone(), filter }).await?,
        ReplayAt { data: Some(data), .. } => {
            let (definition, lake) = (definition()?, Lake::open_uri(&data.to_string_lossy())?);
            in_folder(definition, lake, &data, &table, filter.as_deref()).await?
        }
        ReplayAt { lake, .. } => {
            let lake = Lake::open_uri(&lake.unwrap_or_default())?;
            in_lake(definition()?, lake, &table, filter.as_deref()).await?
        }
    };
    let Replayed { rows, merged, quarantined_again, version } = replayed;
    let version = version.map_or_else(String::new, |version| format!("; silver.{table} is at version {version}"));
    say(&format!("{table}: {rows} taken out of quarantine, {merged} merged, {quarantined_again} back in it{version}"));
    Ok(())
}

/// Replays in a data folder that no server uses.
async fn in_folder(
    definition: Arc<Definition>,
    lake: Lake,
    data: &std::path::Path,
    table: &str,
    filter: Option<&str>,
) -> Result<Replayed> {
    let table = known(&definition, table)?;
    let plan = check(&definition).map_err(all_of)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let definitions = Definitions::open(definition, lake.clone()).await?;
    let local = Local::start(&definitions, plan, lake, data, clock).await.map_err(|error| match error.kind() {
        Kind::Conflict => {
            let message = "a server runs on this folder; have it replay: give its address with --server instead";
            Error::new(Kind::Conflict, message).because(error)
        }
        _ => error,
    })?;
    let replayed = local.replays().replay(&table, filter).await;
    local.stop().await.and(replayed)
}

/// Replays in a lake whose tables others merge too: a commit race that is lost is run again.
async fn in_lake(definition: Arc<Definition>, lake: Lake, table: &str, filter: Option<&str>) -> Result<Replayed> {
    let table = known(&definition, table)?;
    check(&definition).map_err(all_of)?;
    let spill = tempfile::Builder::new().prefix("mallard-replay-spill-").tempdir();
    let spill =
        spill.context(Kind::Unavailable, || "can't make a folder for what a merge spills; set TMPDIR".into())?;
    let definitions = Definitions::open(definition, lake.clone()).await?;
    let settings = merging::settings(Some(spill.path().to_owned()));
    let merger = Merger::new(definitions, lake, Arc::new(SystemClock), settings);
    merger.replay(&table, filter).await.map(told)
}

fn known(definition: &Definition, table: &str) -> Result<Name> {
    // Tables that ingests made are not declared, so an unknown name may still be one.
    definition.table(table).map(|table| table.name.clone()).or_else(|_| Name::new(table))
}

/// Has a running server replay.
async fn ask(server: &str, asked: Asked) -> Result<Replayed> {
    let failed = || format!("can't connect to {server}; give the address that the server printed, as grpc://HOST:PORT");
    let address = server.strip_prefix("grpc://").unwrap_or(server);
    let endpoint = Endpoint::from_shared(format!("http://{address}")).context(Kind::Invalid, failed)?;
    let mut client = FlightServiceClient::new(endpoint.connect().await.context(Kind::Unavailable, failed)?);
    let refused = |status: Status| Error::invalid(format!("the server did not replay: {}", status.message()));
    let unreadable = || "the server's answer is none that this version knows".to_owned();
    let body = serde_json::to_vec(&asked).context(Kind::Internal, || "the request is no JSON".to_owned())?;
    let answer = client.do_action(Action::new(ACTION, body)).await.map_err(refused)?;
    let answers: Vec<arrow_flight::Result> = answer.into_inner().try_collect().await.map_err(refused)?;
    let answer = answers.first().ok_or_else(|| Error::internal(unreadable()))?;
    serde_json::from_slice(&answer.body).context(Kind::Internal, unreadable)
}
