//! The SQL surface, through a real Flight client: runs each `.slt` file here against the built server.
//!
//! The server is that of `definition/`, filled by `data.sql`: each statement there is one ingest, and the next begins
//! when it is in silver, so that a table's versions are known.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic")]

use std::ffi::OsStr;
use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, AsArray as _, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_flight::error::FlightError;
use arrow_flight::sql::client::FlightSqlServiceClient;
use futures::TryStreamExt as _;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};
use tonic::transport::Channel;

/// How long a statement of `data.sql` may take to be in silver.
const MERGE_TIMEOUT: Duration = Duration::from_secs(60);

/// The server's message about a statement that failed.
#[derive(Debug)]
struct SqlError(String);

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SqlError {}

impl From<FlightError> for SqlError {
    fn from(error: FlightError) -> Self {
        match error {
            FlightError::Tonic(status) => Self(status.message().to_owned()),
            other => Self(other.to_string()),
        }
    }
}

impl From<arrow::error::ArrowError> for SqlError {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self(error.to_string())
    }
}

/// A connection.
struct Flight(FlightSqlServiceClient<Channel>);

impl Flight {
    async fn connect(address: &str) -> Self {
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self(FlightSqlServiceClient::new(channel))
    }

    async fn query(&mut self, sql: &str) -> Result<Vec<RecordBatch>, SqlError> {
        let info = self.0.execute(sql.to_owned(), None).await?;
        let mut batches = Vec::new();
        for endpoint in info.endpoint {
            let ticket = endpoint.ticket.ok_or_else(|| SqlError("an endpoint has no ticket".to_owned()))?;
            batches.extend(self.0.do_get(ticket).await?.try_collect::<Vec<_>>().await?);
        }
        Ok(batches)
    }

    /// Runs a statement that writes, and waits until its rows are in silver.
    async fn load(&mut self, sql: &str, ingest_id: &str) {
        self.0.set_header("mallard-ingest-id", ingest_id);
        self.0.execute_update(sql.to_owned(), None).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let merged = format!("SELECT 1 FROM system.ingests WHERE ingest_id = '{ingest_id}' AND merged_at IS NOT NULL");
        let begun = Instant::now();
        while self.query(&merged).await.unwrap().iter().all(|batch| batch.num_rows() == 0) {
            assert!(begun.elapsed() < MERGE_TIMEOUT, "not in silver after {MERGE_TIMEOUT:?}: {sql}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[async_trait::async_trait]
impl AsyncDB for Flight {
    type Error = SqlError;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<Self::ColumnType>, Self::Error> {
        let batches = self.query(sql).await?;
        let columns = batches.first().map_or(0, RecordBatch::num_columns);
        let mut rows = Vec::new();
        for batch in &batches {
            for row in 0..batch.num_rows() {
                rows.push(batch.columns().iter().map(|column| shown(column, row)).collect::<Result<_, _>>()?);
            }
        }
        Ok(DBOutput::Rows { types: vec![DefaultColumnType::Any; columns], rows })
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "mallard"
    }
}

/// A value as the files have it.
fn shown(column: &ArrayRef, row: usize) -> Result<String, SqlError> {
    if column.is_null(row) {
        return Ok("NULL".to_owned());
    }
    let text = match column.data_type() {
        DataType::Float32 => column.as_primitive::<Float32Type>().value(row).to_string(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(row).to_string(),
        _ => {
            let options = FormatOptions::default().with_null("NULL");
            ArrayFormatter::try_new(column, &options)?.value(row).to_string()
        }
    };
    Ok(if text.is_empty() { "(empty)".to_owned() } else { text })
}

/// A server over a folder of its own; killed when dropped.
struct Server {
    process: Child,
    address: String,
    _data: tempfile::TempDir,
}

impl Server {
    fn start(definition: &Path) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_flight-server"))
            .args(["local", "--listen", "127.0.0.1:0", "--definition"])
            .args([definition, Path::new("--data"), data.path()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut first = String::new();
        output.read_line(&mut first).unwrap();
        // A full pipe would block the server.
        std::thread::spawn(move || output.read_to_end(&mut Vec::new()));
        let address = first.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("no address: {first}"));
        Self { process, address: address.to_owned(), _data: data }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/sqllogictest")
}

#[tokio::test]
async fn every_file_gives_what_it_says() {
    let server = Server::start(&folder().join("definition"));
    let mut loader = Flight::connect(&server.address).await;
    let data = std::fs::read_to_string(folder().join("data.sql")).unwrap();
    for (number, sql) in data.split(";\n").map(str::trim).filter(|sql| !sql.is_empty()).enumerate() {
        loader.load(sql, &format!("load-{number}")).await;
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension() == Some(OsStr::new("slt")));
    files.sort();
    assert!(!files.is_empty(), "there are no files");
    let mut failures = Vec::new();
    for file in &files {
        let mut runner = Runner::new(|| async { Ok(Flight::connect(&server.address).await) });
        if let Err(error) = runner.run_file_async(file).await {
            failures.push(error.display(false).to_string());
        }
    }
    assert!(failures.is_empty(), "{} of {} files:\n{}", failures.len(), files.len(), failures.join("\n"));
}
