//! The demo: the flights example from its events to its gold tables, in one process, as clients see it.
//!
//! It starts the server, sends the events through Flight DoPut as any producer would, watches them on their way, and
//! asks for the gold tables by SQL. Whatever it has sent is noted beside the data, so that a second start goes on where
//! the first ended; each ingest has a fixed id, so what was sent twice counts once.

mod progress;
mod send;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use arrow_flight::sql::client::FlightSqlServiceClient;
use futures::TryStreamExt;
use lakehouse::definition::Definition;
use lakehouse::{Context, Error, Kind, Result};
use tokio::sync::oneshot;
use tonic::transport::{Channel, Endpoint};

use super::Shared;
use crate::config::Listen;
use crate::run::{LocalServer, load, say, stop_signal};
use progress::Progress;
use send::{Sender, Sent};

/// What the demo is asked for.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// Where it keeps its data.
    pub data: PathBuf,
    /// The example's folder; `None` for the one of the source tree.
    pub example: Option<PathBuf>,
    /// Whether it ends once the gold tables are printed.
    pub exit: bool,
    /// Where it listens.
    pub listen: Listen,
}

/// Rows of each gold table that are printed.
const ROWS_SHOWN: usize = 5;

/// Runs the demo.
///
/// # Errors
/// What stopped it, for the command line.
pub async fn run(options: DemoOptions) -> Result<()> {
    let started = Instant::now();
    let example = example_folder(options.example.as_deref())?;
    let definition = load(&example)?;
    let server = LocalServer::start(definition.clone(), &options.data, &options.listen).await?;
    let address = server.address();
    let mut asked_to_stop = std::pin::pin!(stop_signal()?);
    server.announce();
    let shared = server.local().shared();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(async {
        let _ = stopped.await;
    }));

    let shown = async {
        let client = connect(&format!("http://{address}")).await?;
        show(&example, &options.data, &definition, &shared, client, started).await?;
        say(&how_to_connect(&definition, &address.to_string()));
        Ok::<_, Error>(())
    };
    let shown = tokio::select! {
        shown = shown => shown.map(|()| true),
        () = asked_to_stop.as_mut() => Ok(false),
    };
    if matches!(shown, Ok(true)) && !options.exit {
        say("serving; Ctrl-C stops");
        asked_to_stop.await;
    }
    // If the server has ended already, its own result below says why.
    let _ = stop.send(());
    let served = serving.await.map_err(|error| Error::internal("the server died").because(error))?;
    shown.and(served)
}

/// The example given, or the one that this binary was built beside.
fn example_folder(given: Option<&Path>) -> Result<PathBuf> {
    let built_beside = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/flights"));
    let folder = given.unwrap_or(built_beside);
    if folder.join("lakehouse.toml").is_file() {
        return Ok(folder.to_owned());
    }
    Err(Error::not_found(format!(
        "there is no lakehouse.toml in {}; give the folder examples/flights of the source tree with --example",
        folder.display()
    )))
}

async fn connect(uri: &str) -> Result<FlightSqlServiceClient<Channel>> {
    let failed = || format!("the demo can't connect to its own server at {uri}");
    let channel = Endpoint::from_shared(uri.to_owned())
        .context(Kind::Internal, failed)?
        .connect()
        .await
        .context(Kind::Unavailable, failed)?;
    Ok(FlightSqlServiceClient::new(channel))
}

/// Sends what was not sent yet, waits for gold, and prints it.
async fn show(
    example: &Path,
    data: &Path,
    definition: &Arc<Definition>,
    shared: &Arc<Shared>,
    client: FlightSqlServiceClient<Channel>,
    started: Instant,
) -> Result<()> {
    let sent = Sent::load(&data.join("demo-sent"))?;
    let progress = Progress::start(shared);
    let rows = Sender::new(client.clone(), example, definition, sent).send_all(&progress).await?;
    progress.wait_for_gold(shared, rows).await?;
    progress.finish(started.elapsed());
    for name in definition.models.keys() {
        let table = format!("gold.{name}");
        let shown = query(client.clone(), &format!("SELECT * FROM {table} ORDER BY 1, 2 LIMIT {ROWS_SHOWN}")).await?;
        let count = query(client.clone(), &format!("SELECT count(*) AS n FROM {table}")).await?;
        let printed = pretty_format_batches(&shown).context(Kind::Internal, || format!("can't print {table}"))?;
        say(&format!("\n{table}, {} rows\n{printed}", first_number(&count)));
    }
    Ok(())
}

fn first_number(batches: &[RecordBatch]) -> String {
    let first = batches.iter().find(|batch| batch.num_rows() > 0);
    first.and_then(|batch| arrow::util::display::array_value_to_string(batch.column(0), 0).ok()).unwrap_or_default()
}

/// Runs a query as a client does.
async fn query(mut client: FlightSqlServiceClient<Channel>, sql: &str) -> Result<Vec<RecordBatch>> {
    let failed = || format!("the demo's own query failed: {sql}");
    let info = client.execute(sql.to_owned(), None).await.context(Kind::Internal, failed)?;
    let mut batches = Vec::new();
    for endpoint in info.endpoint {
        let Some(ticket) = endpoint.ticket else { continue };
        let stream = client.do_get(ticket).await.context(Kind::Internal, failed)?;
        batches.extend(stream.try_collect::<Vec<_>>().await.context(Kind::Internal, failed)?);
    }
    Ok(batches)
}

fn how_to_connect(definition: &Definition, address: &str) -> String {
    let model = definition.models.keys().next().map_or("system.tables".to_owned(), |name| format!("gold.{name}"));
    format!(
        "\nconnect\n\n  \
         Python   pip install adbc-driver-flightsql adbc-driver-manager pyarrow\n           \
         import adbc_driver_flightsql.dbapi as flight_sql\n           \
         connection = flight_sql.connect(\"grpc://{address}\", autocommit=True)\n           \
         cursor = connection.cursor()\n           \
         cursor.execute(\"SELECT * FROM {model} LIMIT 10\")\n           \
         print(cursor.fetch_arrow_table())\n\n  \
         JDBC     jdbc:arrow-flight-sql://{address}/?useEncryption=false\n\n  \
         SQL      SELECT * FROM {model};\n           \
         SELECT schema_name, table_name, rows, version, lag_seconds FROM system.tables;\n           \
         SELECT * FROM system.ingests ORDER BY accepted_at DESC LIMIT 10;\n"
    )
}
