"""Rows out of quarantine: merged once after a fix, by the server or by the command alone."""

import json
import re

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from lab import TOML, logs, readings, write_definition
from mallard import Server, run, wait_for

WAITING = "SELECT rule, row_json FROM system.quarantine WHERE replay_id IS NULL ORDER BY row_json"
SILVER = "SELECT id, value FROM silver.readings ORDER BY id"
REPLAYED = re.compile(r"readings: (\d+) taken out of quarantine, (\d+) merged, (\d+) back in it")


def relax(folder, bound):
    """Lets values from `bound` on pass."""
    toml = (folder / "lakehouse.toml").read_text()
    relaxed = re.sub(r'check = "value IS NULL OR value >= [^"]*"', f'check = "value IS NULL OR value >= {bound}"', toml)
    assert relaxed != toml
    (folder / "lakehouse.toml").write_text(relaxed)


def replay(*arguments):
    """Runs the command; returns how many rows it took out, merged, and put back."""
    done = run("replay", "--table", "readings", *arguments, timeout=60)
    assert done.returncode == 0, done.stderr
    return tuple(map(int, REPLAYED.match(done.stdout).groups()))


@pytest.fixture
def stopped(tmp_path):
    """A folder in whose quarantine lie values of -1, -2 and -100; the definition takes what is above -10 now."""
    definition = write_definition(tmp_path / "definition")
    with Server(definition, tmp_path / "data") as server:
        rows = [{"id": n, "sensor": "a", "value": value} for n, value in enumerate([1.0, -1.0, -2.0, -100.0])]
        server.ingest("readings", readings(*rows))
        assert len(server.rows(WAITING)) == 3
        assert server.rows(SILVER) == [{"id": 0, "value": 1.0}]
    relax(definition, -10)
    return definition, tmp_path / "data"


def test_a_running_server_replays_what_is_asked_for_and_once(stopped):
    definition, data = stopped
    with Server(definition, data) as server:
        assert replay("--server", server.uri, "--where", "row_json LIKE '%-1.0%'") == (1, 1, 0)
        assert server.rows(SILVER) == [{"id": 0, "value": 1.0}, {"id": 1, "value": -1.0}]
        assert len(server.rows(WAITING)) == 2

        assert replay("--server", server.uri) == (2, 1, 1)
        silver = [{"id": 0, "value": 1.0}, {"id": 1, "value": -1.0}, {"id": 2, "value": -2.0}]
        assert server.rows(SILVER) == silver
        (waiting,) = server.rows(WAITING)
        assert waiting["rule"] == "not_negative" and json.loads(waiting["row_json"])["id"] == 3

        # What was replayed is marked, and is not taken again.
        assert replay("--server", server.uri, "--where", "row_json LIKE '%\"id\":1%'") == (0, 0, 0)
        marked = server.rows("SELECT replay_id, replayed_at FROM system.quarantine WHERE replay_id IS NOT NULL")
        assert len(marked) == 3 and all(row["replayed_at"] for row in marked)
        assert server.rows(SILVER) == silver
        wait_for(
            lambda: server.rows("SELECT readings FROM gold.totals WHERE sensor = 'a'") == [{"readings": 3}],
            "the models' refresh after a replay",
        )


def test_the_command_replays_in_the_folder_of_a_server_that_is_stopped(stopped):
    definition, data = stopped
    assert replay("--definition", definition, "--data", data) == (3, 2, 1)
    assert replay("--definition", definition, "--data", data, "--where", "rule = 'another'") == (0, 0, 0)
    with Server(definition, data) as server:
        assert [row["id"] for row in server.rows(SILVER)] == [0, 1, 2]
        assert len(server.rows(WAITING)) == 1


def test_a_folder_that_a_server_uses_is_left_to_it(stopped):
    definition, data = stopped
    with Server(definition, data) as server:
        done = run("replay", "--table", "readings", "--definition", definition, "--data", data)
        assert done.returncode == 1
        assert "--server" in done.stderr
        assert len(server.rows(WAITING)) == 3


def test_the_command_replays_in_a_lake(stopped):
    definition, data = stopped
    assert replay("--definition", definition, "--lake", data, "--where", "frame = 0 AND \"row\" < 3") == (2, 2, 0)
    assert replay("--definition", definition, "--lake", data) == (1, 0, 1)


def test_a_replayed_row_does_not_overtake_what_came_after_it(tmp_path):
    definition = write_definition(tmp_path / "definition")
    with Server(definition, tmp_path / "data") as server:
        server.ingest("readings", readings({"id": 1, "seq": 1, "sensor": "a", "value": -1.0}))
        server.ingest("readings", readings({"id": 1, "seq": 2, "sensor": "a", "value": 2.0}))
    relax(definition, -10)
    with Server(definition, tmp_path / "data") as server:
        assert replay("--server", server.uri) == (1, 1, 0)
        assert server.rows(SILVER) == [{"id": 1, "value": 2.0}]


def test_rows_of_an_append_only_table_are_added_once(tmp_path):
    rule = """[tables.logs.expect]\nquiet = { check = "text <> 'loud'", on_fail = "quarantine" }\n\n"""
    definition = write_definition(tmp_path / "definition", TOML.replace("[tables.notes]", rule + "[tables.notes]"))
    with Server(definition, tmp_path / "data") as server:
        server.ingest("logs", logs("a", "loud", "b"))
    (definition / "lakehouse.toml").write_text(TOML)
    with Server(definition, tmp_path / "data") as server:
        for _ in range(2):
            done = run("replay", "--table", "logs", "--server", server.uri, timeout=60)
            assert done.returncode == 0, done.stderr
        assert [row["text"] for row in server.rows("SELECT text FROM silver.logs ORDER BY line")] == ["a", "loud", "b"]


# Each: a flag with its value, and a word that the message must have.
REFUSED = {
    "no condition": ("--where", "nosuch = 1", "row_json"),
    "a subquery": ("--where", "EXISTS (SELECT 1)", "subquery"),
    "no such table": ("--table", "nosuch", "nosuch"),
}


@pytest.mark.parametrize("flag, value, word", REFUSED.values(), ids=REFUSED.keys())
def test_what_can_not_be_replayed_is_told(lab, flag, value, word):
    line = {"--table": "readings", "--server": lab.uri, flag: value}
    done = run("replay", *[part for pair in line.items() for part in pair])
    assert done.returncode == 1
    assert word in done.stderr


def test_the_action_is_json_and_says_what_is_wrong(lab):
    with flight.connect(lab.uri.replace("grpc://", "grpc+tcp://")) as client:
        body = json.dumps({"table": "readings", "where": "false"}).encode()
        (answer,) = client.do_action(("mallard.replay", body))
        assert json.loads(answer.body.to_pybytes()) == {"rows": 0, "merged": 0, "quarantined_again": 0, "version": None}
        for wrong in (b"", b"{}", b'{"table": "readings", "when": "now"}'):
            with pytest.raises(pa.ArrowInvalid, match="table"):
                list(client.do_action(("mallard.replay", wrong)))
