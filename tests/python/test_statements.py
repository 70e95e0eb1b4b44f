"""INSERT, UPDATE and DELETE through the ADBC driver: they become ingested rows, or say what to do instead."""

from contextlib import closing
from datetime import datetime, timezone

import pyarrow as pa
import pytest

from errors import INVALID, NOT_FOUND, NOT_IMPLEMENTED, refused
from mallard import INGEST_ID_HEADER, Server, wait_for

CLIENT = "ADBC, Python"
DEFINITION = """\
name = "shop"

[tables.stock]
primary_key = ["shop", "item"]
sequence_by = "changed_at"
delete_when = "is_gone"
drop_columns = ["is_gone"]
columns = [
  { name = "shop", type = "varchar" },
  { name = "item", type = "integer" },
  { name = "pieces", type = "bigint" },
  { name = "note", type = "varchar" },
  { name = "changed_at", type = "timestamp" },
]

[tables.orders]
primary_key = ["id"]
sequence_by = "seq"
delete_when = "op = 'delete'"
drop_columns = ["op"]
columns = [
  { name = "id", type = "bigint" },
  { name = "seq", type = "bigint" },
  { name = "amount", type = "decimal(12,2)" },
  { name = "item", type = "varchar", nullable = false },
]
[tables.orders.expect]
not_negative = { check = "amount >= 0", on_fail = "quarantine" }

[tables.words]
primary_key = ["word"]
sequence_by = "edition"
columns = [
  { name = "word", type = "varchar" },
  { name = "edition", type = "varchar" },
  { name = "meaning", type = "varchar" },
]

[tables.visits]
primary_key = ["id"]
columns = [{ name = "id", type = "bigint" }]

[tables.log]
columns = [
  { name = "line", type = "bigint" },
  { name = "text", type = "varchar" },
]

[tables.shaped]
transform = "shaped.sql"
columns = [{ name = "line", type = "bigint" }]

[tables.unseen]

[models.lines]
sql = "lines.sql"
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    (folder / "lakehouse.toml").write_text(DEFINITION)
    (folder / "shaped.sql").write_text("SELECT CAST(text AS BIGINT) AS line, _row FROM incoming")
    (folder / "lines.sql").write_text("SELECT count(*) AS lines FROM silver.log")
    with Server(folder, folder / "data") as server:
        yield server


@pytest.fixture
def connection(shop):
    with closing(shop.connect()) as connection:
        yield connection


@pytest.fixture
def cursor(connection):
    with connection.cursor() as cursor:
        yield cursor


def changed(cursor, sql, rows=None):
    """Runs a statement as an update, once for each row of values; how many rows it sent."""
    cursor.executemany(sql, rows)
    return cursor.rowcount


def fetched(cursor, sql, values=None):
    """Runs a statement as a query."""
    cursor.execute(sql, values)
    return cursor.fetchall()


def becomes(shop, sql, rows):
    """Waits until a query gives these rows: what was sent is merged a moment later."""
    wait_for(lambda: [tuple(row.values()) for row in shop.rows(sql)] == rows, f"{rows} as the result of {sql}")


def order(own, number):
    return f"SELECT seq, amount, item FROM silver.orders WHERE id = {own.id(number)}"


def stock(own):
    return f"SELECT item, pieces, note FROM silver.stock WHERE shop = '{own.sensor}' ORDER BY item"


def stocked(shop, cursor, own, *rows):
    """Inserts rows of item and pieces, and waits for them."""
    sql = f"INSERT INTO silver.stock (shop, item, pieces, changed_at) VALUES ('{own.sensor}', ?, ?, now())"
    assert changed(cursor, sql, list(rows)) == len(rows)
    becomes(shop, stock(own), [(item, pieces, None) for item, pieces in rows])


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)")
def test_inserted_values_are_merged_as_ingested_ones_are(shop, cursor, own):
    values = f"({own.id(1)}, 2, 'pen', 1.5), ({own.id(2)}, 1, 'ink', NULL), ({own.id(1)}, 1, 'older', 1)"
    assert changed(cursor, f"INSERT INTO silver.orders (id, seq, item, amount) VALUES {values}") == 3
    becomes(shop, order(own, 1), [(2, pa.scalar("1.50").cast(pa.decimal128(12, 2)).as_py(), "pen")])
    becomes(shop, order(own, 2), [(1, None, "ink")])


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)")
@pytest.mark.parametrize("table", ["log", "silver.log", "shop.silver.log", '"silver"."log"'])
def test_a_table_is_named_with_schema_and_catalog_or_without(shop, cursor, own, table):
    assert changed(cursor, f"INSERT INTO {table} VALUES ({own.base}, 'x')") == 1
    becomes(shop, f"SELECT text FROM silver.log WHERE line = {own.base}", [("x",)])


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)")
def test_an_insert_that_is_executed_gives_its_count_and_runs_once(shop, cursor, own):
    cursor.execute(f"INSERT INTO silver.log SELECT {own.base} + value, 'series' FROM generate_series(1, 10)")
    assert (cursor.rowcount, cursor.fetchall()) == (10, [])
    becomes(shop, f"SELECT count(*) FROM silver.log WHERE line > {own.base} AND text = 'series'", [(10,)])
    # A table's ingests are merged in order: once this is in, a second run would be.
    changed(cursor, f"INSERT INTO silver.log VALUES ({own.base}, 'last')")
    becomes(shop, f"SELECT count(*) FROM silver.log WHERE line = {own.base}", [(1,)])
    assert shop.rows(f"SELECT count(*) AS n FROM silver.log WHERE text = 'series' AND line > {own.base}") == [{"n": 10}]


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)", "prepared statements")
def test_a_prepared_insert_runs_each_time(shop, cursor, own):
    sql = "INSERT INTO silver.log VALUES (?, 'prepared')"
    for number in (1, 2):
        assert changed(cursor, sql, [(own.id(number),)]) == 1
    cursor.execute(sql, (own.id(3),))
    assert cursor.rowcount == 1
    becomes(shop, f"SELECT count(*) FROM silver.log WHERE text = 'prepared' AND line > {own.base}", [(3,)])


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)", "bound parameters")
def test_any_number_of_bound_rows_is_one_insert(shop, cursor):
    rows = pa.table({"line": range(-5000, 0), "text": [f"t{n}" for n in range(5000)]})
    assert changed(cursor, "INSERT INTO silver.log (text, line) VALUES (upper($2), $1)", rows) == 5000
    counted = "SELECT count(*), count(DISTINCT text), min(text) FROM silver.log WHERE line < 0"
    becomes(shop, counted, [(5000, 5000, "T0")])
    ingests = "SELECT rows FROM system.ingests WHERE table_name = 'log' AND rows = 5000"
    assert shop.rows(ingests) == [{"rows": 5000}]


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)", "bound parameters", "NULLs")
def test_bound_nulls_and_left_out_columns_are_null(shop, cursor, own):
    rows = [(own.id(1), None), (own.id(2), "x")]
    assert changed(cursor, "INSERT INTO silver.log (line, text) VALUES (?, ?)", rows) == 2
    assert changed(cursor, "INSERT INTO silver.log (line) VALUES (?)", [(own.id(3),)]) == 1
    found = f"SELECT text FROM silver.log WHERE line / 1000 = {own.base // 1000} ORDER BY line"
    becomes(shop, found, [(None,), ("x",), (None,)])


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)")
def test_an_insert_reads_other_tables(shop, cursor, own):
    changed(cursor, f"INSERT INTO silver.log VALUES ({own.id(1)}, 'source'), ({own.id(2)}, 'source')")
    becomes(shop, f"SELECT count(*) FROM silver.log WHERE line > {own.base} AND text = 'source'", [(2,)])
    source = f"SELECT line, 1, text FROM silver.log WHERE line > {own.base} AND text = ?"
    assert changed(cursor, f"INSERT INTO orders (id, seq, item) {source}", [("source",)]) == 2
    becomes(shop, order(own, 2), [(1, None, "source")])


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)")
def test_inserted_rows_obey_the_tables_rules(shop, cursor, own):
    changed(cursor, f"INSERT INTO silver.orders (id, seq, item, amount) VALUES ({own.id(1)}, 1, 'debt', -1)")
    quarantined = f"SELECT rule FROM system.quarantine WHERE table_name = 'orders' AND row_json LIKE '%{own.id(1)}%'"
    becomes(shop, quarantined, [("not_negative",)])
    assert shop.rows(order(own, 1)) == []


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)")
def test_an_insert_under_an_ingest_id_is_counted_once(shop, own):
    key = f"insert-{own.base}"
    with closing(shop.connect({INGEST_ID_HEADER: key})) as connection, connection.cursor() as cursor:
        for _ in range(2):
            assert changed(cursor, f"INSERT INTO silver.log VALUES ({own.base}, 'once')") == 1
    shop.wait_merged(key)
    shop.ingest("log", pa.table({"line": [own.base], "text": ["behind it"]}))
    assert shop.rows(f"SELECT text FROM silver.log WHERE line = {own.base} AND text = 'once'") == [{"text": "once"}]


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)")
def test_an_update_by_key_moves_the_sequence_on(shop, cursor, own):
    values = f"({own.id(1)}, 5, 'pen'), ({own.id(2)}, 5, 'ink')"
    changed(cursor, f"INSERT INTO silver.orders (id, seq, item) VALUES {values}")
    becomes(shop, order(own, 1), [(5, None, "pen")])
    assert changed(cursor, f"UPDATE silver.orders SET item = 'pencil' WHERE id = {own.id(1)}") == 1
    becomes(shop, order(own, 1), [(6, None, "pencil")])
    assert shop.rows(order(own, 2)) == [{"seq": 5, "amount": None, "item": "ink"}]
    assert changed(cursor, f"UPDATE silver.orders SET item = item || '!', seq = 9 WHERE id = {own.id(1)}") == 1
    becomes(shop, order(own, 1), [(9, None, "pencil!")])


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)", "bound parameters")
def test_an_update_of_a_composite_key_takes_values_for_each_row(shop, cursor, own):
    stocked(shop, cursor, own, (1, 10), (2, 20), (3, 30))
    sql = "UPDATE silver.stock SET pieces = pieces - ?, note = ? WHERE shop = ? AND item = ?"
    assert changed(cursor, sql, [(1, "sold", own.sensor, 1), (5, None, own.sensor, 2)]) == 2
    becomes(shop, stock(own), [(1, 9, "sold"), (2, 15, None), (3, 30, None)])
    sql = f"UPDATE stock SET pieces = 0 WHERE (item IN (2, 3) AND pieces > 15) AND shop = '{own.sensor}'"
    assert changed(cursor, sql) == 1
    becomes(shop, stock(own), [(1, 9, "sold"), (2, 15, None), (3, 0, None)])


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)")
def test_a_delete_by_key_takes_the_row_away(shop, cursor, own):
    stocked(shop, cursor, own, (1, 10), (2, 20), (3, 30))
    assert changed(cursor, f"DELETE FROM silver.stock WHERE shop = '{own.sensor}' AND item = 2") == 1
    becomes(shop, stock(own), [(1, 10, None), (3, 30, None)])
    sql = "DELETE FROM silver.stock WHERE item = ? AND shop = ?"
    assert changed(cursor, sql, [(1, own.sensor), (3, own.sensor)]) == 2
    becomes(shop, stock(own), [])


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)")
def test_a_change_of_a_row_that_is_not_there_counts_none(cursor, own):
    assert changed(cursor, f"UPDATE silver.orders SET item = 'x' WHERE id = {own.id(1)}") == 0
    assert changed(cursor, f"DELETE FROM silver.orders WHERE id = {own.id(1)}") == 0


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)")
def test_a_row_that_is_newer_than_the_change_stays(shop, cursor, own):
    stocked(shop, cursor, own, (1, 10))
    later = datetime(2999, 1, 1, tzinfo=timezone.utc)
    sql = "INSERT INTO silver.stock (shop, item, pieces, changed_at) VALUES (?, 1, 99, ?)"
    assert changed(cursor, sql, [(own.sensor, later)]) == 1
    becomes(shop, stock(own), [(1, 99, None)])
    assert changed(cursor, sql.replace("99", "1"), [(own.sensor, datetime(2000, 1, 1, tzinfo=timezone.utc))]) == 1
    shop.ingest("log", pa.table({"line": [own.base], "text": ["x"]}))
    merged = "SELECT count(*) FROM system.ingests WHERE table_name = 'stock' AND merged_at IS NULL"
    becomes(shop, merged, [(0,)])
    assert shop.rows(stock(own)) == [{"item": 1, "pieces": 99, "note": None}]


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)", "prepared statements")
def test_preparing_a_change_and_asking_for_its_schema_does_not_run_it(shop, cursor, own):
    with refused("schema", status=NOT_IMPLEMENTED, cure=False):
        cursor.adbc_execute_schema(f"INSERT INTO silver.log VALUES ({own.base}, 'not yet')")
    assert cursor.adbc_prepare("INSERT INTO silver.log VALUES (?, ?)").types == [pa.int64(), pa.string()]
    shop.ingest("log", pa.table({"line": [own.base], "text": ["x"]}))
    assert shop.rows(f"SELECT text FROM silver.log WHERE line = {own.base}") == [{"text": "x"}]


# Each is refused with words that say what is wrong and what to do.
REFUSED = {
    "INSERT INTO gold.lines VALUES (1)": ("gold.lines", "models"),
    "INSERT INTO system.queries SELECT * FROM system.queries": ("system.queries", "silver"),
    "INSERT INTO elsewhere.silver.log VALUES (1, 'x')": ("elsewhere.silver.log", "silver"),
    "INSERT INTO silver.log (line, txt) VALUES (1, 'x')": ("txt", "text"),
    "INSERT INTO silver.log (line, colour) VALUES (1, 'x')": ("colour", "ingest"),
    "INSERT INTO silver.log DEFAULT VALUES": ("log", "VALUES"),
    "INSERT OVERWRITE INTO silver.log VALUES (1, 'x')": ("log", "OVERWRITE"),
    "INSERT INTO silver.orders VALUES (1, 1, 1, 'x') ON CONFLICT DO NOTHING": ("orders", "ON CONFLICT"),
    "INSERT INTO silver.shaped VALUES (1)": ("shaped", "transform", "ingest"),
    "UPDATE silver.log SET text = 'x' WHERE line = 1": ("log", "primary_key", "INSERT"),
    "UPDATE silver.visits SET id = 1 WHERE id = 1": ("visits", "sequence_by", "INSERT"),
    "UPDATE silver.orders SET item = 'x'": ("orders", "id", "WHERE"),
    "UPDATE silver.orders SET item = 'x' WHERE item = 'y'": ("orders", "id", "SELECT"),
    "UPDATE silver.orders SET item = 'x' WHERE id = 1 OR id = 2": ("orders", "id", "IN"),
    "UPDATE silver.orders SET item = 'x' WHERE id > 1": ("orders", "id", "IN"),
    "UPDATE silver.orders SET item = 'x' WHERE id = seq": ("orders", "id", "IN"),
    "UPDATE silver.orders SET item = 'x' WHERE id IN (SELECT line FROM silver.log)": ("orders", "id", "SELECT"),
    "UPDATE silver.stock SET pieces = 0 WHERE shop = 'a'": ("stock", "item", "WHERE"),
    "UPDATE silver.orders SET id = 2 WHERE id = 1": ("orders", "id", "DELETE"),
    "UPDATE silver.orders SET item = l.text FROM silver.log l WHERE id = 1": ("FROM", "INSERT"),
    "UPDATE silver.words SET word = 'b' WHERE word = 'a'": ("words", "word", "DELETE"),
    "DELETE FROM silver.log WHERE line = 1": ("log", "primary_key", "INSERT"),
    "DELETE FROM silver.orders": ("orders", "id", "WHERE"),
    "DELETE FROM silver.stock WHERE item = 1": ("stock", "shop", "WHERE"),
    "DELETE FROM silver.words WHERE word = 'a'": ("words", "delete_when", "ingest"),
    "DELETE FROM gold.lines WHERE lines = 1": ("gold.lines", "models"),
    "MERGE INTO silver.orders o USING silver.log l ON o.id = l.line WHEN MATCHED THEN DELETE": ("MERGE", "INSERT"),
    "TRUNCATE TABLE silver.log": ("TRUNCATE", "definition"),
    "WITH gone AS (DELETE FROM silver.log RETURNING line) SELECT * FROM gone": ("DELETE",),
}


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)", "errors with their codes")
@pytest.mark.parametrize("sql", REFUSED)
@pytest.mark.parametrize("way", [fetched, changed], ids=["query", "update"])
def test_a_change_that_is_refused_says_what_to_do(cursor, sql, way):
    with refused(*REFUSED[sql], status=INVALID, cure=False):
        way(cursor, sql)


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)", "errors with their codes")
def test_a_sequence_without_a_next_value_must_be_set(shop, cursor):
    changed(cursor, "INSERT INTO silver.words VALUES ('duck', 'first', 'a bird')")
    becomes(shop, "SELECT meaning FROM silver.words", [("a bird",)])
    update = "UPDATE silver.words SET meaning = 'to stoop' WHERE word = 'duck'"
    with refused("words", "edition", "SET"):
        changed(cursor, update)
    assert changed(cursor, update.replace("WHERE", ", edition = 'second' WHERE")) == 1
    becomes(shop, "SELECT meaning FROM silver.words", [("to stoop",)])


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)", "errors with their codes")
@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("INSERT INTO silver.lgo VALUES (1)", ("lgo", "log")),
        ("INSERT INTO silver.unseen VALUES (1)", ("unseen", "ingest")),
        ("UPDATE silver.order SET item = 'x' WHERE id = 1", ("order", "orders")),
    ],
)
def test_a_table_that_is_not_there_is_named(cursor, sql, words):
    with refused(*words, status=NOT_FOUND, cure=False):
        changed(cursor, sql)


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)", "errors with their codes")
def test_a_null_key_is_refused_and_nothing_is_kept(shop, cursor, own):
    with refused("orders", "id"):
        changed(cursor, "INSERT INTO silver.orders (id, seq, item) VALUES (?, 1, 'x')", [(own.id(1),), (None,)])
    shop.ingest("orders", pa.table({"id": [own.id(2)], "seq": [1], "item": ["x"]}))
    assert shop.rows(order(own, 1)) == []


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)", "errors with their codes")
def test_a_value_that_does_not_fit_its_column_is_refused(cursor):
    with refused("'x'", cure=False):
        changed(cursor, "INSERT INTO silver.log VALUES ('x', 'y')")
    with refused("line", "bigint", "varchar"):
        changed(cursor, "INSERT INTO silver.log VALUES (?, ?)", [("x", "y")])
    with refused("'x'", cure=False):
        changed(cursor, "INSERT INTO silver.log VALUES (?, ?)", [("1", "y"), ("x", "y")])


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)", "errors with their codes")
def test_a_query_that_is_run_as_an_update_is_refused(cursor):
    with refused("only reads", "query"):
        changed(cursor, "SELECT 1")


@pytest.mark.feature("transactions are refused")
def test_a_transaction_is_refused_when_it_is_asked_for(connection):
    with refused("transaction", status=NOT_IMPLEMENTED, cure=False):
        connection.adbc_connection.set_autocommit(False)
    with connection.cursor() as cursor:
        assert fetched(cursor, "SELECT 1") == [(1,)]


@pytest.mark.feature("transactions are refused", "errors with their codes")
@pytest.mark.parametrize("sql", ["BEGIN", "START TRANSACTION", "COMMIT", "ROLLBACK"])
def test_a_transaction_over_sql_is_refused(cursor, sql):
    with refused("transactions", "leave"):
        fetched(cursor, sql)
