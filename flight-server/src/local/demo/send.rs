//! The producer's side of the demo: the example's events, sent table by table over Flight DoPut.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_flight::error::FlightError;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{CommandStatementIngest, TableDefinitionOptions, TableExistsOption, TableNotExistOption};
use duck::{Duck, Settings};
use futures::stream;
use lakehouse::definition::Definition;
use lakehouse::{Context, Error, Kind, Name, Result};
use tokio::sync::mpsc;
use tonic::transport::Channel;

use super::progress::Progress;
use crate::flight::INGEST_ID_HEADER;

/// Rows of one ingest: as much as is lost to a resend if the demo dies in it.
const INGEST_ROWS: usize = 64 << 10;

/// Ingests that wait between DuckDB and the network.
const INGESTS_WAITING_MAX: usize = 2;

/// What has been acknowledged, a line an ingest, in a file beside the data.
pub(super) struct Sent {
    path: PathBuf,
    ids: BTreeSet<String>,
}

impl Sent {
    /// Reads the file, if there is one.
    pub(super) fn load(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            other => other.context(Kind::Unavailable, || format!("can't read {}", path.display()))?,
        };
        // A line without its end was cut off by a crash: its ingest is sent again, which changes nothing.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        Ok(Self { path: path.to_owned(), ids: whole.lines().map(str::to_owned).collect() })
    }

    fn note(&mut self, id: &str) -> Result<()> {
        let noted = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)
            .and_then(|mut file| file.write_all(format!("{id}\n").as_bytes()));
        noted.context(Kind::Unavailable, || format!("can't write {}", self.path.display()))?;
        self.ids.insert(id.to_owned());
        Ok(())
    }
}

/// One ingest to be sent.
struct Parcel {
    table: Name,
    id: String,
    batches: Vec<RecordBatch>,
}

impl Parcel {
    fn rows(&self) -> u64 {
        self.batches.iter().map(|batch| batch.num_rows() as u64).sum()
    }
}

/// Sends the example's events.
pub(super) struct Sender {
    client: FlightSqlServiceClient<Channel>,
    example: PathBuf,
    tables: Vec<Name>,
    sent: Sent,
}

impl Sender {
    pub(super) fn new(
        client: FlightSqlServiceClient<Channel>,
        example: &Path,
        definition: &Arc<Definition>,
        sent: Sent,
    ) -> Self {
        // Small tables first, so that the large one's models have all that they join.
        let mut tables: Vec<Name> = definition.tables.keys().cloned().collect();
        tables.sort_by_key(|table| (table.as_str() == "flights", table.clone()));
        Self { client, example: example.to_owned(), tables, sent }
    }

    /// Sends what was not acknowledged before; gives the number of rows.
    pub(super) async fn send_all(mut self, progress: &Progress) -> Result<u64> {
        let (parcels, mut received) = mpsc::channel(INGESTS_WAITING_MAX);
        let (example, tables) = (self.example.clone(), self.tables.clone());
        let maker = tokio::task::spawn_blocking(move || make_parcels(&example, &tables, &parcels));
        let (mut sent, mut made) = (0, 0);
        while let Some(parcel) = received.recv().await {
            if self.sent.ids.contains(&parcel.id) {
                continue;
            }
            made += parcel.rows();
            progress.sent(sent, made);
            sent += self.send(parcel).await?;
            progress.sent(sent, made);
        }
        maker.await.map_err(|error| Error::internal("making the events died").because(error))??;
        progress.sent(sent, made);
        Ok(sent)
    }

    async fn send(&mut self, parcel: Parcel) -> Result<u64> {
        let rows = parcel.rows();
        let command = CommandStatementIngest {
            table_definition_options: Some(TableDefinitionOptions {
                if_not_exist: TableNotExistOption::Fail.into(),
                if_exists: TableExistsOption::Append.into(),
            }),
            table: parcel.table.to_string(),
            schema: Some("silver".to_owned()),
            catalog: None,
            temporary: false,
            transaction_id: None,
            options: Default::default(),
        };
        self.client.set_header(INGEST_ID_HEADER, &parcel.id);
        let batches = stream::iter(parcel.batches.into_iter().map(Ok::<_, FlightError>));
        let count =
            self.client.execute_ingest(command, batches).await.context(Kind::Unavailable, || {
                format!("the ingest {} into table {} failed", parcel.id, parcel.table)
            })?;
        if u64::try_from(count).ok() != Some(rows) {
            return Err(Error::internal(format!("ingest {}: sent {rows} rows, the server took {count}", parcel.id)));
        }
        self.sent.note(&parcel.id)?;
        Ok(rows)
    }
}

/// Computes each table's events with DuckDB and cuts them into ingests of fixed ids.
fn make_parcels(example: &Path, tables: &[Name], parcels: &mpsc::Sender<Parcel>) -> Result<()> {
    let data = example.join("data");
    let data = data.canonicalize().context(Kind::NotFound, || format!("there is no data in {}", data.display()))?;
    let duck = Duck::open_reading(&Settings { memory_bytes: 640 << 20, ..Settings::default() }, &data)?;
    for table in tables {
        let path = example.join("events").join(format!("{table}.sql"));
        let sql =
            std::fs::read_to_string(&path).context(Kind::NotFound, || format!("can't read {}", path.display()))?;
        let mut number = 0;
        let mut batches: Vec<RecordBatch> = Vec::new();
        let mut rows = 0;
        let mut give = |batches: Vec<RecordBatch>| {
            number += 1;
            let parcel = Parcel { table: table.clone(), id: format!("demo-{table}-{number:04}"), batches };
            // The receiver is gone only if sending failed, which is reported there.
            parcels.blocking_send(parcel).map_err(|_| Error::unavailable("the demo's sender has stopped"))
        };
        duck.query_each(&sql, |batch| {
            rows += batch.num_rows();
            batches.push(batch);
            if rows >= INGEST_ROWS {
                rows = 0;
                give(std::mem::take(&mut batches))?;
            }
            Ok(())
        })?;
        if !batches.is_empty() {
            give(batches)?;
        }
    }
    Ok(())
}
