"""Objects that can't be merged, in a server that merges by itself: they are set aside, and hold up nothing."""

import json
import re

import pyarrow as pa

from lab import LOGS, TOML, write_definition
from lambdas import RECEIVED_AT_US, put
from mallard import Server, run, wait_for

NUMBERS = """
[tables.numbers]
description = "its transform fails on what is no number"
transform = "silver/numbers.sql"

[[tables.numbers.columns]]
name = "line"
type = "bigint"

[[tables.numbers.columns]]
name = "number"
type = "bigint"
"""
STRICT = """
[tables.strict]
description = "a wrong row stops it"

[[tables.strict.columns]]
name = "line"
type = "bigint"

[[tables.strict.columns]]
name = "text"
type = "varchar"

[tables.strict.expect]
no_curses = { check = "text <> 'curse'", on_fail = "fail" }
"""
# Without declared columns nothing binds its transform before rows come.
LOOSE = """
[tables.loose]
description = "has columns with its first rows"
transform = "silver/loose.sql"
"""
TRANSFORM = "SELECT _row, line, {cast}(text AS BIGINT) AS number FROM incoming\n"
QUARANTINED = "SELECT rule, object, reason FROM system.quarantine ORDER BY object"
REPLAYED = re.compile(r"numbers: (\d+) taken out of quarantine, (\d+) merged, (\d+) back in it")


def define(folder, toml, **transforms):
    """Writes a definition, anew if it is there; returns its folder."""
    if not folder.exists():
        write_definition(folder)
        (folder / "silver").mkdir()
    (folder / "lakehouse.toml").write_text(TOML + toml)
    for name, sql in transforms.items():
        (folder / "silver" / f"{name}.sql").write_text(sql)
    return folder


def lines(*texts):
    return pa.table({"line": range(len(texts)), "text": list(texts)}, LOGS)


def queue(data, table, *texts):
    """Lets an object for each text wait in a folder that no server uses; returns their keys."""
    keys = [put(data, table, lines(text), name=f"{number:04}") for number, text in enumerate(texts)]
    entries = data / "queue" / table
    entries.mkdir(parents=True)
    for number, key in enumerate(keys, 1):
        entry = {"object": key, "bytes": (data / key).stat().st_size, "delivered_at_us": RECEIVED_AT_US}
        (entries / f"{number:020}").write_text(json.dumps(entry))
    return keys


def waiting(data, table):
    return len(list((data / "queue" / table).iterdir()))


def wait_until_merged(server, data, table):
    wait_for(lambda: waiting(data, table) == 0, f"the merge of all that waits for {table}; log:\n{server.log()}")


def wait_for_tries(server, count):
    wait_for(lambda: server.log_path.read_text().count("the merge failed") >= count, f"{count} tries")


def troubles(server):
    rows = server.rows("SELECT table_name, last_error FROM system.tables WHERE last_error IS NOT NULL")
    return {row["table_name"]: row["last_error"] for row in rows}


def numbers(server):
    return [row["number"] for row in server.rows("SELECT number FROM silver.numbers ORDER BY number NULLS LAST")]


def test_poison_objects_go_to_quarantine_whole_and_the_others_to_silver(tmp_path):
    definition = define(tmp_path / "definition", NUMBERS, numbers=TRANSFORM.format(cast="CAST"))
    data = tmp_path / "data"
    keys = queue(data, "numbers", "0", "no number", "2", "3", "nor this", "5")
    with Server(definition, data) as server:
        wait_until_merged(server, data, "numbers")
        assert numbers(server) == [0, 2, 3, 5]
        aside = server.rows(QUARANTINED)
        assert [(row["rule"], row["object"]) for row in aside] == [("poison", keys[1]), ("poison", keys[4])]
        assert "no number" in aside[0]["reason"] and "nor this" in aside[1]["reason"]
        server.ingest("numbers", lines("6"))
        assert numbers(server) == [0, 2, 3, 5, 6]
        assert troubles(server) == {}

    # Nothing of it is tried again by the next process; a replay does so, once the transform is mended.
    define(definition, NUMBERS, numbers=TRANSFORM.format(cast="TRY_CAST"))
    with Server(definition, data) as server:
        assert len(server.rows(QUARANTINED)) == 2
        done = run("replay", "--table", "numbers", "--server", server.uri, timeout=60)
        assert done.returncode == 0, done.stderr
        assert REPLAYED.match(done.stdout).groups() == ("2", "2", "0")
        assert numbers(server) == [0, 2, 3, 5, 6, None, None]


def test_a_server_that_is_killed_while_it_tries_loses_and_repeats_nothing(tmp_path):
    definition = define(tmp_path / "definition", NUMBERS, numbers=TRANSFORM.format(cast="CAST"))
    data = tmp_path / "data"
    (_, poison, _) = queue(data, "numbers", "0", "no number", "2")
    with Server(definition, data) as server:
        wait_for_tries(server, 1)
        server.kill()
    with Server(definition, data) as server:
        wait_until_merged(server, data, "numbers")
        assert numbers(server) == [0, 2]
        assert [(row["rule"], row["object"]) for row in server.rows(QUARANTINED)] == [("poison", poison)]


def test_what_a_rule_stops_is_not_poison_however_often_it_is_tried(tmp_path):
    definition, data = define(tmp_path / "definition", STRICT), tmp_path / "data"
    queue(data, "strict", "fine", "curse")
    with Server(definition, data) as server:
        server.ingest("logs", lines("other tables go on"))
        wait_for_tries(server, 4)
        assert "no_curses" in troubles(server)["strict"]
        assert server.rows(QUARANTINED) == []
        assert waiting(data, "strict") == 2
    define(definition, STRICT.replace("'curse'", "'another'"))
    with Server(definition, data) as server:
        wait_until_merged(server, data, "strict")
        rows = server.rows("SELECT text FROM silver.strict ORDER BY text")
        assert [row["text"] for row in rows] == ["curse", "fine"]
        assert troubles(server) == {}


def test_sql_of_the_definition_that_is_wrong_stops_its_table_and_sets_nothing_aside(tmp_path):
    definition = define(tmp_path / "definition", LOOSE, loose="SELECT _row, line, nosuch(text) AS text FROM incoming\n")
    data = tmp_path / "data"
    queue(data, "loose", "a", "b")
    with Server(definition, data) as server:
        # An object that were poison would be in quarantine by now.
        wait_for_tries(server, 4)
        assert "nosuch" in troubles(server)["loose"] and "silver/loose.sql:1" in troubles(server)["loose"]
        assert server.rows(QUARANTINED) == []
        assert waiting(data, "loose") == 2
    define(definition, LOOSE, loose="SELECT _row, line, upper(text) AS text FROM incoming\n")
    with Server(definition, data) as server:
        wait_until_merged(server, data, "loose")
        rows = server.rows("SELECT text FROM silver.loose ORDER BY text")
        assert [row["text"] for row in rows] == ["A", "B"]
