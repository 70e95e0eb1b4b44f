"""Values bound to prepared statements: all types, NULLs, one row or many, and what does not fit."""

from contextlib import closing
from datetime import date, datetime, timezone
from decimal import Decimal

import adbc_driver_manager
import pyarrow as pa
import pytest

from errors import INVALID, refused
from mallard import Server

CLIENT = "ADBC, Python"
# What the driver makes of RESOURCE_EXHAUSTED.
EXHAUSTED = adbc_driver_manager.AdbcStatusCode.INTERNAL
UTC = pa.timestamp("us", tz="UTC")
NOON = datetime(2024, 2, 29, 12, 0, 0, 123456)
# Column by column: its type in the definition, its Arrow type, two values.
TYPES = {
    "flag": ("boolean", pa.bool_(), [True, False]),
    "tiny": ("tinyint", pa.int8(), [127, -128]),
    "small": ("smallint", pa.int16(), [32767, -32768]),
    "whole": ("integer", pa.int32(), [2**31 - 1, -(2**31)]),
    "big": ("bigint", pa.int64(), [2**63 - 1, -(2**63)]),
    "single": ("float", pa.float32(), [1.5, -0.25]),
    "wide": ("double", pa.float64(), [0.1, -1e300]),
    "price": ("decimal(12,2)", pa.decimal128(12, 2), [Decimal("9999999999.99"), Decimal("-0.01")]),
    "name": ("varchar", pa.string(), ["naïve 🦆", ""]),
    "day": ("date", pa.date32(), [date(2024, 2, 29), date(1969, 12, 31)]),
    "at": ("timestamp", UTC, [NOON.replace(tzinfo=timezone.utc), datetime(1969, 12, 31, tzinfo=timezone.utc)]),
    "wall": ("timestamp_ntz", pa.timestamp("us"), [NOON, datetime(1969, 12, 31, 23, 59, 59)]),
    "raw": ("blob", pa.binary(), [b"\x00\xff", b""]),
}
SCHEMA = pa.schema([("id", pa.int64()), *((name, arrow) for name, (_, arrow, _) in TYPES.items())])
ROWS = pa.table(
    {"id": [1, 2, 3], **{name: pa.array([*values, None], arrow) for name, (_, arrow, values) in TYPES.items()}},
    schema=SCHEMA,
)
COLUMNS = "".join(f'  {{ name = "{name}", type = "{sql}" }},\n' for name, (sql, _, _) in TYPES.items())
DEFINITION = f"""\
name = "lab"

[tables.everything]
primary_key = ["id"]
columns = [
  {{ name = "id", type = "bigint" }},
{COLUMNS}]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parameters")
    (folder / "lakehouse.toml").write_text(DEFINITION)
    with Server(folder, folder / "data") as server:
        server.ingest("everything", ROWS)
        yield server


@pytest.fixture
def cursor(server):
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        yield cursor


def fetched(cursor, sql, parameters=None):
    cursor.execute(sql, parameters)
    return cursor.fetchall()


@pytest.mark.feature("bound parameters", "scalar types")
@pytest.mark.parametrize("column", TYPES)
def test_a_value_of_each_type_finds_its_row(cursor, column):
    _, arrow, values = TYPES[column]
    for row, value in enumerate(values, 1):
        bound = pa.record_batch([pa.array([value], arrow)], ["value"])
        assert fetched(cursor, f"SELECT id FROM silver.everything WHERE {column} = ?", bound) == [(row,)]


@pytest.mark.feature("bound parameters", "prepared statements")
@pytest.mark.parametrize("column", TYPES)
def test_a_parameter_has_the_type_that_it_is_compared_with(cursor, column):
    schema = cursor.adbc_prepare(f"SELECT id FROM silver.everything WHERE {column} = ?")
    # Times are told in milliseconds, which the JDBC driver wants; finer ones are taken all the same.
    told = {"at": pa.timestamp("ms", tz="UTC"), "wall": pa.timestamp("ms")}
    assert schema.types == [told.get(column, TYPES[column][1])]


@pytest.mark.feature("bound parameters")
def test_python_values_are_bound_by_their_place(cursor):
    by_mark = "SELECT id FROM silver.everything WHERE whole > ? AND name = ? AND day = ? AND price = ?"
    values = (0, "naïve 🦆", date(2024, 2, 29), Decimal("9999999999.99"))
    assert fetched(cursor, by_mark, values) == [(1,)]
    assert fetched(cursor, "SELECT $2, $1, upper($2)", ("1", "a")) == [("a", "1", "A")]


@pytest.mark.feature("bound parameters")
def test_a_parameter_may_stand_wherever_a_value_may(cursor):
    table = "silver.everything"
    assert fetched(cursor, f"SELECT id + ? FROM {table} WHERE id IN (?, ?) ORDER BY 1", (10, 1, 3)) == [(11,), (13,)]
    assert fetched(cursor, f"SELECT id FROM {table} ORDER BY id LIMIT ? OFFSET ?", (1, 1)) == [(2,)]
    assert fetched(cursor, f"SELECT count(*) FROM {table} GROUP BY id > ? HAVING count(*) > ?", (1, 1)) == [(2,)]
    chosen = f"SELECT CASE WHEN id = ? THEN ? ELSE name END FROM {table} WHERE id = 1"
    assert fetched(cursor, chosen, (1, "one")) == [("one",)]


@pytest.mark.feature("bound parameters")
def test_what_looks_like_a_parameter_in_a_text_is_none(cursor):
    assert fetched(cursor, "SELECT '?', '$1', ? -- ?\n", ("x",)) == [("?", "$1", "x")]


@pytest.mark.feature("bound parameters", "NULLs")
def test_a_null_is_bound_as_one(cursor):
    assert fetched(cursor, "SELECT id FROM silver.everything WHERE name = ?", (None,)) == []
    assert fetched(cursor, "SELECT id FROM silver.everything WHERE name IS NOT DISTINCT FROM ?", (None,)) == [(3,)]
    assert fetched(cursor, "SELECT coalesce(CAST(? AS INTEGER), 7)", (None,)) == [(7,)]


@pytest.mark.feature("bound parameters")
def test_values_are_no_sql(cursor):
    assert fetched(cursor, "SELECT id FROM silver.everything WHERE name = ?", ("' OR 1 = 1 --",)) == []


@pytest.mark.feature("bound parameters")
def test_a_query_runs_once_for_each_row_of_values(cursor):
    bound = pa.record_batch([pa.array([3, 1, 9, 1], pa.int64())], ["id"])
    assert fetched(cursor, "SELECT id, flag FROM silver.everything WHERE id = ?", bound) == [
        (3, None),
        (1, True),
        (1, True),
    ]


@pytest.mark.feature("bound parameters", "NULLs")
@pytest.mark.parametrize("values", [[None, 1, 2], [1, None, 2]], ids=["first", "later"])
def test_any_row_of_values_may_have_nulls(cursor, values):
    bound = pa.record_batch([pa.array(values, pa.int32())], ["value"])
    assert fetched(cursor, "SELECT CAST(? AS INTEGER)", bound) == [(value,) for value in values]


@pytest.mark.feature("bound parameters")
def test_batches_of_values_are_bound_one_after_the_other(cursor):
    bound = pa.table({"id": pa.chunked_array([[1], [], [2, 3]], pa.int64())})
    assert fetched(cursor, "SELECT id FROM silver.everything WHERE id = ?", bound) == [(1,), (2,), (3,)]


@pytest.mark.feature("bound parameters", "prepared statements")
def test_a_prepared_query_is_run_with_one_value_after_another(cursor):
    sql = "SELECT name FROM silver.everything WHERE id = ?"
    cursor.adbc_prepare(sql)
    for number, name in ((1, "naïve 🦆"), (2, ""), (3, None), (1, "naïve 🦆")):
        assert fetched(cursor, sql, (number,)) == [(name,)]


# Values that their column's type can't hold, and whose rows they would be if they were cut to it.
BETWEEN = {
    "id": pa.array([1.5]),
    "whole": pa.array([2**31 - 1 + 2**32], pa.int64()),
    "price": pa.array([Decimal("-0.009")], pa.decimal128(12, 3)),
    "day": pa.array([NOON], pa.timestamp("us")),
    "at": pa.array([NOON.replace(microsecond=0)], UTC),
    "single": pa.array([1.5 + 1e-9]),
}


@pytest.mark.feature("bound parameters")
@pytest.mark.parametrize("column", BETWEEN)
def test_a_value_between_those_of_a_column_equals_none_of_them(cursor, column):
    bound = pa.record_batch([BETWEEN[column]], ["value"])
    assert fetched(cursor, f"SELECT id FROM silver.everything WHERE {column} = ?", bound) == []


@pytest.mark.feature("bound parameters")
def test_a_value_of_another_type_is_compared_by_its_worth(cursor):
    bound = pa.record_batch([pa.array([1.5])], ["id"])
    assert fetched(cursor, "SELECT id FROM silver.everything WHERE id < ? ORDER BY id", bound) == [(1,)]
    assert fetched(cursor, "SELECT id FROM silver.everything WHERE id = ?", ("2",)) == [(2,)]
    assert fetched(cursor, "SELECT id FROM silver.everything WHERE wide = ?", (Decimal("0.1"),)) == [(1,)]


@pytest.mark.feature("bound parameters")
def test_a_thousand_parameters_are_bound(cursor):
    marks = ", ".join("?" * 1000)
    sql = f"SELECT id FROM silver.everything WHERE id IN ({marks}) ORDER BY id"
    assert fetched(cursor, sql, tuple(range(2, 1002))) == [(2,), (3,)]


@pytest.mark.feature("bound parameters", "errors with their codes")
@pytest.mark.parametrize("values", [None, (1,), (1, 2, 3)], ids=["none", "too few", "too many"])
def test_another_number_of_values_is_refused(cursor, values):
    with refused("parameters", "has 2", f"{len(values or ())} were bound", "bind", cure=False):
        fetched(cursor, "SELECT ? + id FROM silver.everything WHERE id > ?", values)


@pytest.mark.feature("bound parameters", "errors with their codes")
def test_a_value_that_is_none_of_the_type_is_refused(cursor):
    with refused("two", status=INVALID, cure=False):
        fetched(cursor, "SELECT id FROM silver.everything WHERE id = ?", ("two",))


@pytest.mark.feature("bound parameters", "errors with their codes")
def test_marks_and_numbers_together_are_refused(cursor):
    with refused("question marks", "numbered"):
        fetched(cursor, "SELECT ?, $1", (1, 2))


@pytest.mark.feature("bound parameters", "errors with their codes")
def test_a_name_for_a_parameter_is_refused(cursor):
    with refused("$id", "number"):
        fetched(cursor, "SELECT id FROM silver.everything WHERE id = $id", (1,))


@pytest.mark.feature("bound parameters", "errors with their codes")
def test_more_rows_of_values_than_a_query_takes_are_refused(cursor):
    bound = pa.record_batch([pa.array(range(1001), pa.int64())], ["id"])
    with refused("1001", "1000", "ingest", status=EXHAUSTED):
        fetched(cursor, "SELECT id FROM silver.everything WHERE id = ?", bound)


@pytest.mark.feature("bound parameters", "errors with their codes")
def test_a_cursor_is_usable_after_a_refusal(cursor):
    sql = "SELECT id FROM silver.everything WHERE id = ?"
    with refused("parameters", "2 were bound", cure=False):
        fetched(cursor, sql, (1, 2))
    assert fetched(cursor, sql, (1,)) == [(1,)]
