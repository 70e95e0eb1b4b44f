//! A running server over a small lakehouse, with a door that remembers.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::FlightInfo;
use arrow_flight::error::FlightError;
use arrow_flight::sql::client::FlightSqlServiceClient;
use async_trait::async_trait;
use futures::TryStreamExt as _;
use lakehouse::{Error, Kind, ManualClock, NewTable, Result};
use proto::Receipt;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::Channel;
use tonic_health::server::HealthReporter;

use crate::door::{DoorColumn, IngestDoor, IngestOptions, OpenIngest, OpenStream, Rejected};
use crate::engine::fixture::Fixture;
use crate::flight::{FlightService, Key, Parts, Sealer, ServerOptions, server};
use crate::results::Results;

pub(super) type Client = FlightSqlServiceClient<Channel>;

/// A server on a port of its own.
pub(super) struct TestServer {
    pub(super) lakehouse: Fixture,
    pub(super) door: Arc<FakeDoor>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) sealer: Arc<Sealer>,
    pub(super) health: HealthReporter,
    pub(super) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<()>>,
}

impl TestServer {
    pub(super) async fn start() -> Self {
        Self::with_grace(Duration::from_secs(10)).await
    }

    pub(super) async fn with_grace(grace: Duration) -> Self {
        let lakehouse = Fixture::new().await;
        let door = Arc::new(FakeDoor::default());
        let clock = Arc::new(ManualClock::at(1));
        let sealer = Arc::new(Sealer::new(vec![Key::parse(&"5a".repeat(32)).unwrap()]).unwrap());
        let parts = Parts {
            engine: Arc::clone(&lakehouse.engine),
            door: Arc::clone(&door) as _,
            results: Results::new(&lakehouse.lake, Arc::clone(&clock) as _).unwrap(),
            sealer: Arc::clone(&sealer),
            clock: Arc::clone(&clock) as _,
        };
        let service = FlightService::new(parts).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let health = HealthReporter::new();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            // A dropped sender stops the server too.
            let _ = stopped.await;
        };
        let options = ServerOptions { grace, ..ServerOptions::default() };
        let served = tokio::spawn(server(listener, service, health.clone(), options, shutdown));
        Self { lakehouse, door, clock, sealer, health, address, stop: Some(stop), served }
    }

    pub(super) async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    pub(super) async fn client(&self) -> Client {
        FlightSqlServiceClient::new(self.channel().await)
    }

    /// Begins the shutdown.
    pub(super) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits until the server is done.
    pub(super) async fn stopped(self) {
        tokio::time::timeout(Duration::from_secs(20), self.served).await.expect("it goes on").unwrap().unwrap();
    }
}

/// All rows of a FlightInfo's only endpoint.
pub(super) async fn fetch(client: &mut Client, info: &FlightInfo) -> Result<Vec<RecordBatch>, FlightError> {
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    client.do_get(ticket).await?.try_collect().await
}

/// The gRPC status behind a client's error.
pub(super) fn refused(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => panic!("no status: {other:?}"),
    }
}

/// What went through the door, by the outcome that the table's name asks for.
#[derive(Default)]
pub(super) struct FakeDoor {
    pub(super) given_up: Arc<Mutex<HashSet<String>>>,
}

/// Table `events` takes everything; `full` keeps its first batch and refuses the second; `shut` keeps nothing.
#[async_trait]
impl IngestDoor for FakeDoor {
    fn is_open(&self) -> bool {
        true
    }

    async fn has(&self, table: &str) -> Result<bool> {
        Ok(["events", "full", "shut"].contains(&table))
    }

    async fn create(&self, table: NewTable) -> Result<bool> {
        Err(Error::new(Kind::Forbidden, format!("table {:?} may not be made", table.name.as_str())))
    }

    async fn columns(&self, _table: &str) -> Result<Vec<DoorColumn>> {
        Ok(Vec::new())
    }

    async fn begin(&self, table: &str, _schema: SchemaRef, options: IngestOptions) -> Result<Box<dyn OpenIngest>> {
        Ok(Box::new(self.open(table, options)?))
    }

    async fn stream(&self, table: &str, _schema: SchemaRef, options: IngestOptions) -> Result<Box<dyn OpenStream>> {
        Ok(Box::new(self.open(table, options)?))
    }
}

impl FakeDoor {
    fn open(&self, table: &str, options: IngestOptions) -> Result<FakeIngest> {
        if !["events", "full", "shut"].contains(&table) {
            return Err(Error::not_found(format!("there is no table {table:?}")));
        }
        let ingest_id = options.ingest_id.unwrap_or_else(|| "made-up".to_owned());
        Ok(FakeIngest {
            receipt: Receipt { ingest_id, table: table.to_owned(), ..Receipt::default() },
            told: 0,
            finished: false,
            given_up: Arc::clone(&self.given_up),
        })
    }
}

struct FakeIngest {
    receipt: Receipt,
    /// Of the batches that are kept, how many a stream was told of.
    told: u64,
    finished: bool,
    given_up: Arc<Mutex<HashSet<String>>>,
}

impl FakeIngest {
    fn keep(&mut self, batch: &RecordBatch) -> Result<Rejected> {
        match self.receipt.table.as_str() {
            "full" if self.receipt.frames > 0 => Err(Error::exhausted("no room")),
            "shut" => Err(Error::unavailable("the stream is shut")),
            _ => {
                self.receipt.frames += 1;
                self.receipt.rows += batch.num_rows() as u64;
                Ok(Rejected::default())
            }
        }
    }
}

#[async_trait]
impl OpenIngest for FakeIngest {
    fn ingest_id(&self) -> &str {
        &self.receipt.ingest_id
    }

    fn check(&self, _batch: &RecordBatch) -> Result<Rejected> {
        Ok(Rejected::default())
    }

    async fn push(&mut self, batch: RecordBatch) -> Result<Rejected> {
        self.keep(&batch)
    }

    async fn finish(&mut self) -> Result<Receipt> {
        self.finished = true;
        Ok(self.receipt.clone())
    }

    async fn give_up(&mut self) -> u64 {
        self.receipt.rows
    }

    fn accepted_rows(&self) -> u64 {
        self.receipt.rows
    }
}

#[async_trait]
impl OpenStream for FakeIngest {
    fn ingest_id(&self) -> &str {
        &self.receipt.ingest_id
    }

    async fn push(&mut self, _offset: u64, batch: RecordBatch) -> Result<Rejected> {
        self.keep(&batch)
    }

    async fn kept(&mut self) -> Result<u64> {
        if self.told == self.receipt.frames {
            return std::future::pending().await;
        }
        self.told = self.receipt.frames;
        Ok(self.told - 1)
    }

    async fn flush(&mut self) -> Result<()> {
        self.finished = true;
        Ok(())
    }

    fn take_kept(&mut self) -> Option<u64> {
        let untold = self.told < self.receipt.frames;
        self.told = self.receipt.frames;
        untold.then(|| self.told - 1)
    }

    fn receipt(&self) -> &Receipt {
        &self.receipt
    }
}

impl Drop for FakeIngest {
    fn drop(&mut self) {
        if !self.finished {
            self.given_up.lock().unwrap().insert(self.receipt.ingest_id.clone());
        }
    }
}
