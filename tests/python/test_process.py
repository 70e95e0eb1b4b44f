"""The program as a process: start, stop, restart, and the ways in which a start must fail."""

import re
import signal
import socket
import time
from contextlib import suppress

import adbc_driver_manager
import pytest

from lab import TOML, logs, readings, write_definition
from mallard import EXAMPLE, Server, run, wait_for

READY_WITHIN_SECONDS = 1.0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_stops_the_server_with_exit_code_zero(fresh_server, how):
    server = fresh_server()
    server.ingest("logs", logs("hello"))
    assert server.stop(how) == 0
    with socket.socket() as probe:
        assert probe.connect_ex((server.host, server.port)) != 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_open_connection_does_not_hold_up_the_stop(fresh_server):
    server = fresh_server()
    connection = server.connect()
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    assert server.stop() == 0
    # The driver would tell the server that it closes; there is none to tell.
    with suppress(adbc_driver_manager.Error):
        cursor.close()
    with suppress(adbc_driver_manager.Error):
        connection.close()


def test_a_restart_keeps_rows_ingests_and_models(fresh_server):
    server = fresh_server()
    ingest = server.ingest("readings", readings({"id": 1, "sensor": "a", "value": 1.0}))
    server.ingest("logs", logs("one", "two"))
    wait_for(lambda: server.rows("SELECT total FROM totals") == [{"total": 1.0}], "the refresh of totals")
    server.stop()
    again = fresh_server()
    assert again.rows("SELECT id, value FROM silver.readings") == [{"id": 1, "value": 1.0}]
    assert again.rows("SELECT text FROM silver.logs ORDER BY line") == [{"text": "one"}, {"text": "two"}]
    assert again.rows("SELECT total FROM gold.totals") == [{"total": 1.0}]
    assert again.wait_merged(ingest["ingest_id"])["silver_version"] == ingest["silver_version"]
    again.ingest("readings", readings({"id": 1, "seq": 2, "sensor": "a", "value": 5.0}))
    wait_for(lambda: again.rows("SELECT total FROM totals") == [{"total": 5.0}], "the refresh after the restart")


def test_a_start_on_existing_data_is_quick(fresh_server):
    server = fresh_server()
    server.ingest("logs", logs("hello"))
    server.stop()
    begun = time.monotonic()
    fresh_server()
    assert time.monotonic() - begun < READY_WITHIN_SECONDS


def test_what_was_acknowledged_survives_a_kill(fresh_server):
    server = fresh_server()
    accepted = server.send("logs", logs("kept", "this too"), ingest_id="acknowledged")
    server.kill()
    assert accepted == 2
    again = fresh_server()
    assert again.wait_merged("acknowledged")["rows"] == 2
    assert again.rows("SELECT count(*) AS n FROM silver.logs") == [{"n": 2}]


def test_a_busy_port_is_said_with_the_address_and_the_cure(fresh_server, tmp_path):
    server = fresh_server()
    other = ["--definition", server.definition, "--data", tmp_path / "other", "--listen", server.address]
    done = run("local", *other)
    assert done.returncode == 1
    assert server.address in done.stderr
    assert "--listen" in done.stderr
    assert server.rows("SELECT 1 AS one") == [{"one": 1}]


def test_a_data_folder_in_use_by_another_server_is_refused(fresh_server):
    server = fresh_server()
    done = run("local", "--definition", server.definition, "--data", server.data, "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    assert str(server.data) in done.stderr


def test_a_data_folder_that_is_a_file_is_refused_by_name(tmp_path):
    file = tmp_path / "a-file"
    file.write_text("not a folder")
    done = run("local", "--definition", EXAMPLE, "--data", file, "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    assert str(file) in done.stderr
    assert file.read_text() == "not a folder"


def test_a_definition_that_is_not_there_is_said_by_name(tmp_path):
    done = run("check", tmp_path / "nowhere")
    assert done.returncode != 0
    assert "nowhere" in done.stderr


def test_check_prints_the_tables_and_the_models_in_refresh_order(tmp_path):
    done = run("check", write_definition(tmp_path / "definition"))
    assert done.returncode == 0, done.stderr
    for name in ("lab", "readings", "logs", "notes"):
        assert name in done.stdout
    assert done.stdout.index("totals") < done.stdout.index("loudest")


def test_check_accepts_the_example():
    done = run("check", EXAMPLE)
    assert done.returncode == 0, done.stderr
    assert "carrier_delays" in done.stdout


# Each: what is broken in the definition, and the file, the line's text and a word that the message must name.
BROKEN = {
    "unknown key": ('description = "newest', 'descripton = "newest', "descripton"),
    "unknown key column": ('primary_key = ["id"]', 'primary_key = ["idd"]', "idd"),
    "unknown type": ('type = "double"', 'type = "dubble"', "dubble"),
    "bad name": ("[tables.logs]", '[tables."no good"]', "no good"),
    "missing file": ('sql = "gold/loudest.sql"', 'sql = "gold/quietest.sql"', "quietest.sql"),
    "bad delete rule": ("delete_when = \"op = 'delete'\"", 'delete_when = "opp = 1"', "opp"),
}


@pytest.mark.parametrize("old, new, word", BROKEN.values(), ids=BROKEN.keys())
def test_check_names_the_file_and_line_of_what_is_broken(tmp_path, old, new, word):
    toml = TOML.replace(old, new)
    assert toml != TOML
    line = next(number for number, text in enumerate(toml.splitlines(), 1) if new.splitlines()[0] in text)
    done = run("check", write_definition(tmp_path / "definition", toml))
    assert done.returncode != 0
    assert re.search(rf"lakehouse\.toml:{line}\b.*{re.escape(word)}", done.stderr, re.DOTALL), done.stderr


def test_check_names_the_sql_file_of_a_model_that_does_not_bind(tmp_path):
    folder = write_definition(tmp_path / "definition")
    (folder / "gold" / "loudest.sql").write_text("SELECT sensor,\n  nosuch\nFROM gold.totals\n")
    done = run("check", folder)
    assert done.returncode != 0
    assert "gold/loudest.sql" in done.stderr
    assert "nosuch" in done.stderr


def test_check_names_the_models_of_a_cycle(tmp_path):
    folder = write_definition(tmp_path / "definition")
    (folder / "gold" / "totals.sql").write_text("SELECT * FROM gold.loudest\n")
    done = run("check", folder)
    assert done.returncode != 0
    assert "totals" in done.stderr and "loudest" in done.stderr
    assert "lakehouse.toml:" in done.stderr or "gold/" in done.stderr


def test_the_version_is_printed():
    done = run("--version")
    assert done.returncode == 0
    assert re.search(r"\d+\.\d+\.\d+", done.stdout)


def test_a_server_over_a_broken_definition_does_not_start(tmp_path):
    folder = write_definition(tmp_path / "definition", TOML.replace('type = "double"', 'type = "dubble"'))
    with pytest.raises(AssertionError, match="dubble"):
        Server(folder, tmp_path / "data").__enter__()


def test_a_damaged_frame_is_quarantined_and_the_others_are_merged(fresh_server):
    server = fresh_server()
    for n in range(3):
        server.ingest("readings", readings({"id": n, "sensor": "a", "value": float(n)}))
    server.stop()
    frames = [path.read_bytes() for path in sorted(server.data.glob("bronze/readings/**/*")) if path.is_file()]
    assert len(frames) == 3
    damaged = bytearray(frames[1])
    damaged[len(damaged) // 2] ^= 0xFF
    # What a process that was killed leaves behind, in a folder of its own.
    other = server.data.parent / "other"
    journal = other / "journal" / "readings" / f"{1:020}.open"
    journal.parent.mkdir(parents=True)
    journal.write_bytes(frames[0] + bytes(damaged) + frames[2])
    with Server(server.definition, other) as again:
        wait_for(lambda: again.rows("SELECT rule FROM system.quarantine") == [{"rule": "damaged"}], "the quarantine")
        wait_for(
            lambda: again.rows("SELECT id FROM silver.readings ORDER BY id") == [{"id": 0}, {"id": 2}],
            "the merge of the other frames",
        )
