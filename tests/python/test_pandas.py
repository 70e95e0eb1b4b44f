"""pandas over an ADBC connection: `read_sql`, `read_sql_table` and `to_sql`."""

from contextlib import closing

import pandas as pd
import pytest

from lab import NOON, logs, readings
from mallard import wait_for

CLIENT = "pandas"


@pytest.fixture
def connection(lab):
    with closing(lab.connect()) as connection:
        yield connection


@pytest.mark.feature("connect, handshake", "queries", "scalar types", "NULLs")
def test_a_query_becomes_a_data_frame(lab, own, connection):
    rows = {"id": own.id(1), "sensor": own.sensor, "value": 2.5}, {"id": own.id(2), "at": None}
    lab.ingest("readings", readings(*rows))
    sql = f"SELECT id, sensor, value, at FROM silver.readings WHERE {own.where()} ORDER BY id"
    frame = pd.read_sql(sql, connection, index_col="id")
    assert frame.index.tolist() == [own.id(1), own.id(2)]
    assert frame["sensor"].tolist()[0] == own.sensor
    assert frame["value"].isna().tolist() == [False, True]
    assert frame["at"].dtype == pd.DatetimeTZDtype("us", "UTC")
    assert frame["at"].iloc[0] == pd.Timestamp(NOON)
    arrow = pd.read_sql(sql, connection, dtype_backend="pyarrow")
    assert [str(kind) for kind in arrow.dtypes] == [
        "int64[pyarrow]",
        "string[pyarrow]",
        "double[pyarrow]",
        "timestamp[us, tz=UTC][pyarrow]",
    ]


@pytest.mark.feature("queries", "session options")
def test_a_table_becomes_a_data_frame(lab):
    lab.ingest("logs", logs("read as a table"))
    # pandas leaves its argument `schema` out of what it sends over ADBC.
    with closing(lab.connect({"mallard-schema": "silver"})) as connection:
        frame = pd.read_sql_table("logs", connection, columns=["text"])
    assert frame["text"].tolist().count("read as a table") == 1


@pytest.mark.feature("bulk ingest: append")
def test_a_data_frame_is_appended(lab, own, connection):
    frame = pd.DataFrame(
        {
            "id": [own.id(1), own.id(2)],
            "seq": [1, 1],
            "sensor": [own.sensor, None],
            "value": [0.5, None],
            "at": [pd.Timestamp(NOON), pd.NaT],
        }
    )
    assert frame.to_sql("readings", connection, schema="silver", if_exists="append", index=False) == 2
    sql = f"SELECT id, seq, sensor, value, at FROM silver.readings WHERE {own.where()} ORDER BY id"
    wait_for(lambda: len(lab.rows(sql)) == 2, "the merge of the frame")
    pd.testing.assert_frame_equal(pd.read_sql(sql, connection), frame, check_dtype=False)


@pytest.mark.feature("bulk ingest: replace is refused", "errors with their codes")
@pytest.mark.parametrize("if_exists", ["replace", "delete_rows"])
def test_rows_that_are_there_are_not_replaced(lab, connection, if_exists):
    lab.ingest("logs", logs("stays"))
    with pytest.raises(pd.errors.DatabaseError, match="refused"):
        pd.DataFrame({"line": [1]}).to_sql("logs", connection, schema="silver", if_exists=if_exists, index=False)
    assert {"text": "stays"} in lab.rows("SELECT text FROM silver.logs")


@pytest.mark.feature("errors with their codes")
def test_an_error_says_what_is_wrong(connection):
    with pytest.raises(pd.errors.DatabaseError, match="valeu"):
        pd.read_sql("SELECT valeu FROM silver.readings", connection)
    assert pd.read_sql("SELECT 1 AS one", connection)["one"].tolist() == [1]
