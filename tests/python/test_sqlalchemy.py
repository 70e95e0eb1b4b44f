"""SQLAlchemy over Flight SQL, by the dialect of the package flightsql-dbapi.

It writes values into the SQL. Its option to bind them does not work here: it keeps the handle that a statement had when
it was prepared, and a server without state gives a new one for the values (DoPutPreparedStatementResult).
"""

import flightsql.sqlalchemy  # noqa: F401 (it registers the dialect)
import pytest
from sqlalchemy import MetaData, Table, and_, create_engine, func, inspect, select, text

from lab import logs, readings
from mallard import wait_for

CLIENT = "SQLAlchemy"
ROWS = 20


@pytest.fixture(scope="module", autouse=True)
def filled(lab):
    lab.ingest("readings", readings(*({"id": n, "sensor": f"s{n % 3}", "value": n / 2} for n in range(ROWS))))
    lab.ingest("logs", logs("a", "b"))


@pytest.fixture(scope="module")
def engine(lab):
    engine = create_engine(f"datafusion+flightsql://{lab.address}/?insecure=true&feature-sqlalchemy-primary-keys=on")
    yield engine
    engine.dispose()


@pytest.fixture
def tables(engine):
    return {name: Table(name, MetaData(), schema="silver", autoload_with=engine) for name in ("readings", "logs")}


@pytest.mark.feature("connect, handshake", "queries", "server info (SqlInfo)")
def test_a_statement_in_sql_runs(engine):
    sql = "SELECT sensor, count(*) AS n FROM silver.readings GROUP BY sensor ORDER BY sensor"
    with engine.connect() as connection:
        rows = connection.execute(text(sql)).fetchall()
    assert [tuple(row) for row in rows] == [("s0", 7), ("s1", 7), ("s2", 6)]


@pytest.mark.feature("catalogs, schemas, tables, table types")
def test_schemas_and_tables_are_found(engine):
    inspector = inspect(engine)
    assert {"gold", "silver", "system"} <= set(inspector.get_schema_names())
    assert set(inspector.get_table_names("silver")) == {"readings", "logs", "notes"}
    assert inspector.has_table("totals", "gold")
    assert not inspector.has_table("nowhere", "gold")


@pytest.mark.feature("columns, types and remarks", "primary and foreign keys")
def test_a_table_is_reflected_with_its_types_and_key(tables):
    columns = {column.name: (str(column.type), column.nullable) for column in tables["readings"].columns}
    assert columns == {
        "id": ("BIGINT", False),
        "seq": ("BIGINT", True),
        "sensor": ("TEXT", True),
        "value": ("FLOAT", True),
        "at": ("TIMESTAMP", True),
    }
    assert [column.name for column in tables["readings"].primary_key] == ["id"]
    assert [column.name for column in tables["logs"].primary_key] == []


@pytest.mark.feature("queries")
def test_an_expression_runs(engine, tables):
    readings, logs = tables["readings"], tables["logs"]
    query = (
        select(readings.c.sensor, func.sum(readings.c.value).label("total"))
        .join(logs, logs.c.line == readings.c.id % 2 + 1)
        .where(and_(readings.c.id >= 3, readings.c.sensor.in_(["s0", "s1"]), logs.c.text == "a"))
        .group_by(readings.c.sensor)
        .order_by(readings.c.sensor)
        .limit(5)
    )
    with engine.connect() as connection:
        rows = [tuple(row) for row in connection.execute(query)]
    assert rows == [("s0", 3 + 6 + 9), ("s1", 2 + 5 + 8)]


@pytest.mark.feature("updates (INSERT, UPDATE, DELETE)")
def test_rows_are_inserted_and_changed(lab, engine, tables):
    readings = tables["readings"]
    with engine.begin() as connection:
        connection.execute(readings.insert().values(id=100, seq=1, sensor="new", value=1.5))
    stored = "SELECT seq, value FROM silver.readings WHERE id = 100"
    wait_for(lambda: lab.rows(stored) == [{"seq": 1, "value": 1.5}], "the insert")
    with engine.begin() as connection:
        connection.execute(readings.update().where(readings.c.id == 100).values(value=2.5))
    wait_for(lambda: lab.rows(stored) == [{"seq": 2, "value": 2.5}], "the update")
    with engine.begin() as connection:
        connection.execute(readings.delete().where(readings.c.id == 100))
    wait_for(lambda: lab.rows(stored) == [], "the delete")


@pytest.mark.feature("errors with their codes")
def test_an_error_names_what_is_wrong(engine):
    with engine.connect() as connection:
        with pytest.raises(Exception, match="valeu"):
            connection.execute(text("SELECT valeu FROM silver.readings"))
        assert connection.execute(text("SELECT 1")).scalar() == 1
