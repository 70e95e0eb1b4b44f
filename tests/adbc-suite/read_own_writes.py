"""A plugin for the ADBC project's own tests (docs/adbc-suite.md): pytest -p read_own_writes …

These tests ingest rows, and in the next line read them by the bare name of their table. Here rows are merged a moment
after they are acknowledged, into schema silver, and bare names mean gold. So each connection gets the session option
`schema`, and each query waits until nothing that was ingested is left to be merged.
"""

import time

import adbc_driver_flightsql
import adbc_driver_manager
import pyarrow as pa
from adbc_driver_flightsql import DatabaseOptions
from adbc_driver_manager import _lib

SILVER = {DatabaseOptions.RPC_CALL_HEADER_PREFIX.value + "mallard-schema": "silver"}
WAITING = "SELECT 1 FROM system.ingests WHERE merged_at IS NULL LIMIT 1"
TIMEOUT_SECONDS = 30

connect, Statement = adbc_driver_flightsql.connect, _lib.AdbcStatement


def connect_to_silver(uri, db_kwargs=None, **options):
    return connect(uri, db_kwargs={**(db_kwargs or {}), **SILVER}, **options)


class PatientStatement(Statement):
    """A statement that runs once all ingests are merged."""

    def __init__(self, connection):
        super().__init__(connection)
        self.connection = connection

    def execute_query(self):
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while self.is_merging():
            if time.monotonic() > deadline:
                raise TimeoutError(f"an ingest was not merged in {TIMEOUT_SECONDS} s")
            time.sleep(0.1)
        return super().execute_query()

    def is_merging(self):
        with Statement(self.connection) as statement:
            statement.set_sql_query(WAITING)
            stream, _ = statement.execute_query()
            return pa.RecordBatchReader.from_stream(stream).read_all().num_rows > 0


adbc_driver_flightsql.connect = connect_to_silver
_lib.AdbcStatement = adbc_driver_manager.AdbcStatement = PatientStatement
