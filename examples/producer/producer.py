"""A producer that streams batches into a Mallard table, for days if need be, and loses none of them.

It speaks plain Flight DoPut. Each batch has a number, its offset, that counts from 0 under the producer's ingest id. The
server answers with the highest offset up to which all is durable; until then the batch is held here. When the
connection breaks, or the server is replaced, the producer connects again and goes on behind the last durable offset.
What had landed all the same counts once: the server knows it by ingest id and offset.

    producer                                       server
      ── descriptor ["orders"], schema ──────────►
      ◄── {"offset": -1, "ingest_id": "…"} ─────── ready
      ── batch, app_metadata 0 ──────────────────►
      ── batch, app_metadata 1 ──────────────────►
      ◄── {"offset": 1, …} ─────────────────────── both are durable

Try it with a Parquet file; stop it at any time and start it again:

    python producer.py grpc://127.0.0.1:32010 orders orders.parquet --ingest-id orders-2026-01-31
"""

import argparse
import json
import random
import threading
import time
from collections import deque
from itertools import islice

import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq

BACKOFF_SECONDS_MIN, BACKOFF_SECONDS_MAX = 0.1, 10.0
# A fresh connection each time, that notices when the other side is gone without a word.
CHANNEL = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.http2.max_pings_without_data", 0),
]
# How long a call may take to end once nothing more is written.
LAST_SECONDS_MAX = 30
# Errors of these kinds come back however often a batch is sent.
FATAL = (
    pa.ArrowInvalid,
    pa.ArrowKeyError,
    pa.ArrowNotImplementedError,
    flight.FlightUnauthenticatedError,
    flight.FlightUnauthorizedError,
)


class Producer:
    """One stream of batches of `schema` into `table`; use it in `with`, from one thread.

    `next_offset` is the number of the first batch to be sent: 0 under a new id, or what follows the last durable one.
    `on_result` is called, from another thread, with each answer of the server: keep its `offset` to go on there after
    a restart, and look at its `rejected` rows if the stream is `partial`. So many `window_bytes` may be under way without
    being durable; beyond it `send` waits. `give_up_seconds` is how long it tries again while nothing becomes durable.
    """

    def __init__(
        self,
        uri,
        table,
        schema,
        ingest_id,
        *,
        next_offset=0,
        partial=False,
        on_result=None,
        window_bytes=64 << 20,
        give_up_seconds=300,
    ):
        self.uri, self.path, self.schema = uri, table.split("."), schema
        self.headers = [(b"mallard-ingest-id", ingest_id.encode())]
        if partial:
            self.headers.append((b"mallard-partial", b"true"))
        self.on_result, self.window_bytes, self.give_up_seconds = on_result, window_bytes, give_up_seconds
        self.next_offset, self.durable = next_offset, next_offset - 1
        # The batches that are not durable, oldest first, and which of them the connection has not yet.
        self._held, self._held_bytes, self._unsent = deque(), 0, next_offset
        self._changed = threading.Condition()
        self._connection, self._ended = None, False

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.close()
        else:
            self._hang_up()

    def send(self, batch):
        """Takes a batch, and returns its offset. Waits while too much is under way."""
        with self._changed:
            offset, self.next_offset = self.next_offset, self.next_offset + 1
            self._held.append((offset, batch))
            self._held_bytes += batch.nbytes
        self._run_until(lambda: self._held_bytes <= self.window_bytes)
        return offset

    def flush(self):
        """Waits until all that was sent is durable; returns the last offset."""
        self._run_until(lambda: not self._held)
        return self.durable

    def close(self):
        """Waits as `flush` does, and ends the stream."""
        try:
            self.flush()
        finally:
            self._hang_up()

    def _run_until(self, done):
        """Sends, and reconnects as often as it takes, until `done`."""
        began, durable, backoff = time.monotonic(), self.durable, BACKOFF_SECONDS_MIN
        while True:
            try:
                self._write()
                with self._changed:
                    self._changed.wait_for(lambda: self._ended or done())
                    if not self._ended:
                        return
                error = flight.FlightUnavailableError("the server ended the stream")
            except (pa.ArrowException, OSError) as caught:
                error = caught
            # What the call ended with says more than a write that failed.
            error = self._hang_up() or error
            if self.durable > durable:
                began, durable, backoff = time.monotonic(), self.durable, BACKOFF_SECONDS_MIN
            if isinstance(error, FATAL) or time.monotonic() - began > self.give_up_seconds:
                raise error
            # Not all at once, when many producers lost the same server.
            time.sleep(random.uniform(0, backoff))
            backoff = min(2 * backoff, BACKOFF_SECONDS_MAX)

    def _write(self):
        """Writes what the connection has not yet; makes one if there is none."""
        if self._connection is None:
            connection = _Connection(self.uri, self.path, self.schema, self.headers)
            self._connection, self._ended, self._unsent = connection, False, self.durable + 1
            connection.listen(self._note, self._note_end)
        with self._changed:
            unsent = list(islice(reversed(self._held), self.next_offset - self._unsent))
        for offset, batch in reversed(unsent):
            self._connection.writer.write_with_metadata(batch, str(offset).encode())
            self._unsent = offset + 1

    def _note(self, result):
        if self.on_result:
            self.on_result(result)
        with self._changed:
            self.durable = max(self.durable, result["offset"])
            while self._held and self._held[0][0] <= self.durable:
                self._held_bytes -= self._held.popleft()[1].nbytes
            self._changed.notify_all()

    def _note_end(self):
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _hang_up(self):
        """Ends the connection, if there is one; the error that it ended with, if it did."""
        connection, self._connection = self._connection, None
        return connection.close() if connection else None


class _Connection:
    """A DoPut under way, which the server has said to be ready for."""

    def __init__(self, uri, path, schema, headers):
        self.client = flight.connect(uri, generic_options=CHANNEL)
        try:
            descriptor = flight.FlightDescriptor.for_path(*path)
            options = flight.FlightCallOptions(headers=headers)
            self.writer, self.reader = self.client.do_put(descriptor, schema, options)
            ready = self.read()
            if ready is None:
                # Raises what was wrong.
                self.writer.close()
            if ready is None or ready["offset"] != -1:
                raise flight.FlightUnavailableError(f"the server is not ready: {ready}")
        except BaseException:
            self.client.close()
            raise

    def read(self):
        """The next answer; None at the end."""
        buffer = self.reader.read()
        return None if buffer is None else json.loads(buffer.to_pybytes())

    def listen(self, note, note_end):
        """Gives each answer to `note`, in a thread of its own, until there is none."""

        def listen():
            try:
                while (result := self.read()) is not None:
                    note(result)
            except (pa.ArrowException, OSError):
                # `close` tells what it was.
                pass
            finally:
                note_end()

        self.listener = threading.Thread(target=listen, daemon=True)
        self.listener.start()

    def close(self):
        """Ends the call, and takes its last answers; the error that it ended with, if it did."""
        try:
            self.writer.done_writing()
            self.listener.join(LAST_SECONDS_MAX)
            self.writer.close()
        except (pa.ArrowException, OSError) as error:
            return error
        finally:
            self.client.close()


def main():
    parser = argparse.ArgumentParser(description="Streams a Parquet file into a table; the same id resumes it.")
    parser.add_argument("uri")
    parser.add_argument("table")
    parser.add_argument("file")
    parser.add_argument("--ingest-id", required=True, help="one for each file: it stands for the file's rows")
    parser.add_argument("--batch-rows", type=int, default=8192, help="the same each time that the file is sent")
    parser.add_argument("--next-offset", type=int, default=0, help="what follows the last offset that was printed")
    given = parser.parse_args()

    def show(result):
        print(f"durable up to {result['offset']}: {result['rows']} rows", flush=True)

    file = pq.ParquetFile(given.file)
    with Producer(
        given.uri, given.table, file.schema_arrow, given.ingest_id, next_offset=given.next_offset, on_result=show
    ) as producer:
        for number, batch in enumerate(file.iter_batches(given.batch_rows)):
            if number >= given.next_offset:
                producer.send(batch)


if __name__ == "__main__":
    main()
