"""An ingest that cannot be used is refused with a message that names what is wrong and the cure; nothing is stored."""

import pyarrow as pa
import pytest

from errors import ALREADY_EXISTS, INVALID, NOT_FOUND, NOT_IMPLEMENTED, UNAUTHORIZED, refused
from lab import logs, readings

CLIENT = "ADBC, Python"


@pytest.fixture(autouse=True)
def nothing_is_stored_and_nothing_lost(lab):
    """A row that is there before a refused ingest is there after it, alone."""
    if not lab.rows("SELECT text FROM silver.logs"):
        lab.ingest("logs", logs("I was here first"))
    yield
    # What was merged before this has passed the table's queue.
    lab.ingest("readings", readings({"id": 1, "value": 1.0}))
    assert lab.rows("SELECT text FROM silver.logs") == [{"text": "I was here first"}]
    assert lab.rows("SELECT id FROM silver.readings") == [{"id": 1}]


@pytest.mark.feature("bulk ingest: append", "errors with their codes")
def test_an_unknown_table_is_refused_with_the_known_ones(lab):
    with refused("readingz", "readings", status=NOT_FOUND):
        lab.send("readingz", readings({"id": 2}))


@pytest.mark.feature("bulk ingest: append", "errors with their codes")
def test_a_missing_key_column_is_refused(lab):
    with refused("readings", "id"):
        lab.send("readings", readings({"id": 2}).drop_columns(["id"]))


@pytest.mark.feature("bulk ingest: append", "errors with their codes")
def test_a_null_key_is_refused(lab):
    keyless = readings({"id": 2}, {"id": 3}).drop_columns(["id"]).append_column("id", pa.array([2, None], pa.int64()))
    with refused("readings", "id"):
        lab.send("readings", keyless)


@pytest.mark.feature("bulk ingest: append", "errors with their codes")
@pytest.mark.parametrize(
    "values",
    [pa.array(["warm"]), pa.array([True]), pa.array([[1.0]]), pa.array([{"celsius": 1.0}])],
    ids=["varchar", "boolean", "list", "struct"],
)
def test_a_column_of_the_wrong_type_is_refused(lab, values):
    sent = readings({"id": 2}).drop_columns(["value"]).append_column("value", values)
    with refused("readings", "value", "double"):
        lab.send("readings", sent)


@pytest.mark.feature("bulk ingest: append", "errors with their codes")
def test_a_key_of_the_wrong_type_is_refused(lab):
    sent = readings({"id": 2}).drop_columns(["id"]).append_column("id", pa.array(["two"]))
    with refused("readings", "id", "bigint"):
        lab.send("readings", sent)


@pytest.mark.feature("bulk ingest: append", "errors with their codes")
def test_a_table_of_another_schema_is_refused(lab):
    with refused("readings", "id"):
        lab.send("readings", pa.table({"colour": ["red"], "size": [1]}))


@pytest.mark.feature("bulk ingest: append", "errors with their codes")
def test_two_columns_of_one_name_are_refused(lab):
    twice = readings({"id": 2, "value": 1.0}).append_column("VALUE", pa.array([2.0]))
    with refused("readings", "VALUE"):
        lab.send("readings", twice)


@pytest.mark.feature("bulk ingest: create, create_append", "errors with their codes")
def test_a_table_that_is_there_is_not_created(lab):
    with refused("readings", "append", status=ALREADY_EXISTS):
        lab.send("readings", readings({"id": 2}), mode="create")


@pytest.mark.feature("bulk ingest: replace is refused", "errors with their codes")
def test_a_table_is_not_replaced(lab):
    with refused("readings", "append", status=NOT_IMPLEMENTED):
        lab.send("readings", readings({"id": 2}), mode="replace")


@pytest.mark.feature("bulk ingest: create, create_append", "errors with their codes")
def test_a_table_is_not_made_unless_the_definition_allows_it(lab):
    with refused("letters", "allow_create", status=UNAUTHORIZED):
        lab.send("letters", readings({"id": 2}), mode="create_append")


@pytest.mark.feature("bulk ingest: append", "errors with their codes")
@pytest.mark.parametrize("schema", ["gold", "system", "nowhere"])
def test_a_schema_other_than_silver_is_refused(lab, schema):
    with refused(schema, "silver", status=(INVALID, NOT_FOUND)):
        lab.send("readings", readings({"id": 2}), db_schema_name=schema)


@pytest.mark.feature("bulk ingest: append", "errors with their codes")
def test_another_catalog_is_refused(lab):
    with refused("elsewhere", "lab", status=(INVALID, NOT_FOUND)):
        lab.send("readings", readings({"id": 2}), catalog_name="elsewhere")


@pytest.mark.feature("bulk ingest: append", "errors with their codes")
def test_a_model_is_no_ingest_target(lab):
    with refused("totals", status=NOT_FOUND):
        lab.send("totals", pa.table({"sensor": ["a"]}))


@pytest.mark.feature("bulk ingest: append", "errors with their codes")
def test_a_temporary_table_is_refused(lab):
    with refused("readings", status=NOT_IMPLEMENTED, cure=False):
        lab.send("readings", readings({"id": 2}), temporary=True)
