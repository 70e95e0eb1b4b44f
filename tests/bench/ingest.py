"""Ingest at full speed, beside what a Python stack does with the same rows: `make bench-ingest`.

The server runs as it would on AWS, in front of a fake Firehose that counts what it takes. The flights example's events
go in over plain DoPut, again and again, with offsets that go on; then, against other fakes, under a quota and while
nothing is taken for a minute. The reference is reference.py in front of the same fake. All processes share this
machine's processors, so what each of them used is shown too.

Nothing is asserted: the last column says which targets were met here and now.
"""

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from itertools import cycle, islice

from events import batches_of, flight_events
from processes import REPO, Fake, Mallard, Peak, Stopwatch, cpu_seconds

sys.path.insert(0, str(REPO / "examples" / "producer"))

from producer import Producer  # noqa: E402

MIB = 1 << 20
QUOTA_BYTES_A_SECOND = 5 * MIB
# A quota lets a burst through at first.
BURST_SECONDS = 5
WINDOW_BYTES = 256 * MIB
PRODUCERS_IN_STALL = 4
REFERENCE_ROWS_A_CALL = 500
REFERENCE_WARM_UP_CALLS = 10

RATE_MB_A_SECOND_MIN = 300
FULL_SHARE_MIN = 0.99
QUOTA_SHARE_MIN = 0.95
STALL_GROWTH_MIB_MAX = 256
CPU_SHARE_MAX = 0.1


class Report:
    """The lines of the result."""

    def __init__(self):
        self.is_met = True

    def head(self, text):
        print(f"\n{text}", flush=True)

    def line(self, what, value, target=None, met=None):
        mark = "" if met is None else "met" if met else "MISSED"
        self.is_met &= met is not False
        print(f"  {what:<52}{value:>16}   {target or '':<16}{mark}".rstrip(), flush=True)


@contextmanager
def mallard(quota=None):
    """A server in front of a fake of its own."""
    with ExitStack() as stack:
        lake = stack.enter_context(tempfile.TemporaryDirectory(prefix="mallard-bench-"))
        fake = stack.enter_context(Fake(quota))
        yield stack.enter_context(Mallard(fake, lake)), fake


class Stream:
    """Sends batches over and over under one ingest id."""

    def __init__(self, server, batches, ingest_id, window_bytes=WINDOW_BYTES):
        self.batches, self.rows, self.bytes = cycle(batches), 0, 0
        schema = batches[0].schema
        self.producer = Producer(server.uri, "flights", schema, ingest_id, window_bytes=window_bytes)

    def send(self, is_over):
        for batch in self.batches:
            if is_over():
                return
            self.producer.send(batch)
            self.rows += batch.num_rows
            self.bytes += batch.nbytes

    def close(self):
        """Waits until all is durable."""
        self.producer.close()


def after(seconds):
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def full_speed(report, batches, seconds):
    """Without a quota: rate, packing, processor. Gives processor seconds and billed bytes a row."""
    with mallard() as (server, fake):
        warm = Stream(server, batches, "warm-up")
        warm.send(after(1))
        warm.close()
        before = fake.stats()
        with Stopwatch(server=server, fake=fake) as watch, Peak(server) as peak:
            stream = Stream(server, batches, "full-speed")
            stream.send(after(seconds))
            stream.close()
        stats = {name: now - before[name] for name, now in fake.stats().items() if isinstance(now, int)}
    rate = stream.bytes / watch.seconds / 1e6
    full = stats["bytes_in_records_over_900_kib"] / max(stats["bytes"], 1)
    report.head(f"full speed: {stream.rows:,} rows, {stream.bytes / 1e9:.1f} GB of Arrow in {watch.seconds:.0f} s")
    report.line("Arrow, MB/s", f"{rate:.0f}", f">= {RATE_MB_A_SECOND_MIN}", rate >= RATE_MB_A_SECOND_MIN)
    report.line("rows, million/s", f"{stream.rows / watch.seconds / 1e6:.2f}")
    report.line("bytes to Firehose a byte of Arrow", f"{stats['bytes'] / stream.bytes:.3f}")
    target = f">= {FULL_SHARE_MIN:.0%}"
    report.line("share of bytes in records over 900 KiB", f"{full:.2%}", target, full >= FULL_SHARE_MIN)
    report.line("server's memory, MiB at most", f"{peak.mib:.0f}")
    for name, used in watch.cpu.items():
        report.line(f"processors used by the {name}", f"{used / watch.seconds:.2f}")
    return watch.cpu["server"] / stream.rows, stats["billed_bytes"] / stream.rows


def under_quota(report, batches, seconds):
    """What of a quota is used."""
    with mallard(QUOTA_BYTES_A_SECOND) as (server, fake):
        stream, over = Stream(server, batches, "under-quota", 64 * MIB), threading.Event()
        sender = threading.Thread(target=stream.send, args=[over.is_set])
        sender.start()
        time.sleep(BURST_SECONDS)
        before, begun = fake.stats(), time.monotonic()
        time.sleep(seconds)
        now, passed = fake.stats(), time.monotonic() - begun
        over.set()
        sender.join()
        stream.close()
    share = (now["bytes"] - before["bytes"]) / passed / QUOTA_BYTES_A_SECOND
    report.head(f"under a quota of {QUOTA_BYTES_A_SECOND // MIB} MiB/s, for {passed:.0f} s")
    target = f">= {QUOTA_SHARE_MIN:.0%}"
    report.line("share of the quota that was used", f"{share:.1%}", target, share >= QUOTA_SHARE_MIN)
    report.line("records refused, and sent again", f"{now['refused_records'] - before['refused_records']:,}")


def through_a_stall(report, batches, warm_seconds, stall_seconds):
    """What the server holds while nothing is taken; producers do not hold back."""
    with mallard() as (server, fake):
        over = threading.Event()
        streams = [Stream(server, batches, f"stall-{n}", 1 << 50) for n in range(PRODUCERS_IN_STALL)]
        senders = [threading.Thread(target=stream.send, args=[over.is_set]) for stream in streams]
        with Peak(server) as before:
            for sender in senders:
                sender.start()
            time.sleep(warm_seconds)
        with Peak(server) as during:
            fake.stall(stall_seconds)
            time.sleep(stall_seconds)
        over.set()
        begun = time.monotonic()
        for sender in senders:
            sender.join()
        for stream in streams:
            stream.close()
        recovered = time.monotonic() - begun
    growth = during.mib - before.mib
    report.head(f"while nothing is taken for {stall_seconds:.0f} s, {PRODUCERS_IN_STALL} producers")
    report.line("server's memory before, MiB at most", f"{before.mib:.0f}")
    target = f"<= {before.mib + STALL_GROWTH_MIB_MAX:.0f}"
    report.line("server's memory meanwhile, MiB at most", f"{during.mib:.0f}", target, growth <= STALL_GROWTH_MIB_MAX)
    report.line("seconds until all was durable behind it", f"{recovered:.1f}")


@contextmanager
def reference(fake):
    """The reference's process, and a connection to it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "uvicorn", "reference:app", "--host", "127.0.0.1", "--port", str(port)]
    line += ["--log-level", "warning", "--no-access-log"]
    environment = {**os.environ, **fake.environment_for()}
    process = subprocess.Popen(line, cwd=REPO / "tests" / "bench", env=environment)
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while process.poll() is None:
            with suppress(OSError):
                connection.connect()
                break
            time.sleep(0.1)
        yield process.pid, connection
    finally:
        process.terminate()
        process.wait()


def python_stack(report, batches, rows):
    """The reference over the first `rows` rows. Gives processor seconds and billed bytes a row."""
    events = (row for batch in batches for row in batch.to_pylist())
    bodies = []
    while sum(count for count, _ in bodies) < rows and (call := list(islice(events, REFERENCE_ROWS_A_CALL))):
        bodies.append((len(call), json.dumps(call, default=lambda it: it.isoformat())))
    with Fake() as fake, reference(fake) as (pid, connection):

        def post(body):
            connection.request("POST", "/flights", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"the reference answered {answer.status}: {text[:500]!r}")

        for _, body in bodies[:REFERENCE_WARM_UP_CALLS]:
            post(body)
        before, cpu, begun = fake.stats(), cpu_seconds(pid), time.monotonic()
        for _, body in bodies:
            post(body)
        used, seconds, stats = cpu_seconds(pid) - cpu, time.monotonic() - begun, fake.stats()
    sent = sum(count for count, _ in bodies)
    taken = stats["records"] - before["records"]
    if taken != sent:
        raise RuntimeError(f"the reference sent {sent} rows, the fake took {taken}")
    report.head(f"FastAPI and boto3: {sent:,} rows in {seconds:.0f} s, {REFERENCE_ROWS_A_CALL} a call")
    report.line("rows/s", f"{sent / seconds:,.0f}")
    report.line("processors used by the endpoint", f"{used / seconds:.2f}")
    return used / sent, (stats["billed_bytes"] - before["billed_bytes"]) / sent


def compare(report, own, other):
    (own_cpu, own_billed), (other_cpu, other_billed) = own, other
    share = own_cpu / other_cpu
    report.head("a million rows")
    report.line("processor seconds, Mallard", f"{own_cpu * 1e6:.2f}")
    report.line("processor seconds, FastAPI and boto3", f"{other_cpu * 1e6:.1f}")
    report.line("Mallard's share of that", f"{share:.2%}", f"<= {CPU_SHARE_MAX:.0%}", share <= CPU_SHARE_MAX)
    report.line("MiB billed, Mallard", f"{own_billed * 1e6 / MIB:,.1f}")
    report.line("MiB billed, one row a record", f"{other_billed * 1e6 / MIB:,.1f}")
    report.line("one row a record costs so many times as much", f"{other_billed / own_billed:,.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30, help="of full speed, and of the quota")
    parser.add_argument("--stall-seconds", type=float, default=60)
    parser.add_argument("--batch-rows", type=int, default=32_768)
    parser.add_argument("--reference-rows", type=int, default=100_000)
    given = parser.parse_args()

    batches = batches_of(flight_events(), given.batch_rows)
    report = Report()
    own = full_speed(report, batches, given.seconds)
    other = python_stack(report, batches, given.reference_rows)
    compare(report, own, other)
    under_quota(report, batches, given.seconds)
    through_a_stall(report, batches, min(given.seconds, 10), given.stall_seconds)
    report.head("all targets met" if report.is_met else "targets were MISSED, see above")


if __name__ == "__main__":
    main()
