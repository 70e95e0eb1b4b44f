"""Rows that go in by `adbc_ingest` come out of silver and gold as the definition's rules say."""

from contextlib import closing
from datetime import timedelta

import pyarrow as pa
import pytest

from lab import LOGS, NOON, logs, readings
from mallard import wait_for

CLIENT = "ADBC, Python"


def stored(lab, own, columns="id, seq, value"):
    return lab.rows(f"SELECT {columns} FROM silver.readings WHERE {own.where()} ORDER BY id")


def gold_total(lab, own):
    rows = lab.rows(f"SELECT readings, total FROM gold.totals WHERE sensor = '{own.sensor}'")
    return rows[0] if rows else None


@pytest.mark.feature("bulk ingest: append", "scalar types", "NULLs")
def test_an_appended_table_comes_back_with_its_values_and_types(lab, own):
    sent = readings(
        {"id": own.id(1), "sensor": own.sensor, "value": 1.5},
        {"id": own.id(2), "sensor": "naïve 🦆", "value": 0.1, "at": NOON + timedelta(microseconds=1)},
        {"id": own.id(3), "sensor": None, "value": None, "at": None},
    )
    lab.ingest("readings", sent)
    got = lab.table(f"SELECT id, seq, sensor, value, at FROM silver.readings WHERE {own.where()} ORDER BY id")
    want = sent.drop_columns(["op"])
    assert got.schema.types == want.schema.types
    assert got.to_pylist() == want.to_pylist()


@pytest.mark.feature("queries")
def test_a_data_frame_comes_back_too(lab, own):
    lab.ingest("readings", readings({"id": own.id(1), "sensor": own.sensor, "value": 2.5}))
    with closing(lab.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT sensor, value, at FROM silver.readings WHERE {own.where()}")
        frame = cursor.fetch_df()
    assert frame["sensor"].tolist() == [own.sensor]
    assert frame["value"].tolist() == [2.5]
    assert frame["at"].dt.to_pydatetime().tolist() == [NOON]


@pytest.mark.feature("bulk ingest: append")
def test_an_ingest_without_an_id_gets_one_from_the_server(lab):
    before = {row["ingest_id"] for row in lab.rows("SELECT ingest_id FROM system.ingests")}
    assert lab.send("logs", logs("whose id is this")) == 1
    rows = wait_for(
        lambda: [
            row
            for row in lab.rows("SELECT ingest_id, merged_at FROM system.ingests WHERE table_name = 'logs'")
            if row["ingest_id"] not in before and row["merged_at"]
        ],
        "the merge of the ingest",
    )
    assert len(rows) == 1
    assert rows[0]["ingest_id"]


@pytest.mark.feature("bulk ingest: append")
@pytest.mark.parametrize("schema", [None, "silver"])
def test_the_target_schema_is_silver_whether_named_or_not(lab, own, schema):
    sent = readings({"id": own.id(1), "sensor": own.sensor, "value": 1.0})
    lab.ingest("readings", sent, db_schema_name=schema)
    assert len(stored(lab, own)) == 1


@pytest.mark.feature("bulk ingest: append")
def test_the_catalog_may_be_named(lab, own):
    sent = readings({"id": own.id(1), "sensor": own.sensor, "value": 1.0})
    lab.ingest("readings", sent, catalog_name="lab", db_schema_name="silver")
    assert len(stored(lab, own)) == 1


@pytest.mark.feature("bulk ingest: append")
def test_a_reader_of_many_batches_is_one_ingest(lab, own):
    batches = [
        readings({"id": own.id(n), "sensor": own.sensor, "value": float(n)}).to_batches()[0] for n in range(100)
    ]
    table = pa.Table.from_batches(batches)
    assert lab.ingest("readings", table)["rows"] == 100
    assert [row["value"] for row in stored(lab, own)] == [float(n) for n in range(100)]


@pytest.mark.feature("bulk ingest: append")
def test_gold_models_follow_silver(lab, own):
    rows = [{"id": own.id(n), "sensor": own.sensor, "value": 10.0} for n in range(3)]
    lab.ingest("readings", readings(*rows))
    wait_for(lambda: gold_total(lab, own) == {"readings": 3, "total": 30.0}, "the refresh of totals")
    lab.ingest("readings", readings({"id": own.id(0), "seq": 2, "sensor": own.sensor, "value": 1e9}))
    wait_for(lambda: gold_total(lab, own) == {"readings": 3, "total": 1e9 + 20.0}, "the second refresh of totals")
    loudest = [{"sensor": own.sensor, "total": 1e9 + 20.0}]
    wait_for(lambda: lab.rows("SELECT sensor, total FROM loudest") == loudest, "the refresh of the model over totals")


def test_a_higher_sequence_replaces_the_row(lab, own):
    lab.ingest("readings", readings({"id": own.id(1), "seq": 1, "value": 1.0}))
    lab.ingest("readings", readings({"id": own.id(1), "seq": 2, "value": 2.0}))
    assert stored(lab, own) == [{"id": own.id(1), "seq": 2, "value": 2.0}]


def test_a_lower_sequence_that_comes_late_changes_nothing(lab, own):
    lab.ingest("readings", readings({"id": own.id(1), "seq": 5, "value": 5.0}))
    lab.ingest("readings", readings({"id": own.id(1), "seq": 4, "value": 4.0}))
    assert stored(lab, own) == [{"id": own.id(1), "seq": 5, "value": 5.0}]


def test_the_highest_sequence_wins_within_one_ingest(lab, own):
    rows = [{"id": own.id(1), "seq": seq, "value": float(seq)} for seq in (2, 9, 3)]
    lab.ingest("readings", readings(*rows))
    assert stored(lab, own) == [{"id": own.id(1), "seq": 9, "value": 9.0}]


def test_a_delete_removes_the_row_and_a_late_update_does_not_bring_it_back(lab, own):
    lab.ingest("readings", readings({"id": own.id(1), "seq": 1, "value": 1.0}, {"id": own.id(2), "value": 2.0}))
    lab.ingest("readings", readings({"id": own.id(1), "seq": 3, "op": "delete"}))
    assert [row["id"] for row in stored(lab, own)] == [own.id(2)]
    lab.ingest("readings", readings({"id": own.id(1), "seq": 2, "value": 2.0}))
    assert [row["id"] for row in stored(lab, own)] == [own.id(2)]
    lab.ingest("readings", readings({"id": own.id(1), "seq": 4, "value": 4.0}))
    assert stored(lab, own)[0] == {"id": own.id(1), "seq": 4, "value": 4.0}


def test_the_dropped_column_is_not_stored(lab, own):
    lab.ingest("readings", readings({"id": own.id(1), "op": "update", "value": 1.0}))
    assert "op" not in lab.table("SELECT * FROM silver.readings LIMIT 0").column_names


@pytest.mark.feature("bulk ingest: append")
def test_a_new_column_is_added_and_older_rows_have_null_in_it(lab, own):
    lab.ingest("readings", readings({"id": own.id(1), "value": 1.0}))
    wider = readings({"id": own.id(2), "value": 2.0}).append_column("unit", pa.array(["°C"]))
    lab.ingest("readings", wider)
    lab.ingest("readings", readings({"id": own.id(3), "value": 3.0}))
    assert [row["unit"] for row in stored(lab, own, "id, unit")] == [None, "°C", None]


@pytest.mark.feature("bulk ingest: append", "nested types")
def test_a_table_without_declared_columns_takes_those_of_its_first_ingest(lab):
    first = pa.table({"topic": ["duck"], "stars": pa.array([5], pa.int32()), "tags": [["a", "b"]]})
    lab.ingest("notes", first)
    got = lab.table("SELECT topic, stars, tags FROM silver.notes")
    assert got.to_pylist() == first.to_pylist()
    assert got.schema.field("stars").type == pa.int32()


def test_a_row_that_fails_its_expectation_goes_to_quarantine_with_the_reason(lab, own):
    good = {"id": own.id(1), "sensor": own.sensor, "value": 1.0}
    bad = {"id": own.id(2), "sensor": own.sensor, "value": -7.5}
    ingest = lab.ingest("readings", readings(good, bad))
    assert [row["id"] for row in stored(lab, own)] == [own.id(1)]
    quarantined = lab.rows(f"SELECT * FROM system.quarantine WHERE ingest_id = '{ingest['ingest_id']}'")
    assert len(quarantined) == 1
    assert quarantined[0]["table_name"] == "readings"
    assert quarantined[0]["rule"] == "not_negative"
    assert str(own.id(2)) in quarantined[0]["row_json"]
    assert quarantined[0]["reason"]


@pytest.mark.feature("bulk ingest: append")
def test_the_same_ingest_id_twice_adds_the_rows_once(lab):
    sent = logs("said once", "and this too")
    key = "the-producer's-own-key"
    assert lab.send("logs", sent, ingest_id=key) == 2
    assert lab.send("logs", sent, ingest_id=key) == 2
    # A table's ingests are merged in order, so once a later one is in, the repeated one was looked at.
    lab.ingest("logs", logs("the last word"))
    rows = lab.rows("SELECT text FROM silver.logs WHERE text IN ('said once', 'and this too') ORDER BY text")
    assert [row["text"] for row in rows] == ["and this too", "said once"]


def test_equal_rows_of_two_ingests_are_both_kept_in_an_append_only_table(lab):
    lab.ingest("logs", logs("an echo"))
    lab.ingest("logs", logs("an echo"))
    assert lab.rows("SELECT count(*) AS n FROM silver.logs WHERE text = 'an echo'") == [{"n": 2}]


@pytest.mark.feature("bulk ingest: append")
def test_columns_may_come_in_another_order_and_with_other_encodings(lab, own):
    sent = readings({"id": own.id(1), "sensor": own.sensor, "value": 3.5})
    sensor = sent.column("sensor").combine_chunks().dictionary_encode()
    shuffled = sent.select(["op", "value", "at", "seq", "id"]).append_column("sensor", sensor)
    lab.ingest("readings", shuffled)
    assert stored(lab, own, "id, sensor, value") == [{"id": own.id(1), "sensor": own.sensor, "value": 3.5}]


@pytest.mark.feature("bulk ingest: append")
def test_an_ingest_of_no_rows_is_taken_and_adds_none(lab):
    before = lab.rows("SELECT count(*) AS n FROM silver.logs")
    assert lab.send("logs", LOGS.empty_table()) == 0
    lab.ingest("logs", logs("one more"))
    assert lab.rows("SELECT count(*) AS n FROM silver.logs")[0]["n"] == before[0]["n"] + 1
