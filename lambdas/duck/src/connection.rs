//! A sandboxed DuckDB database: Arrow in, SQL, Arrow out.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchIterator, RecordBatchReader};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use duckdb::{Connection, Statement};
use lakehouse::{Context, Error, Kind, Result};

use crate::bridge::{RawDatabase, batch_from_duckdb, schema_from_duckdb};
use crate::error::convert;
use crate::settings::Settings;
use crate::stop::Stopper;
use crate::watch::Watch;
use crate::{literal, quote};

/// An in-memory DuckDB database whose SQL can reach no file, network, extension or setting.
///
/// Its methods block: call them on a thread that may. Dropping it frees its memory and spill. All of them fail with
/// `Timeout` once their SQL together took longer than [`Settings::time_max`], and with `Cancelled` once they are stopped.
pub struct Duck {
    // Dropped in this order: what interrupts the connection, it, and the database that it belongs to.
    watch: Watch,
    connection: Connection,
    raw: RawDatabase,
    stopper: Stopper,
}

impl Duck {
    /// An empty database with schemas `silver` and `gold`.
    ///
    /// # Errors
    /// `Unavailable` if DuckDB can't be started, `Invalid` if a setting is refused.
    pub fn open(settings: &Settings) -> Result<Self> {
        Self::open_with(settings, None)
    }

    /// As [`Duck::open`], but the Parquet files in `folder` can be read, by their bare names.
    ///
    /// # Errors
    /// As [`Duck::open`], and `NotFound` if the folder can't be read.
    pub fn open_reading(settings: &Settings, folder: &Path) -> Result<Self> {
        let duck = Self::open_with(settings, Some(folder))?;
        let unreadable = || format!("can't read the folder {}", folder.display());
        for entry in std::fs::read_dir(folder).context(Kind::NotFound, unreadable)? {
            let path = entry.context(Kind::NotFound, unreadable)?.path();
            if path.extension().is_some_and(|extension| extension == "parquet")
                && let Some(name) = path.file_name()
            {
                // The sandbox judges a file by the path that the SQL gives, so a bare name must be a view.
                let (name, path) = (quote(&name.to_string_lossy()), literal(&path.to_string_lossy()));
                duck.execute(&format!("CREATE VIEW {name} AS SELECT * FROM {path}"))?;
            }
        }
        Ok(duck)
    }

    fn open_with(settings: &Settings, readable: Option<&Path>) -> Result<Self> {
        let raw = RawDatabase::open()?;
        let connection = raw.connect()?;
        let stopper = settings.stop.clone().unwrap_or_default();
        let handle = connection.interrupt_handle();
        let watch = Watch::new(move || handle.interrupt(), settings.time_max, &stopper)?;
        let duck = Self { watch, connection, raw, stopper };
        duck.execute("CREATE SCHEMA silver; CREATE SCHEMA gold")?;
        for statement in settings.statements(readable) {
            duck.execute(&statement)?;
        }
        Ok(duck)
    }

    /// Runs statements that give no rows.
    ///
    /// # Errors
    /// `Invalid` for SQL that doesn't parse, bind or compute; `Exhausted` if memory and spill are used up.
    pub fn execute(&self, sql: &str) -> Result<()> {
        self.watched(|| self.connection.execute_batch(sql))
    }

    /// Creates `table` (an SQL name) from batches, all of which have `schema`.
    ///
    /// # Errors
    /// As [`Duck::execute`], and `Invalid` for Arrow types that DuckDB lacks.
    pub fn load(
        &mut self,
        table: &str,
        schema: SchemaRef,
        batches: impl IntoIterator<Item = Result<RecordBatch, ArrowError>, IntoIter: Send + 'static>,
    ) -> Result<()> {
        let reader = RecordBatchIterator::new(batches.into_iter(), schema);
        self.load_reader(table, Box::new(reader))
    }

    fn load_reader(&mut self, table: &str, reader: Box<dyn RecordBatchReader + Send>) -> Result<()> {
        const STREAM: &str = "_stream";
        let Self { watch, connection, raw, .. } = self;
        let running = watch.load()?;
        raw.with_stream(STREAM, watch.stoppable(reader), || {
            // Every column, in order: the stream itself can't leave any out.
            let create = format!("CREATE TABLE {table} AS SELECT * FROM {stream}", stream = quote(STREAM));
            let result = connection.execute_batch(&create);
            drop(running);
            let result = result.map_err(|error| watch.explain(convert("DuckDB", &error)));
            // After a stop, too: the view must not outlive its stream.
            let dropped = connection
                .execute_batch(&format!("DROP VIEW IF EXISTS {}", quote(STREAM)))
                .map_err(|error| convert("DuckDB", &error));
            result.and(dropped)
        })
    }

    /// Runs a query and hands each batch of its result to `each`, as soon as it is computed.
    ///
    /// # Errors
    /// As [`Duck::execute`], and whatever `each` returns.
    pub fn query_each(&self, sql: &str, mut each: impl FnMut(RecordBatch) -> Result<()>) -> Result<SchemaRef> {
        let statement = self.watched(|| {
            let mut statement = self.connection.prepare(sql)?;
            statement.stream_arrow([]).map(drop)?;
            Ok(statement)
        })?;
        let taken = self.take_batches(&statement, &mut each);
        if taken.is_err() {
            // DuckDB computes on when a result is let go of half-read, unless it was interrupted.
            self.connection.interrupt_handle().interrupt();
        }
        taken
    }

    fn take_batches(
        &self,
        statement: &Statement<'_>,
        each: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<SchemaRef> {
        let schema = Arc::new(schema_from_duckdb(&statement.schema())?);
        while let Some(chunk) = self.watched(|| statement.step())? {
            let batch = batch_from_duckdb(&chunk)?;
            // The chunk's own fields are the result's, but unnamed metadata may differ.
            let batch = RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec())
                .map_err(|error| Error::internal("DuckDB's batch differs from its schema").because(error))?;
            each(batch)?;
        }
        Ok(schema)
    }

    /// Runs a query and collects its result.
    ///
    /// # Errors
    /// As [`Duck::execute`].
    pub fn query(&self, sql: &str) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let mut batches = Vec::new();
        let schema = self.query_each(sql, |batch| {
            batches.push(batch);
            Ok(())
        })?;
        Ok((schema, batches))
    }

    /// The schema of a query's result, without computing it. Lines in errors are those of `sql`.
    ///
    /// # Errors
    /// As [`Duck::execute`].
    pub fn describe(&self, sql: &str) -> Result<SchemaRef> {
        self.query(&format!("SELECT * FROM ({}\n) LIMIT 0", sql.trim_end().trim_end_matches(';')))
            .map(|(schema, _)| schema)
    }

    /// The first value of the first row, as an integer; 0 if there is none.
    ///
    /// # Errors
    /// As [`Duck::execute`].
    pub fn count(&self, sql: &str) -> Result<u64> {
        let value: Option<i64> = self.watched(|| self.connection.query_row(sql, [], |row| row.get(0)))?;
        Ok(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0))
    }

    /// The first value of the first row, as text; `None` if it is NULL or there is no row.
    ///
    /// # Errors
    /// As [`Duck::execute`].
    pub fn text(&self, sql: &str) -> Result<Option<String>> {
        self.watched(|| match self.connection.query_row(sql, [], |row| row.get(0)) {
            Err(duckdb::Error::QueryReturnedNoRows) => Ok(None),
            other => other,
        })
    }

    /// What stops it from another thread, and all that were opened with the same [`Settings::stop`].
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Runs SQL for as long as it may.
    fn watched<T>(&self, sql: impl FnOnce() -> Result<T, duckdb::Error>) -> Result<T> {
        let running = self.watch.sql()?;
        let result = sql();
        drop(running);
        result.map_err(|error| self.watch.explain(convert("DuckDB", &error)))
    }
}

#[cfg(test)]
mod tests;
