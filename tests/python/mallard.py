"""Starts the real server as a user does, and speaks to it through the ADBC driver.

A test gets a `Server` from the fixtures in conftest.py. `Server.ingest` gives each ingest an id of its own and waits
until that ingest is part of silver, so that a test can read its own writes without sleeping.
"""

import os
import signal
import subprocess
import threading
import time
import uuid
from contextlib import closing
from pathlib import Path

import adbc_driver_flightsql.dbapi as flight_sql
from adbc_driver_flightsql import DatabaseOptions

REPO = Path(__file__).resolve().parents[2]
EXAMPLE = REPO / "examples" / "flights"
INGEST_ID_HEADER = "mallard-ingest-id"
START_TIMEOUT_SECONDS = 20
STOP_TIMEOUT_SECONDS = 10
MERGE_TIMEOUT_SECONDS = 30
POLL_SECONDS = 0.1


def binary():
    """The path of the server: MALLARD_BIN, or what `make build` made."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target"))
    path = Path(os.environ.get("MALLARD_BIN", target / "release" / "flight-server"))
    assert path.exists(), f"{path} does not exist: run `make build`, or set MALLARD_BIN"
    return path


def wait_for(condition, what, timeout=MERGE_TIMEOUT_SECONDS):
    """Calls `condition` until it gives something true, and returns that."""
    deadline = time.monotonic() + timeout
    while True:
        if result := condition():
            return result
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {timeout} s; last seen: {result!r}")
        time.sleep(POLL_SECONDS)


def run(*arguments, timeout=START_TIMEOUT_SECONDS):
    """Runs the binary to its end and returns the completed process."""
    line = [str(binary()), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=timeout)


class Server:
    """A server of its own process group over one definition and one data folder; use it in `with`."""

    def __init__(self, definition, data, listen="127.0.0.1:0"):
        self.definition, self.data, self.listen = Path(definition), Path(data), listen
        self.process = self.drain = None
        # Of its process; None: this one's.
        self.environment = None

    def command_line(self):
        return [binary(), "local", "--definition", self.definition, "--data", self.data, "--listen", self.listen]

    def __enter__(self):
        line = self.command_line()
        self.log_path = self.data.parent / f"{self.data.name}.log"
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                list(map(str, line)),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                env=self.environment,
            )
        first = self.process.stdout.readline().strip()
        if not first.startswith("listening on "):
            self.kill()
            raise AssertionError(f"the first line is {first!r}, not `listening on HOST:PORT`; log:\n{self.log()}")
        self.host, _, port = first.removeprefix("listening on ").rpartition(":")
        self.port = int(port)
        self.announced()
        # A full pipe would block the server.
        self.drain = threading.Thread(target=self.process.stdout.read, daemon=True)
        self.drain.start()
        return self

    def announced(self):
        """Reads what the server prints behind its first line."""

    def __exit__(self, *exception):
        if self.process.poll() is None:
            code = self.stop()
            assert code == 0, f"SIGTERM gave exit code {code}; log:\n{self.log()}"

    @property
    def address(self):
        return f"{self.host}:{self.port}"

    @property
    def uri(self):
        return f"grpc://{self.address}"

    def log(self):
        return self.log_path.read_text(errors="replace")[-4000:]

    def stop(self, how=signal.SIGTERM):
        """Asks the server to stop, and returns its exit code; no process of its group may be left."""
        self.process.send_signal(how)
        try:
            self.process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{how!r} did not stop the server in {STOP_TIMEOUT_SECONDS} s; log:\n{self.log()}")
        self.close_output()
        assert not self.group_is_alive(), "a process of the server's group is left behind"
        return self.process.returncode

    def kill(self):
        """What `kill -9` does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.close_output()

    def close_output(self):
        if self.drain:
            self.drain.join()
        self.process.stdout.close()

    def group_is_alive(self):
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def connect(self, headers=None, **options):
        """A DB-API connection; `headers` go with every call."""
        prefix = DatabaseOptions.RPC_CALL_HEADER_PREFIX.value
        database = {prefix + name: value for name, value in (headers or {}).items()}
        return flight_sql.connect(self.uri, db_kwargs={**database, **options}, autocommit=True)

    def table(self, sql):
        """The result of a query as an Arrow table, over a connection of its own."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetch_arrow_table()

    def rows(self, sql):
        """The result of a query as a list of dicts."""
        return self.table(sql).to_pylist()

    def send(self, table, data, mode="append", ingest_id=None, **options):
        """Ingests without waiting; returns the number of rows that the server says it took."""
        headers = {INGEST_ID_HEADER: ingest_id} if ingest_id else None
        with closing(self.connect(headers)) as connection, connection.cursor() as cursor:
            return cursor.adbc_ingest(table, data, mode=mode, **options)

    def ingest(self, table, data, **options):
        """Ingests and waits until the rows are part of silver; returns the ingest's row in system.ingests."""
        ingest_id = options.pop("ingest_id", None) or f"test-{uuid.uuid4()}"
        accepted = self.send(table, data, ingest_id=ingest_id, **options)
        assert accepted == data.num_rows, f"{data.num_rows} rows were sent, {accepted} accepted"
        return self.wait_merged(ingest_id)

    def wait_merged(self, ingest_id):
        """Waits until the ingest has a merged_at, and returns its row."""
        sql = f"SELECT * FROM system.ingests WHERE ingest_id = '{ingest_id}' AND merged_at IS NOT NULL"
        try:
            return wait_for(lambda: self.rows(sql), f"the merge of ingest {ingest_id}")[0]
        except TimeoutError as late:
            raise AssertionError(f"{late}; log:\n{self.log()}") from late
