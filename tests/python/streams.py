"""Plain Flight DoPut as a producer speaks it, through pyarrow: a stream of numbered batches, and what it answers."""

import json

import pyarrow as pa
import pyarrow.flight as flight

from lab import LOGS
from mallard import INGEST_ID_HEADER

PARTIAL_HEADER = "mallard-partial"
CALL_SECONDS = 60
READY = -1


class Put:
    """A stream into `table`, which the server has said to be ready for; use it in `with`. It ends after `seconds`."""

    def __init__(
        self, server, table="logs", schema=LOGS, ingest_id=None, partial=False, path=None, seconds=CALL_SECONDS
    ):
        headers = {INGEST_ID_HEADER: ingest_id, PARTIAL_HEADER: "true" if partial else None}
        headers = [(name.encode(), value.encode()) for name, value in headers.items() if value]
        # A connection of its own, so that one can be lost without the others.
        self.client = flight.connect(server.uri, generic_options=[("grpc.use_local_subchannel_pool", 1)])
        options = flight.FlightCallOptions(headers=headers, timeout=seconds)
        descriptor = flight.FlightDescriptor.for_path(*(path or [table]))
        self.answers, self.error = [], None
        self.writer, self.reader = self.client.do_put(descriptor, schema, options)
        ready = self.read()
        if ready is None:
            raise self.refusal()
        assert ready["offset"] == READY, ready
        self.ingest_id = ready["ingest_id"]

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None and self.writer is not None:
            self.finish()
        self.client.close()

    def read(self):
        """The next answer; None at the end."""
        buffer = self.reader.read()
        if buffer is None:
            return None
        self.answers.append(json.loads(buffer.to_pybytes()))
        return self.answers[-1]

    def send(self, rows, offset=None):
        """Sends a table or a batch as one batch. `offset`: a number, bytes as they are, or None for no metadata."""
        (batch,) = rows.combine_chunks().to_batches() if isinstance(rows, pa.Table) else [rows]
        try:
            if offset is None:
                self.writer.write_batch(batch)
            else:
                self.writer.write_with_metadata(batch, offset if isinstance(offset, bytes) else str(offset).encode())
        except (pa.ArrowException, OSError) as error:
            # What the stream ended with is told to whoever meets it first.
            self.error = error
            raise

    def durable(self, offset):
        """Waits until all up to `offset` is durable; the answer that says so."""
        while True:
            answer = self.read()
            if answer is None:
                raise self.refusal()
            assert answer["ingest_id"] == self.ingest_id
            if answer["offset"] >= offset:
                return answer

    def last(self):
        """The highest offset that was said to be durable."""
        return max((answer["offset"] for answer in self.answers), default=READY)

    def finish(self):
        """Ends the stream, and reads what is answered to its end; the last answer."""
        self.writer.done_writing()
        while self.read() is not None:
            pass
        self.writer.close()
        return self.answers[-1]

    def refusal(self):
        """The error that the stream ends with; fails if it ends well."""
        try:
            while self.read() is not None:
                pass
            self.writer.close()
        except (pa.ArrowException, OSError) as error:
            return error
        assert self.error, f"the stream ended without an error, after {self.answers}"
        return self.error

    def lose(self):
        """Hangs up without a word, as a producer that dies does."""
        self.reader = None
        self.writer = None
        self.client.close()


def refused_by(error, kind, *words):
    """The error must be of `kind`, and name each of `words`."""
    assert isinstance(error, kind), f"{type(error).__name__}: {error}"
    for word in words:
        assert str(word) in str(error), f"{word!r} is not named in: {error}"
