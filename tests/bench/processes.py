"""The processes of the benchmark: each is started, asked what it uses, and stopped."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", Path.home() / ".cache" / "mallard" / "target")) / "release"
SERVER = Path(os.environ.get("MALLARD_BIN", TARGET / "flight-server"))
FAKE = TARGET / "examples" / "firehose_fake"
STREAMS = "mallard-{table}"
STOP_SECONDS = 30
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 0.1


def cpu_seconds(pid):
    """Seconds of processor that a process has used so far, its threads' included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def memory_mib(pid):
    """What a process has in memory now."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


class Running:
    """A process that says where it listens in the first line that it prints; use it in `with`."""

    def __init__(self, line, environment=(), stop_by=signal.SIGTERM):
        self.line, self.environment, self.stop_by = list(map(str, line)), dict(environment), stop_by

    def __enter__(self):
        if not Path(self.line[0]).exists():
            sys.exit(f"{self.line[0]} does not exist; `make bench-ingest` builds it")
        environment = {**os.environ, **self.environment}
        self.process = subprocess.Popen(self.line, stdout=subprocess.PIPE, text=True, env=environment)
        first = self.process.stdout.readline().strip()
        if not first.startswith("listening on "):
            self.__exit__()
            raise RuntimeError(f"{self.line[0]} began with {first!r}")
        self.address = first.removeprefix("listening on ")
        # A full pipe would block it.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(self.stop_by)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def cpu(self):
        return cpu_seconds(self.process.pid)

    def memory(self):
        return memory_mib(self.process.pid)


class Fake(Running):
    """A fake Firehose that counts what it takes."""

    def __init__(self, quota_bytes_per_second=None):
        quota = ["--quota-bytes-per-second", quota_bytes_per_second] if quota_bytes_per_second else []
        super().__init__([FAKE, "--port", 0, *quota], stop_by=signal.SIGINT)

    def stats(self):
        with urllib.request.urlopen(f"http://{self.address}/stats") as answer:
            return json.load(answer)

    def stall(self, seconds):
        request = urllib.request.Request(f"http://{self.address}/stall?seconds={seconds}", method="POST")
        urllib.request.urlopen(request).close()

    def environment_for(self):
        """Where the AWS SDKs find it."""
        return {
            "AWS_ENDPOINT_URL": f"http://{self.address}",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


class Mallard(Running):
    """The server in front of a fake."""

    def __init__(self, fake, lake):
        line = [SERVER, "serve", "--definition", REPO / "examples" / "flights", "--lake", lake]
        line += ["--firehose-stream", STREAMS, "--listen", "127.0.0.1:0"]
        super().__init__(line, fake.environment_for())

    @property
    def uri(self):
        return f"grpc://{self.address}"


class Peak:
    """The most memory that a process had within the `with` block, in MiB, and what it had at its begin."""

    def __init__(self, running):
        self.running, self.over = running, threading.Event()

    def __enter__(self):
        self.begin = self.mib = self.running.memory()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def watch(self):
        while not self.over.wait(SAMPLE_SECONDS):
            self.mib = max(self.mib, self.running.memory())

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


class Stopwatch:
    """Time and processor that pass within the `with` block, of this process and of others."""

    def __init__(self, **running):
        self.running = running

    def read(self):
        own = time.process_time()
        return {"client": own, **{name: running.cpu() for name, running in self.running.items()}}

    def __enter__(self):
        self.begun, self.before = time.monotonic(), self.read()
        return self

    def __exit__(self, *_):
        self.seconds = time.monotonic() - self.begun
        after = self.read()
        self.cpu = {name: after[name] - before for name, before in self.before.items()}
