"""Silver's tables, read where they lie by readers that nobody here wrote, beside what the server says of the same
version: deletion vectors and all.

Spark's Delta is the only one of them that has nothing in common with delta-kernel in Rust. It is 400 MB, so only
MALLARD_DEEP=1 asks it.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from mallard import REPO, Server
from readers import READERS

HERE = Path(__file__).parent
READ_TIMEOUT_SECONDS = 100
SPARK_TIMEOUT_SECONDS = 900

DEFINITION = """\
name = "shop"

[tables.orders]
primary_key = ["id"]
sequence_by = "seq"
delete_when = "op = 'delete'"
drop_columns = ["op"]
deletion_vectors = true
columns = [
  { name = "id", type = "bigint" },
  { name = "seq", type = "bigint" },
  { name = "item", type = "varchar" },
  { name = "pieces", type = "integer" },
  { name = "price", type = "decimal(12,2)" },
  { name = "weight", type = "double" },
  { name = "is_gift", type = "boolean" },
  { name = "day", type = "date" },
  { name = "at", type = "timestamp" },
  { name = "label", type = "blob" },
  { name = "tags", type = "varchar[]" },
  { name = "place", type = "struct(city varchar, zip integer)" },
  { name = "op", type = "varchar" },
]

[tables.by_day]
primary_key = ["id"]
sequence_by = "seq"
delete_when = "op = 'delete'"
drop_columns = ["op"]
partition_by = ["day"]
deletion_vectors = true
columns = [
  { name = "id", type = "bigint" },
  { name = "seq", type = "bigint" },
  { name = "day", type = "date" },
  { name = "item", type = "varchar" },
  { name = "op", type = "varchar" },
]

[tables.evolved]
primary_key = ["id"]
sequence_by = "seq"
deletion_vectors = true
columns = [{ name = "id", type = "bigint" }, { name = "seq", type = "bigint" }]

[tables.versions]
primary_key = ["id"]
sequence_by = "seq"
delete_when = "op = 'delete'"
drop_columns = ["op"]
history = true
deletion_vectors = true
columns = [
  { name = "id", type = "bigint" },
  { name = "seq", type = "timestamp" },
  { name = "item", type = "varchar" },
  { name = "op", type = "varchar" },
]

[tables.copied]
primary_key = ["id"]
sequence_by = "seq"
deletion_vectors = false
columns = [{ name = "id", type = "bigint" }, { name = "seq", type = "bigint" }, { name = "item", type = "varchar" }]
"""

ORDERS = pa.schema(
    [
        ("id", pa.int64()),
        ("seq", pa.int64()),
        ("item", pa.string()),
        ("pieces", pa.int32()),
        ("price", pa.decimal128(12, 2)),
        ("weight", pa.float64()),
        ("is_gift", pa.bool_()),
        ("day", pa.date32()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("label", pa.binary()),
        ("tags", pa.list_(pa.string())),
        ("place", pa.struct([("city", pa.string()), ("zip", pa.int32())])),
        ("op", pa.string()),
    ]
)
BY_DAY = pa.schema([ORDERS.field(name) for name in ("id", "seq", "day", "item", "op")])
NOON = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=timezone.utc)
LEAP_DAY = date(2024, 2, 29)
ROWS = 3_000


def order(number, seq, op="upsert"):
    """An order whose every column follows from its key and its sequence; each seventh has nothing but these."""
    if op == "delete" or (number + seq) % 7 == 0:
        return {"id": number, "seq": seq, "op": op}
    return {
        "id": number,
        "seq": seq,
        "item": f"Stück {number} ✂ {seq}",
        "pieces": number % 100 - 50,
        "price": Decimal(number * seq) / 100,
        "weight": number / 3,
        "is_gift": number % 2 == 0,
        "day": LEAP_DAY + timedelta(days=number % 400),
        "at": NOON + timedelta(microseconds=number * 1_000_003),
        "label": bytes([number % 256, 0, 255]),
        "tags": [f"t{number % 5}", None, ""][: number % 4],
        "place": {"city": f"city {number % 9}", "zip": None if number % 3 else number},
        "op": op,
    }


@dataclass
class Written:
    """A table in its folder, at the versions that are to be read."""

    server: Server
    name: str
    versions: list

    @property
    def folder(self):
        return self.server.data / "silver" / self.name

    def told(self, version):
        """What the server says of a version."""
        return self.server.table(f"SELECT * FROM silver.{self.name} FOR VERSION AS OF {version}")


def commits(folder):
    """The actions of a table's commits, by version."""
    found = sorted((folder / "_delta_log").glob("*.json"))
    return {int(path.stem): [json.loads(line) for line in path.read_text().splitlines()] for path in found}


def marked(folder):
    """How many rows each deletion vector of a table marks, in the order in which they were committed."""
    actions = [action for its in commits(folder).values() for action in its]
    vectors = [action["add"].get("deletionVector") for action in actions if "add" in action]
    return [vector["cardinality"] for vector in vectors if vector]


def write_orders(server):
    """Inserts, updates, deletes, then updates and deletes of what was marked once already."""
    rounds = [
        [order(n, 1) for n in range(ROWS)],
        [order(n, 2) for n in range(0, ROWS, 60)] + [order(n, 2, "delete") for n in range(1, ROWS, 90)],
        [order(n, 3) for n in range(0, ROWS, 45)] + [order(n, 3, "delete") for n in range(2, ROWS, 300)],
        # A late one, that changes nothing, and a deleted key that comes back.
        [order(3, 0), order(1, 4)],
    ]
    for rows in rounds:
        server.ingest("orders", pa.Table.from_pylist(rows, schema=ORDERS))


def write_by_day(server):
    """Updates that stay in their partition, and some that move to another one or to none."""
    days = [LEAP_DAY, LEAP_DAY + timedelta(days=1), None]
    first = [{"id": n, "seq": 1, "day": days[n % 3], "item": f"a{n}", "op": "upsert"} for n in range(900)]
    stay = [{"id": n, "seq": 2, "day": days[n % 3], "item": f"b{n}", "op": "upsert"} for n in range(0, 900, 50)]
    move = [{"id": n, "seq": 2, "day": days[(n + 1) % 3], "item": f"c{n}", "op": "upsert"} for n in range(1, 900, 50)]
    gone = [{"id": n, "seq": 2, "day": days[n % 3], "op": "delete"} for n in range(2, 900, 50)]
    for rows in (first, stay + move + gone):
        server.ingest("by_day", pa.Table.from_pylist(rows, schema=BY_DAY))


def write_evolved(server):
    """A column more, then another one and updates of rows that have neither."""
    server.ingest("evolved", pa.table({"id": range(500), "seq": [1] * 500}))
    server.ingest("evolved", pa.table({"id": range(490, 520), "seq": [2] * 30, "note": [f"n{n}" for n in range(30)]}))
    late = {"id": range(0, 700, 100), "seq": [3] * 7, "note": ["x"] * 7}
    server.ingest("evolved", pa.table({**late, "at": pa.array([NOON] * 7, pa.timestamp("us", tz="UTC"))}))


def write_versions(server):
    """The history of some keys, a late change and a delete among it."""

    def versions(hour, ids, op="upsert"):
        rows = [{"id": n, "seq": NOON + timedelta(hours=hour), "item": f"{hour}:{n}", "op": op} for n in ids]
        schema = pa.schema(
            [("id", pa.int64()), ("seq", pa.timestamp("us", tz="UTC")), ("item", pa.string()), ("op", pa.string())]
        )
        return pa.Table.from_pylist(rows, schema=schema)

    server.ingest("versions", versions(0, range(400)))
    server.ingest("versions", versions(4, range(0, 400, 20)))
    server.ingest("versions", versions(2, range(0, 400, 40)))
    server.ingest("versions", versions(6, range(0, 400, 80), "delete"))


def write_copied(server):
    server.ingest("copied", pa.table({"id": range(300), "seq": [1] * 300, "item": ["a"] * 300}))
    server.ingest("copied", pa.table({"id": range(0, 300, 30), "seq": [2] * 10, "item": ["b"] * 10}))


WRITERS = {
    "orders": write_orders,
    "by_day": write_by_day,
    "evolved": write_evolved,
    "versions": write_versions,
    "copied": write_copied,
}
ROWS_LEFT = {
    # All but the deleted ones, of which 1 came back.
    "orders": ROWS - len({*range(1, ROWS, 90), *range(2, ROWS, 300)} - {1}),
    "by_day": 882,
    "evolved": 521,
    # 400, 20 newer ones, 10 between these; a delete only closes one.
    "versions": 430,
    "copied": 300,
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A server on all of these tables; stopped before they are read, so that nothing is only in its memory."""
    folder = tmp_path_factory.mktemp("readers")
    (folder / "lakehouse.toml").write_text(DEFINITION)
    with Server(folder, folder / "data") as server:
        for write in WRITERS.values():
            write(server)
        yield server


@pytest.fixture(scope="module", params=WRITERS)
def written(shop, request):
    newest = max(commits(shop.data / "silver" / request.param))
    # The newest, and one whose files have other deletion vectors.
    return Written(shop, request.param, [newest, newest - 1])


def venv_of_spark():
    """The Python that has Spark."""
    if not os.environ.get("MALLARD_DEEP"):
        pytest.skip("Spark is 400 MB: MALLARD_DEEP=1 asks it")
    why = "there is no java" if not shutil.which("java") else None
    if not why:
        shell = f'. "{REPO}/scripts/lib.sh" && venv_for "{HERE}/requirements-spark.txt"'
        made = subprocess.run(["bash", "-c", shell], stdout=subprocess.PIPE, text=True)
        if made.returncode == 0:
            return Path(made.stdout.strip()) / "bin" / "python"
        why = "PySpark can't be installed"
    if notes := os.environ.get("MALLARD_NOTES"):
        with open(notes, "a") as file:
            file.write(f"Spark as a reader of silver, because {why}\n")
    pytest.skip(why)


def read(reader, written, out):
    """The versions of a table as a reader sees them."""
    is_spark = reader == "Spark"
    python = venv_of_spark() if is_spark else sys.executable
    line = [python, HERE / "readers.py", reader, written.folder, out, *written.versions]
    timeout = SPARK_TIMEOUT_SECONDS if is_spark else READ_TIMEOUT_SECONDS
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{reader} can't read {written.folder}:\n{done.stderr[-3000:]}"
    for version in written.versions:
        with pa.ipc.open_file(out / f"{version}.arrow") as file:
            yield version, file.read_all()


def rows_alike(found, told):
    """Both tables as rows in one order, in the types that the server announces."""
    assert sorted(found.column_names) == sorted(told.column_names)
    schema = pa.schema([(field.name, plain(field.type)) for field in told.schema])
    order = [(name, "ascending") for name in ("id", "seq")]
    return (rows.select(schema.names).cast(schema).sort_by(order).to_pylist() for rows in (found, told))


def as_clickhouse_has_it(row):
    """ClickHouse has no NULL in place of a list or a struct, only empty ones."""
    has = {"tags": row.get("tags") or [], "place": row.get("place") or {"city": None, "zip": None}}
    return {name: has.get(name, value) for name, value in row.items()}


def plain(kind):
    """The type without the words that readers choose freely: large, views, names of list items, time zones' names."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(kind.field(n).name, plain(kind.field(n).type)) for n in range(kind.num_fields)])
    return kind


@pytest.mark.timeout(SPARK_TIMEOUT_SECONDS + 60)
@pytest.mark.parametrize("reader", READERS)
def test_a_foreign_reader_sees_what_the_server_sees(reader, written, tmp_path):
    for version, found in read(reader, written, tmp_path):
        found, told = rows_alike(found, written.told(version))
        if reader == "ClickHouse":
            told = [as_clickhouse_has_it(row) for row in told]
        assert told, f"version {version} has no rows"
        assert found == told, f"version {version}"


def test_the_rows_are_those_that_must_be_left(written):
    assert written.told(written.versions[0]).num_rows == ROWS_LEFT[written.name]


def test_rows_are_marked_and_not_rewritten(written):
    vectors = marked(written.folder)
    if written.name == "copied":
        assert vectors == []
        return
    assert vectors and min(vectors) > 0, f"deletion vectors in the log mark {vectors} rows"
    actions = [action for its in commits(written.folder).values() for action in its]
    newest = [action["protocol"] for action in actions if "protocol" in action][-1]
    assert "deletionVectors" in newest["readerFeatures"] and "deletionVectors" in newest["writerFeatures"]
