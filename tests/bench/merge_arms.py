"""The merges that are compared: how each is started, what it cost, and what it did to its table.

A process counts its memory from before it became another program on, so whoever measures imports nothing large.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

BENCH = Path(__file__).resolve().parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", Path.home() / ".cache" / "mallard" / "target"))
BINARY = Path(os.environ.get("MALLARD_MERGE_BIN", TARGET / "release" / "bronze-to-silver"))
TABLE = "events"
KIB, MIB = 1 << 10, 1 << 20
# Of the Lambda that is measured.
MEMORY_MB = 1024

DEFINITION = """\
name = "bench"

[tables.events]
primary_key = ["id"]
sequence_by = "seq"
deletion_vectors = {vectors}
columns = [
  {{ name = "id", type = "bigint" }},
  {{ name = "seq", type = "bigint" }},
  {{ name = "customer", type = "integer" }},
  {{ name = "quantity", type = "integer" }},
  {{ name = "amount", type = "decimal(12,2)" }},
  {{ name = "weight", type = "double" }},
  {{ name = "status", type = "varchar" }},
  {{ name = "note", type = "varchar" }},
  {{ name = "updated_at", type = "timestamp" }},
]
"""


@dataclass
class Run:
    """What one merge cost, and what it did to the table."""

    arm: str
    case: str
    seconds: float
    cpu_seconds: float
    memory_mib: float
    files_marked: int = 0
    files_rewritten: int = 0
    files_added: int = 0
    bytes_written: int = 0
    told: dict = field(default_factory=dict)


class Mallard:
    """The binary, over a definition of its own."""

    def __init__(self, name, vectors):
        self.name, self.vectors = name, vectors

    def table(self, work):
        return work / "lake" / "silver" / TABLE

    def command(self, work, changes):
        """The line and the environment that merge `changes` into the table in `work`."""
        definition = work / "definition"
        definition.mkdir(exist_ok=True)
        (definition / "lakehouse.toml").write_text(DEFINITION.format(vectors=self.vectors))
        key = f"bronze/{TABLE}/2026/01/31/23/{TABLE}-1-2026-01-31-23-00-00-{changes.parent.name}-{changes.name}"
        object_ = work / "lake" / key
        object_.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(changes / "changes.frames", object_)
        event = work / "event.json"
        event.write_text(json.dumps({"table": TABLE, "objects": [key]}))
        return [BINARY, "--invoke", event], {
            "MALLARD_LAKE": (work / "lake").as_uri(),
            "MALLARD_DEFINITION": str(definition),
            "MALLARD_MEMORY_MB": str(MEMORY_MB),
        }


class Reference:
    """The Python stack."""

    def __init__(self, name, reader, *flags):
        self.name, self.reader, self.flags = name, reader, flags

    def table(self, work):
        return work / TABLE

    def command(self, work, changes):
        file = {"parquet": "changes.parquet", "ndjson": "changes.ndjson.gz"}[self.reader]
        script = [sys.executable, BENCH / "merge_reference.py", self.table(work), changes / file]
        return [*script, "--reader", self.reader, *self.flags], {}


def copy(base, table):
    """A copy whose data files are links: no writer of Delta changes a file that is there."""
    table.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(base, table, copy_function=os.link, ignore=shutil.ignore_patterns("_delta_log"))
    shutil.copytree(base / "_delta_log", table / "_delta_log")


def commits(table):
    """The actions of each commit, by version."""
    found = sorted((table / "_delta_log").glob("*.json"))
    return {int(path.stem): list(map(json.loads, path.read_text().splitlines())) for path in found}


def files_in(table):
    return {path: path.stat().st_size for path in table.rglob("*") if path.is_file()}


def touched(run, table, before, files_before):
    """Completes `run` by what the commits behind version `before` did."""
    actions = [action for version, its in commits(table).items() if version > before for action in its]
    if not actions:
        raise RuntimeError(f"{run.arm} committed nothing to {table}")
    added = {action["add"]["path"]: action["add"] for action in actions if "add" in action}
    removed = {action["remove"]["path"] for action in actions if "remove" in action}
    run.files_marked = len(added.keys() & removed)
    run.files_rewritten = len(removed - added.keys())
    run.files_added = len(added.keys() - removed)
    run.bytes_written = sum(size for path, size in files_in(table).items() if path not in files_before)


def measure(arm, case, work, changes):
    """Runs one merge to its end; fails if it does."""
    table = arm.table(work)
    line, environment = arm.command(work, changes)
    before, files_before = max(commits(table)), files_in(table)
    # What was written before is not this merge's to wait for.
    os.sync()
    with open(work / "stdout", "w+") as out, open(work / "stderr", "w+") as log:
        begun = time.perf_counter()
        process = subprocess.Popen(
            list(map(str, line)), stdin=subprocess.DEVNULL, stdout=out, stderr=log, env={**os.environ, **environment}
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{arm.name} ended with {process.returncode}:\n{(work / 'stderr').read_text()[-4000:]}")
    told = json.loads((work / "stdout").read_text() or "{}")
    run = Run(arm.name, case, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * KIB / MIB, told=told)
    touched(run, table, before, files_before)
    return run
