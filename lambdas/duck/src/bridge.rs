//! The audited `unsafe`: a raw DuckDB database, and batches across the Arrow C Data Interface.
//!
//! The `duckdb` crate has another version of arrow than the rest of the project. The C Data Interface's structs are
//! `repr(C)` and fixed by its specification (<https://arrow.apache.org/docs/format/CDataInterface.html>), so a pointer
//! to one version's struct is a pointer to the other's.
#![expect(unsafe_code, reason = "the DuckDB bridge: foreign functions and the Arrow C Data Interface")]

use std::ffi::{CStr, CString};
use std::ptr;

use arrow::array::{RecordBatch, RecordBatchReader, StructArray, make_array};
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi};
use arrow::ffi_stream::FFI_ArrowArrayStream;
use duckdb::{Connection, ffi};
use lakehouse::{Context, Error, Kind, Result};

/// An in-memory DuckDB database and one raw connection to it, both closed on drop.
pub(crate) struct RawDatabase {
    database: ffi::duckdb_database,
    connection: ffi::duckdb_connection,
}

// SAFETY: DuckDB's database and connection objects have no affinity to a thread; a connection must not be used by two
// threads at once, which `&mut self` in `register_stream` and the lack of `Sync` guarantee.
unsafe impl Send for RawDatabase {}

impl RawDatabase {
    /// Opens an empty in-memory database.
    pub(crate) fn open() -> Result<Self> {
        let mut raw = Self { database: ptr::null_mut(), connection: ptr::null_mut() };
        let mut message = ptr::null_mut();
        // SAFETY: all pointers are to live locals; a null config means defaults; `message` is only read on failure,
        // where DuckDB has set it to a C string that we free once.
        let state =
            unsafe { ffi::duckdb_open_ext(c":memory:".as_ptr(), &mut raw.database, ptr::null_mut(), &mut message) };
        if state != ffi::DuckDBSuccess {
            let text = if message.is_null() {
                String::new()
            } else {
                // SAFETY: not null, and a C string by the contract of duckdb_open_ext.
                let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
                // SAFETY: allocated by DuckDB, freed once.
                unsafe { ffi::duckdb_free(message.cast()) };
                text
            };
            return Err(Error::unavailable(format!("can't open an in-memory DuckDB database: {text}")));
        }
        // SAFETY: the database was opened above; `connection` is a live local's field.
        let state = unsafe { ffi::duckdb_connect(raw.database, &mut raw.connection) };
        if state != ffi::DuckDBSuccess {
            return Err(Error::unavailable("can't connect to the in-memory DuckDB database"));
        }
        Ok(raw)
    }

    /// A connection with the safe interface. It must be dropped before `self`.
    pub(crate) fn connect(&self) -> Result<Connection> {
        // SAFETY: the database is open, and `Duck` drops its connection before the database.
        unsafe { Connection::open_from_raw(self.database) }
            .context(Kind::Unavailable, || "can't connect to the in-memory DuckDB database".to_owned())
    }

    /// Calls `consume` while the batches of `reader` can be read, once, as the view `name`.
    pub(crate) fn with_stream<T>(
        &mut self,
        name: &str,
        reader: Box<dyn RecordBatchReader + Send>,
        consume: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let name = CString::new(name).context(Kind::Invalid, || "a table's name holds a NUL".to_owned())?;
        let mut stream = FFI_ArrowArrayStream::new(reader);
        // SAFETY: the connection is open, `name` is a C string, and `stream` is a valid C stream that outlives every
        // scan of the view: `consume` is the only user of the view, and `stream` is dropped (released) after it.
        let state =
            unsafe { ffi::duckdb_arrow_scan(self.connection, name.as_ptr(), ptr::from_mut(&mut stream).cast()) };
        if state != ffi::DuckDBSuccess {
            return Err(Error::invalid(format!("DuckDB can't read the Arrow types of {}", name.to_string_lossy())));
        }
        consume()
    }
}

impl Drop for RawDatabase {
    fn drop(&mut self) {
        // SAFETY: both calls accept null and set the pointer to null; each object is closed once, connection first.
        unsafe {
            ffi::duckdb_disconnect(&mut self.connection);
            ffi::duckdb_close(&mut self.database);
        }
    }
}

/// DuckDB's result chunk (arrow 58) as a batch of this project's arrow.
pub(crate) fn batch_from_duckdb(chunk: &duckdb::arrow::array::StructArray) -> Result<RecordBatch> {
    use duckdb::arrow::array::Array as _;

    let failed = || "can't take an Arrow batch from DuckDB".to_owned();
    let (array, schema) = duckdb::arrow::ffi::to_ffi(&chunk.to_data()).context(Kind::Internal, failed)?;
    // SAFETY: the two versions' structs are the same `repr(C)` layout; ownership moves, so the originals are forgotten
    // and each release callback runs once, by the new owner.
    let (array, schema) = unsafe {
        let moved = (
            ptr::from_ref(&array).cast::<FFI_ArrowArray>().read(),
            ptr::from_ref(&schema).cast::<FFI_ArrowSchema>().read(),
        );
        std::mem::forget((array, schema));
        moved
    };
    // SAFETY: both structs come from `to_ffi` above and so are valid.
    let data = unsafe { from_ffi(array, &schema) }.context(Kind::Internal, failed)?;
    let array = make_array(data);
    let rows = array
        .as_any()
        .downcast_ref::<StructArray>()
        .ok_or_else(|| Error::internal("DuckDB's chunk is not a struct array"))?;
    Ok(RecordBatch::from(rows))
}

/// DuckDB's result schema (arrow 58) as one of this project's arrow.
pub(crate) fn schema_from_duckdb(schema: &duckdb::arrow::datatypes::Schema) -> Result<arrow::datatypes::Schema> {
    let failed = || "can't take an Arrow schema from DuckDB".to_owned();
    let foreign = duckdb::arrow::ffi::FFI_ArrowSchema::try_from(schema).context(Kind::Internal, failed)?;
    // SAFETY: same `repr(C)` layout; ownership moves, the original is forgotten.
    let ours = unsafe {
        let moved = ptr::from_ref(&foreign).cast::<FFI_ArrowSchema>().read();
        std::mem::forget(foreign);
        moved
    };
    arrow::datatypes::Schema::try_from(&ours).context(Kind::Internal, failed)
}
