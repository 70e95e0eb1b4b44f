//! The door: what the transports (Flight, HTTP) know of ingest, and all that they know.
//!
//! Rows come in two ways. An *ingest* has an end: it is acknowledged as a whole ([`IngestDoor::begin`]). A *stream* has
//! none: its producer numbers its batches, and learns again and again how far they are kept
//! ([`IngestDoor::stream`]).

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use lakehouse::definition::Column;
use lakehouse::{NewTable, Result};
use proto::Receipt;

/// How many bad rows of a batch are told one by one; the rest is counted. A batch with more is not taken in part: a row
/// that is left out is named.
pub const BAD_ROWS_TOLD_MAX: usize = 1_000;

/// What a client says about its rows, beside the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngestOptions {
    /// The client's own idempotency key; without one, the ingest gets an id.
    pub ingest_id: Option<String>,
    /// Whether the good rows of a batch are taken when others are bad. By default none is.
    pub is_partial: bool,
}

/// A column of a silver table, as rows for it are to have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoorColumn {
    /// Its name and type. If it is not nullable, no row is taken without a value for it.
    pub column: Column,
    /// Whether the definition declares it; if not, it has the type that rows made it.
    pub is_declared: bool,
}

/// A row that can't be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Its place: in the batch from 0 ([`Rejected`]), or in the ingest.
    pub row: u64,
    /// The column that is at fault, if one is.
    pub column: Option<String>,
    /// What is wrong with it, and what to do.
    pub reason: String,
}

/// The rows of a batch that can't be taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejected {
    /// How many there are.
    pub count: u64,
    /// The first [`BAD_ROWS_TOLD_MAX`] of them, in order, each with its first fault; rows count from 0.
    pub rows: Vec<BadRow>,
}

/// Where rows go in.
#[async_trait]
pub trait IngestDoor: Send + Sync + 'static {
    /// Opens an ingest into the silver table `table`, of batches of `schema`.
    ///
    /// # Errors
    /// `NotFound` if there is no such table, `Invalid` if the schema or the id doesn't fit, `Exhausted` or
    /// `Unavailable` if no ingest can be taken now.
    async fn begin(&self, table: &str, schema: SchemaRef, options: IngestOptions) -> Result<Box<dyn OpenIngest>>;

    /// Opens a stream into the silver table `table`, of batches of `schema`. A stream of the same id goes on where the
    /// former one ended: batches with numbers that are kept already add nothing.
    ///
    /// # Errors
    /// As [`IngestDoor::begin`].
    async fn stream(&self, table: &str, schema: SchemaRef, options: IngestOptions) -> Result<Box<dyn OpenStream>>;

    /// The columns of a silver table's rows as they come in: those that it has now, and those that it drops. None:
    /// nothing is known of them before they come.
    ///
    /// # Errors
    /// `NotFound` if there is no such table, `Unavailable` if the lake can't be read.
    async fn columns(&self, table: &str) -> Result<Vec<DoorColumn>>;

    /// Whether it takes rows at all.
    fn is_open(&self) -> bool;

    /// Whether there is a silver table of this name.
    ///
    /// # Errors
    /// `Unavailable` if the lake can't be read.
    async fn has(&self, table: &str) -> Result<bool>;

    /// Makes a silver table, unless it is there. Whether it was made.
    ///
    /// # Errors
    /// `Forbidden` if the definition does not allow it, `Invalid` if it can't be a table.
    async fn create(&self, table: NewTable) -> Result<bool>;
}

/// An ingest under way. Dropped without [`OpenIngest::finish`], it is given up; what was accepted stays so.
#[async_trait]
pub trait OpenIngest: Send {
    /// Its id.
    fn ingest_id(&self) -> &str;

    /// The rows of a batch that would not be taken, without taking any.
    ///
    /// # Errors
    /// `Internal` if the batch has another schema than the ingest.
    fn check(&self, batch: &RecordBatch) -> Result<Rejected>;

    /// Takes a batch. It may be accepted only later, at the latest by `finish`. If the ingest is partial, gives the
    /// rows that were left out.
    ///
    /// # Errors
    /// `Invalid` if rows don't fit, and none of the batch was taken; `Exhausted` or `Unavailable` if they can't be kept
    /// now.
    async fn push(&mut self, batch: RecordBatch) -> Result<Rejected>;

    /// Returns once all rows are kept. Called once; nothing is pushed after it.
    ///
    /// # Errors
    /// As [`OpenIngest::push`].
    async fn finish(&mut self) -> Result<Receipt>;

    /// Waits for what is under way, as far as that can still be kept, and takes no more. Gives the rows that are kept.
    async fn give_up(&mut self) -> u64;

    /// Rows that are kept so far, whatever becomes of the rest.
    fn accepted_rows(&self) -> u64;
}

/// A stream of numbered batches under way.
#[async_trait]
pub trait OpenStream: Send {
    /// Its id.
    fn ingest_id(&self) -> &str;

    /// Takes batch number `offset`, counted from 0 over all streams of the same id. It is kept only once
    /// [`OpenStream::kept`] says so. If the stream is partial, gives the rows that were left out.
    ///
    /// # Errors
    /// `Invalid` if rows or the number don't fit, and none of the batch was taken; `Exhausted` or `Unavailable` if they
    /// can't be kept now.
    async fn push(&mut self, offset: u64, batch: RecordBatch) -> Result<Rejected>;

    /// Waits until more batches are kept than at the last call; for ever if none is under way. Gives the highest number
    /// up to which all are. May be dropped and called again.
    ///
    /// # Errors
    /// As [`OpenStream::push`]; the stream is then of no more use.
    async fn kept(&mut self) -> Result<u64>;

    /// Waits until all that was pushed is kept, or something is not. May be dropped.
    ///
    /// # Errors
    /// As [`OpenStream::kept`].
    async fn flush(&mut self) -> Result<()>;

    /// The highest number up to which all batches are kept by now, if it was not told before.
    fn take_kept(&mut self) -> Option<u64>;

    /// What is kept of this stream.
    fn receipt(&self) -> &Receipt;
}
