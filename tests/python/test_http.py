"""JSON in and JSON, CSV or Arrow out over HTTP, for clients that don't speak Arrow."""

import csv
import gzip
import http.client
import io
import json
import socket
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pyarrow as pa
import pytest

from lab import write_definition
from mallard import Server

TOML = """\
name = "lab"

[tables.things]
description = "a column of each kind"
primary_key = ["id"]
sequence_by = "seq"
columns = [
  { name = "id", type = "bigint" },
  { name = "seq", type = "bigint" },
  { name = "name", type = "varchar" },
  { name = "price", type = "decimal(38,10)" },
  { name = "at", type = "timestamp" },
  { name = "local", type = "timestamp_ntz" },
  { name = "day", type = "date" },
  { name = "raw", type = "json" },
  { name = "bytes", type = "blob" },
  { name = "tags", type = "varchar[]" },
  { name = "place", type = "struct(city varchar, floor integer)" },
  { name = "counts", type = "map(varchar, integer)" },
]

[tables.logs]
on_new_column = "reject"
columns = [{ name = "line", type = "bigint" }, { name = "text", type = "varchar" }]

[tables.readings]
columns = [{ name = "sensor", type = "varchar" }, { name = "value", type = "double" }]

[tables.notes]

[tables.hooks]

[tables.mixed]

[models.totals]
sql = "gold/totals.sql"

[models.loudest]
sql = "gold/loudest.sql"
"""
NDJSON = {"content-type": "application/x-ndjson"}
JSON = {"content-type": "application/json"}
SQL = {"content-type": "application/sql"}
BAD_ROWS_TOLD_MAX = 1_000
FORM = {"content-type": "application/x-www-form-urlencoded"}


class HttpServer(Server):
    """A server that speaks HTTP beside Flight."""

    def command_line(self):
        return [*super().command_line(), "--http-listen", "127.0.0.1:0"]

    def announced(self):
        line = self.process.stdout.readline().strip()
        assert line.startswith("http on "), f"the second line is {line!r}; log:\n{self.log()}"
        self.http_address = line.removeprefix("http on ")

    def request(self, method, path, body=None, headers=None):
        """The status, the headers and the body of the answer."""
        connection = http.client.HTTPConnection(self.http_address, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def post(self, table, body, partial=False, ingest_id=None, **headers):
        """Ingests; the status and the answer, read as JSON."""
        body = body if isinstance(body, (str, bytes)) else json.dumps(body)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if ingest_id:
            headers["mallard-ingest-id"] = ingest_id
        path = f"/v1/ingest/{table}" + ("?partial=true" if partial else "")
        status, told, answer = self.request("POST", path, body.encode() if isinstance(body, str) else body, headers)
        answer = json.loads(answer)
        assert told["content-type"] == "application/json"
        if status == 200:
            assert told["mallard-ingest-id"] == answer["ingest_id"]
        return status, answer

    def taken(self, table, body, **options):
        """Ingests what must be taken, and gives the receipt."""
        status, answer = self.post(table, body, **options)
        assert status == 200, answer
        return answer

    def ask(self, sql, wait_for=None, form="json", **headers):
        """The result of a query as it came."""
        headers = {**SQL, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if wait_for:
            headers["mallard-wait-for"] = wait_for
        status, told, answer = self.request("POST", f"/v1/query?format={form}", sql.encode(), headers)
        assert status == 200, answer
        assert uuid.UUID(told["mallard-query-id"])
        return answer

    def result(self, sql, wait_for=None):
        return json.loads(self.ask(sql, wait_for))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("http")
    # The models of the lab read a table with these columns.
    definition = write_definition(folder / "definition", TOML)
    with HttpServer(definition, folder / "data") as server:
        yield server


def new_id(name):
    return f"{name}-{uuid.uuid4()}"


def error(answer, status, code="invalid"):
    """The error of an answer that must be one."""
    assert answer[0] == status, answer
    told = answer[1]["error"]
    assert told["code"] == code and told["message"], told
    return told


def refusal(server, method, path, body=None, headers=None):
    status, _, answer = server.request(method, path, body, headers)
    return status, json.loads(answer)


def test_every_type_comes_back_as_it_went_in(lab):
    thing = {
        "id": 9223372036854775807,
        "seq": "1",
        "name": 'Ünïcode 🦆 "quoted"\n',
        "price": "1234567890123456789012345678.0123456789",
        "at": "2026-01-31T14:00:00.123456+02:00",
        "local": "2026-01-31T12:00:00.5",
        "day": "2026-01-31",
        "raw": {"b": [1.10, None], "a": "x"},
        "bytes": "AP8=",
        "tags": ["a", None, "é"],
        "place": {"city": "Zürich"},
        "counts": {"one": 1, "none": None},
    }
    ingest = lab.taken("things", thing)
    assert (ingest["table"], ingest["rows"], ingest["rejected_rows"]) == ("things", 1, 0)
    assert ingest["frames"] >= 1 and ingest["bytes"] > 0
    [back] = lab.result("SELECT * FROM silver.things WHERE seq = 1", ingest["ingest_id"])
    assert json.loads(back.pop("raw")) == thing.pop("raw")
    at, local = back.pop("at"), back.pop("local")
    assert (at, local) == ("2026-01-31T12:00:00.123456Z", "2026-01-31T12:00:00.500")
    assert back == {
        **{name: value for name, value in thing.items() if name not in ("at", "local")},
        "seq": 1,
        "place": {"city": "Zürich", "floor": None},
    }


def test_decimals_are_exact_however_they_are_written(lab):
    written = ["0.1", "12345678901234567890.0123456789", "1e-10", "-0.30", "100000000000000000000000000"]
    rows = [f'{{"id": {100 + at}, "seq": 2, "price": {text}}}' for at, text in enumerate(written)]
    ingest = lab.taken("things", f"[{','.join(rows)}]")
    back = lab.result("SELECT price FROM silver.things WHERE seq = 2 ORDER BY id", ingest["ingest_id"])
    assert [Decimal(row["price"]) for row in back] == [Decimal(text) for text in written]
    digits = '{"id": 1, "price": 0.12345678901}'
    told = error(lab.post("things", digits), 400)
    assert "0.12345678901" in told["rows"][0]["reason"], told


def test_lines_arrays_and_gzip_are_the_same(lab):
    rows = [{"line": number, "text": f"{number} é"} for number in range(3)]
    lines = "\n".join(map(json.dumps, rows)).encode()
    waited = []
    for body, headers in [
        (lines, NDJSON),
        (lines, {}),
        (json.dumps(rows).encode(), JSON),
        (json.dumps(rows, indent=2).encode(), {}),
        (gzip.compress(lines), {**NDJSON, "content-encoding": "gzip"}),
    ]:
        ingest_id = new_id("same")
        headers = {**headers, "mallard-ingest-id": ingest_id}
        status, _, answer = lab.request("POST", "/v1/ingest/logs", body, headers)
        assert status == 200, answer
        waited.append(ingest_id)
    counted = lab.result("SELECT count(*) AS n FROM silver.logs WHERE text LIKE '%é'", ",".join(waited))
    assert counted == [{"n": 15}]


def test_the_same_id_twice_adds_nothing(lab):
    ingest_id = new_id("twice")
    body = [{"line": 1000, "text": "once"}, {"line": 1001, "text": "once"}]
    for _ in range(3):
        assert lab.taken("logs", body, ingest_id=ingest_id)["ingest_id"] == ingest_id
    after = lab.taken("logs", {"line": 1002, "text": "after"})["ingest_id"]
    counted = lab.result("SELECT count(*) AS n FROM silver.logs WHERE text = 'once'", f"{ingest_id},{after}")
    assert counted == [{"n": 2}]


def test_one_bad_row_keeps_all_out_and_is_told(lab):
    lines = '{"line": 1, "text": "bad batch"}\n\n{"line": "x", "text": "bad batch"}\n{"line": 2,\n[]\n{"line": 1.5}'
    told = error(lab.post("logs", lines, content_type="application/x-ndjson"), 400)
    assert told["rejected_rows"] == 4 and not told["retriable"]
    places = [(row["row"], row["line"], row.get("column")) for row in told["rows"]]
    assert places == [(2, 3, "line"), (3, 4, None), (4, 5, None), (5, 6, "line")]
    after = lab.taken("logs", {"line": 3, "text": "good batch"})["ingest_id"]
    assert lab.result("SELECT * FROM silver.logs WHERE text = 'bad batch'", after) == []


def test_with_partial_the_good_rows_are_taken(lab):
    rows = [{"id": number if number % 10 else None, "seq": 3, "name": number} for number in range(1, 31)]
    for row in rows[:20]:
        row["name"] = "partial"
    taken = lab.taken("things", rows, partial=True)
    # Ten have a name that is no text, and of the others two have no key.
    assert (taken["rows"], taken["rejected_rows"]) == (18, 12)
    told = {row["row"]: row["column"] for row in taken["rejected"]}
    assert told == {10: "id", 20: "id", **{number: "name" for number in range(21, 31)}}
    counted = lab.result("SELECT count(*) AS n FROM silver.things WHERE seq = 3", taken["ingest_id"])
    assert counted == [{"n": 18}]


def test_a_null_key_is_told_by_its_row(lab):
    told = error(lab.post("things", [{"id": 1, "seq": 1}, {"id": None, "seq": 1}, {"seq": 1}]), 400)
    assert [row["row"] for row in told["rows"]] == [2, 3]
    assert "id" in json.dumps(told["rows"])


def test_only_the_first_bad_rows_are_told(lab):
    told = error(lab.post("logs", [{"line": "x"}] * (BAD_ROWS_TOLD_MAX + 500)), 400)
    assert told["rejected_rows"] == BAD_ROWS_TOLD_MAX + 500 and len(told["rows"]) == BAD_ROWS_TOLD_MAX
    assert told["rows"][-1]["row"] == BAD_ROWS_TOLD_MAX


def test_rows_are_left_out_only_if_each_of_them_is_told(lab):
    def rows(bad):
        return [{"line": "x"}] * bad + [{"line": 1, "text": f"beside {bad} bad ones"}]

    taken = lab.taken("logs", rows(BAD_ROWS_TOLD_MAX), partial=True)
    assert (taken["rows"], len(taken["rejected"])) == (1, BAD_ROWS_TOLD_MAX)
    told = error(lab.post("logs", rows(BAD_ROWS_TOLD_MAX + 1), partial=True), 400)
    assert told["rejected_rows"] == BAD_ROWS_TOLD_MAX + 1
    found = lab.result("SELECT text FROM silver.logs WHERE text LIKE 'beside % bad ones'", taken["ingest_id"])
    assert found == [{"text": f"beside {BAD_ROWS_TOLD_MAX} bad ones"}]


@pytest.mark.parametrize("bad", [{"id": None, "seq": 1}, {"id": "x", "seq": 1}], ids=["a NULL key", "a wrong type"])
def test_if_no_row_is_good_even_a_part_is_refused(lab, bad):
    for partial in (False, True):
        told = error(lab.post("things", [bad, bad], partial=partial), 400)
        assert (told["rejected_rows"], [row["row"] for row in told["rows"]]) == (2, [1, 2])
        assert "partial" not in told["message"], told


def test_a_header_asks_for_a_part_too(lab):
    rows = [{"line": "x"}, {"line": 8000, "text": "by header"}]
    assert lab.taken("logs", rows, mallard_partial="true")["rejected_rows"] == 1
    error(lab.post("logs", rows, mallard_partial="false"), 400)
    assert "mallard-partial" in error(lab.post("logs", rows, mallard_partial="perhaps"), 400)["message"]


def test_new_columns_are_added_or_refused_as_the_table_says(lab):
    row = {"sensor": "new", "value": 1, "unit": "°C", "ok": True, "n": 1}
    ingest = lab.taken("readings", [row, {"more": {"a": 1}}])
    back = lab.result("SELECT unit, ok, n, more FROM silver.readings WHERE sensor = 'new'", ingest["ingest_id"])
    assert back == [{"unit": "°C", "ok": True, "n": 1, "more": None}]
    told = error(lab.post("logs", {"line": 1, "colour": "red"}), 400)
    assert "colour" in told["message"] and "on_new_column" in told["message"], told
    told = error(lab.post("readings", {"sensor": "new", "_mine": 1}), 400)
    assert "_mine" in told["message"], told


def test_the_first_ingest_declares_columns(lab):
    ingest = lab.taken("notes", [{"text": "a", "stars": 4.5}, {"text": "b", "stars": 5, "by": None}])
    back = lab.result("SELECT * FROM silver.notes ORDER BY text", ingest["ingest_id"])
    assert back == [{"text": "a", "stars": 4.5}, {"text": "b", "stars": 5.0}]


def merged(server, table, body, **options):
    """Ingests, and waits until the table has it: the next ingest meets the columns that this one made."""
    receipt = server.taken(table, body, **options)
    server.result(f"SELECT count(*) AS n FROM silver.{table}", receipt["ingest_id"])
    return receipt


def test_a_webhook_is_taken_again_and_again(lab):
    # More than one frame, a key that begins with NULLs, and of nearly all JSON can say something.
    events = [
        {
            "late": None if number < 10 else number,
            "event": str(uuid.uuid4()),
            "data": {"amount": 1.5, "items": [number, "two", None]},
            "tags": ["a", "é"],
            "ok": number % 2 == 0,
            "mixed": [number, str(number), {}, None, 0.5][number % 5],
            "huge": 2**64 + number,
            "never": None,
        }
        for number in range(5_000)
    ]
    body = "\n".join(map(json.dumps, events))
    ids = [new_id("hook") for _ in range(3)]
    first = merged(lab, "hooks", body, ingest_id=ids[0])
    assert first["frames"] > 1 and first["rows"] == len(events)
    for ingest_id in [ids[0], ids[1], ids[0], ids[2], ids[1]]:
        receipt = merged(lab, "hooks", body, ingest_id=ingest_id)
        # Its frames are the same each time.
        assert (receipt["rows"], receipt["frames"]) == (first["rows"], first["frames"])
    sql = "SELECT count(*) AS n, count(DISTINCT event) AS events FROM silver.hooks"
    assert lab.result(sql) == [{"n": 3 * len(events), "events": len(events)}]
    [back] = lab.result(f"SELECT DISTINCT * FROM silver.hooks WHERE event = '{events[12]['event']}'")
    assert back == {
        "late": 12,
        "event": events[12]["event"],
        "data": json.dumps(events[12]["data"]),
        "tags": json.dumps(events[12]["tags"]),
        "ok": True,
        "mixed": "{}",
        "huge": str(2**64 + 12),
    }


def test_values_of_all_kinds_follow_each_other_in_a_column_that_rows_made(lab):
    values = ['{"a": 1}', '"text"', "7", "true", "[1, 2]", "1.50", "null", "18446744073709551616"]
    for number, value in enumerate(values):
        merged(lab, "mixed", f'{{"n": {number}, "x": {number}.5, "detail": {value}}}')
    back = lab.result("SELECT detail FROM silver.mixed ORDER BY n")
    expected = ['{"a": 1}', "text", "7", "true", "[1, 2]", "1.50", None, "18446744073709551616"]
    assert [row["detail"] for row in back] == expected
    # What rows made a number stays one, and takes what it can hold.
    for value in ("1.5", '"one"', "true", "{}"):
        told = error(lab.post("mixed", f'[{{"n": 1}}, {{"n": {value}}}]'), 400)
        assert [(row["row"], row["column"]) for row in told["rows"]] == [(2, "n")], told
    merged(lab, "mixed", {"n": 100, "x": 3})
    assert lab.result("SELECT x FROM silver.mixed WHERE n = 100") == [{"x": 3.0}]
    # A declared one is what it is declared to be.
    told = error(lab.post("logs", {"line": 1, "text": {"a": 1}}), 400)
    assert told["rows"][0]["column"] == "text", told


def test_times_that_are_finer_than_microseconds_are_refused(lab):
    thing = {"id": 200, "seq": 4, "local": "2026-01-31T12:00:00.000001000", "at": "2026-01-31T12:00:00.123456000Z"}
    ingest = lab.taken("things", thing)
    [back] = lab.result("SELECT local, at FROM silver.things WHERE id = 200", ingest["ingest_id"])
    assert back == {"local": "2026-01-31T12:00:00.000001", "at": "2026-01-31T12:00:00.123456Z"}
    for column, value in [
        ("at", "2026-01-31T12:00:00.1234567Z"),
        ("at", "2026-01-31T12:00:00.0000000000001+02:00"),
        ("local", "2026-01-31 12:00:00.123456789"),
    ]:
        told = error(lab.post("things", [{"id": 201, "seq": 4}, {"id": 202, "seq": 4, column: value}]), 400)
        [row] = told["rows"]
        assert (row["row"], row["column"]) == (2, column)
        assert "microseconds" in row["reason"], row


def test_twenty_thousand_rows_are_taken_at_once_and_come_back_in_each_format(lab):
    count = 20_000
    lines = "".join(f'{{"sensor":"many","value":{number}.5}}\n' for number in range(count))
    ingest = lab.taken("readings", gzip.compress(lines.encode()), content_encoding="gzip")
    assert ingest["rows"] == count
    sql = "SELECT sensor, value FROM silver.readings WHERE sensor = 'many' ORDER BY value"
    expected = [{"sensor": "many", "value": number + 0.5} for number in range(count)]
    assert lab.result(sql, ingest["ingest_id"]) == expected
    assert [json.loads(line) for line in lab.ask(sql, form="ndjson").splitlines()] == expected
    lines = list(csv.DictReader(io.StringIO(lab.ask(sql, form="csv").decode())))
    assert [{"sensor": line["sensor"], "value": float(line["value"])} for line in lines] == expected
    for compression in ["none", "lz4", "zstd"]:
        arrow = pa.ipc.open_stream(lab.ask(sql, form="arrow", mallard_compression=compression)).read_all()
        assert arrow.to_pylist() == expected


def test_an_ingest_can_be_read_at_once_by_waiting_for_it(lab):
    for number in range(5):
        ingest = lab.taken("logs", {"line": 2000 + number, "text": "waited for"})
        found = lab.result(f"SELECT text FROM silver.logs WHERE line = {2000 + number}", ingest["ingest_id"])
        assert found == [{"text": "waited for"}]


def test_statements_take_parameters_of_each_kind(lab):
    body = {"sql": "SELECT ? AS i, ? AS f, ? AS s, ? AS b, ? AS n, ? AS d", "format": "json"}
    body["parameters"] = [9007199254740993, 0.5, "é", True, None]
    text = json.dumps(body).replace("null]", "null, 0.1234567890123456789]")
    status, _, answer = lab.request("POST", "/v1/query", text.encode(), JSON)
    assert status == 200, answer
    [row] = json.loads(answer)
    assert (row["i"], row["f"], row["s"], row["b"], row["n"]) == (9007199254740993, 0.5, "é", True, None)
    assert Decimal(row["d"]) == Decimal("0.1234567890123456789")


def test_statements_that_write_give_a_receipt(lab):
    ingest_id = new_id("insert")
    body = json.dumps({"sql": "INSERT INTO silver.logs (line, text) VALUES (?, ?)", "parameters": [3000, "inserted"]})
    for _ in range(2):
        headers = {**JSON, "mallard-ingest-id": ingest_id}
        status, told, answer = lab.request("POST", "/v1/query", body.encode(), headers)
        receipt = json.loads(answer)
        assert (status, receipt["rows"], receipt["table"]) == (200, 1, "logs"), answer
        assert told["mallard-ingest-id"] == receipt["ingest_id"] == ingest_id
    after = lab.taken("logs", {"line": 3001, "text": "behind it"})["ingest_id"]
    found = lab.result("SELECT line FROM silver.logs WHERE text = 'inserted'", f"{ingest_id},{after}")
    assert found == [{"line": 3000}]
    path = "/v1/query?sql=DELETE%20FROM%20silver.things%20WHERE%20id%20%3D%201"
    status, told, answer = lab.request("GET", path)
    assert status in (400, 405), answer
    path = "/v1/query?sql=INSERT%20INTO%20silver.logs%20(line)%20VALUES%20(1)"
    status, told, answer = lab.request("GET", path)
    assert (status, told["allow"]) == (405, "POST"), answer


def test_the_format_comes_from_the_url_the_body_or_accept(lab):
    url = "/v1/query?sql=SELECT%201%20AS%20n"
    for path, headers, media_type, text in [
        (url, {}, "application/json", b'[{"n":1}]\n'),
        (url, {"accept": "*/*"}, "application/json", b'[{"n":1}]\n'),
        (url, {"accept": "text/csv"}, "text/csv; charset=utf-8", b"n\n1\n"),
        (url, {"accept": "application/x-ndjson"}, "application/x-ndjson", b'{"n":1}\n'),
        (url + "&format=csv", {"accept": "application/json"}, "text/csv; charset=utf-8", b"n\n1\n"),
    ]:
        status, told, answer = lab.request("GET", path, headers=headers)
        assert (status, told["content-type"], answer) == (200, media_type, text)
    body = b'{"sql": "SELECT 1 AS n", "format": "csv"}'
    assert lab.request("POST", "/v1/query", body, JSON)[2] == b"n\n1\n"
    assert lab.ask("SELECT 1 AS n WHERE false", form="json") == b"[]\n"
    assert lab.ask("SELECT 1 AS n WHERE false", form="csv") == b"n\n"
    empty = pa.ipc.open_stream(lab.ask("SELECT 1 AS n WHERE false", form="arrow")).read_all()
    assert (empty.num_rows, empty.column_names) == (0, ["n"])


def test_session_options_are_headers(lab):
    ingest = lab.taken("logs", {"line": 4000, "text": "options"})
    found = lab.ask("SELECT text FROM logs WHERE line = 4000", ingest["ingest_id"], mallard_schema="silver")
    assert json.loads(found) == [{"text": "options"}]
    for header, value in [("mallard-schema", "bronze"), ("mallard-timeout", "soon"), ("mallard-as-of", "once")]:
        told = error(refusal(lab, "POST", "/v1/query", b"SELECT 1", {**SQL, header: value}), 400)
        assert header in told["message"], told
    slow = b"SELECT count(*) FROM generate_series(1, 1000000000000) AS t(value) WHERE value % 7 = 8"
    answer = refusal(lab, "POST", "/v1/query", slow, {**SQL, "mallard-timeout": "300ms"})
    error(answer, 504, "timeout")


def test_what_can_not_be_asked_is_told(lab):
    for method, path, body, headers, status, code, word in [
        ("GET", "/", None, {}, 404, "not_found", "/v1/query"),
        ("PUT", "/v1/query", b"", {}, 405, "method_not_allowed", "POST"),
        ("GET", "/v1/query", None, {}, 400, "invalid", "sql"),
        ("GET", "/v1/query?sql=SELECT%201&format=xml", None, {}, 400, "invalid", "ndjson"),
        ("GET", "/v1/query?sql=SELECT%201", None, {"accept": "image/png"}, 406, "not_acceptable", "text/csv"),
        ("POST", "/v1/query", b"SELEC 1", SQL, 400, "invalid", "SELEC"),
        ("POST", "/v1/query", b"SELECT * FROM silver.nothing", SQL, 400, "invalid", "nothing"),
        ("POST", "/v1/query", b"SELECT 1 AS a, 2 AS b UNION ALL SELECT 1", SQL, 400, "invalid", ""),
        ("POST", "/v1/query", b"sql=SELECT+1", FORM, 415, "unsupported", "sql"),
        ("POST", "/v1/query", b'{"sql": "SELECT ?", "parameters": []}', JSON, 400, "invalid", "parameters"),
        ("POST", "/v1/ingest/nothing", b"{}", {}, 404, "not_found", "nothing"),
        ("POST", "/v1/ingest/logs", b"", {}, 400, "invalid", "rows"),
        ("POST", "/v1/ingest/logs", b"[]", {}, 400, "invalid", "rows"),
        ("POST", "/v1/ingest/logs", b'[{"line": 1}, {"line": NaN}]', JSON, 400, "invalid", "NaN"),
        ("POST", "/v1/ingest/logs", b'{"text": "\xff"}', {}, 400, "invalid", "UTF-8"),
        ("POST", "/v1/ingest/logs", b"{}", {"content-encoding": "gzip"}, 400, "invalid", "gzip"),
        ("POST", "/v1/ingest/logs", b"{}", {"content-encoding": "br"}, 415, "unsupported", "gzip"),
        ("POST", "/v1/ingest/logs", b'{"line": 1}', {"mallard-ingest-id": "a b/c"}, 400, "invalid", "id"),
        ("POST", "/v1/ingest/logs?partial=maybe", b'{"line": 1}', {}, 400, "invalid", "partial"),
        ("POST", "/v1/ingest/logs?part=true", b'{"line": 1}', {}, 400, "invalid", "partial"),
        ("POST", "/v1/ingest/logs", b'{"line": 1}', {"origin": "http://evil.example"}, 403, "forbidden", "web pages"),
        ("POST", "/v1/ingest/logs", b'{"text": ' + b"[" * 100_000, {}, 400, "invalid", "deeper"),
    ]:
        told = error(refusal(lab, method, path, body, headers), status, code)
        assert word in told["message"], (path, body, told)
    assert lab.result("SELECT 1 AS n") == [{"n": 1}]


def test_one_key_twice_is_refused(lab):
    for body in ['{"line": 1, "line": 2}', '{"line": 1, "LINE": 2}']:
        told = error(lab.post("logs", body), 400)
        assert len(told["rows"]) == 1, told


def test_bodies_over_the_limits_are_refused_by_size(lab):
    large = b'{"text": "' + b"x" * (16 << 20) + b'"}'
    assert "16777216" in error(refusal(lab, "POST", "/v1/ingest/logs", large), 413, "too_large")["message"]
    chunks = iter([large[: 8 << 20], large[8 << 20 :], b" "])
    # Without a length, it comes in chunks.
    error(refusal(lab, "POST", "/v1/ingest/logs", chunks), 413, "too_large")
    bomb = gzip.compress(b" " * (65 << 20))
    answer = refusal(lab, "POST", "/v1/ingest/logs", bomb, {"content-encoding": "gzip"})
    assert "67108864" in error(answer, 413, "too_large")["message"]
    rows = gzip.compress(b"{}\n" * 1_000_001)
    error(refusal(lab, "POST", "/v1/ingest/logs", rows, {"content-encoding": "gzip"}), 413, "too_large")
    lab.taken("logs", {"line": 5000, "text": "still there"})


def test_a_client_that_stops_in_its_body_is_told_so(lab):
    host, _, port = lab.http_address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as stalled:
        head = "POST /v1/ingest/logs HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n"
        stalled.sendall(head.encode() + b'{"line": ')
        # Others don't notice.
        lab.taken("logs", {"line": 6000, "text": "beside a slow one"})
        answer = b""
        while piece := stalled.recv(1 << 16):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 408 "), answer
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["retriable"]


def test_a_result_that_fails_in_the_middle_is_cut_off(lab):
    sql = "SELECT 100 / (150000 - value) AS n FROM generate_series(1, 200000) AS t(value)"
    for form in ["json", "csv", "ndjson"]:
        with pytest.raises(http.client.IncompleteRead) as cut:
            lab.request("POST", f"/v1/query?format={form}", sql.encode(), SQL)
        assert len(cut.value.partial) > 10_000
        if form == "ndjson":
            assert "error" in json.loads(cut.value.partial.splitlines()[-1])


def test_a_large_result_streams_and_ends_when_its_reader_leaves(lab):
    sql = b"SELECT value, repeat('x', 1000) AS text FROM generate_series(1, 100000000) AS t(value)"
    connection = http.client.HTTPConnection(lab.http_address, timeout=60)
    connection.request("POST", "/v1/query?format=ndjson", sql, SQL)
    answer = connection.getresponse()
    assert answer.status == 200 and json.loads(answer.readline())["value"] >= 1
    query_id = answer.headers["mallard-query-id"]
    running = f"SELECT state FROM system.queries WHERE query_id = '{query_id}' AND state = 'running'"
    assert len(lab.result(running)) == 1
    answer.close()
    connection.close()
    deadline = time.monotonic() + 30
    while lab.result(running):
        assert time.monotonic() < deadline, "the query runs on without its reader"
        time.sleep(0.1)


def test_clients_at_once_lose_nothing(lab):
    def send(number):
        rows = [{"sensor": "at once", "value": number * 100 + row} for row in range(100)]
        return lab.taken("readings", rows)["ingest_id"]

    with ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(send, range(64)))
    sql = "SELECT count(*) AS n, count(DISTINCT value) AS d FROM silver.readings WHERE sensor = 'at once'"
    assert lab.result(sql, ",".join(ids)) == [{"n": 6400, "d": 6400}]


def test_one_connection_serves_many_requests(lab):
    connection = http.client.HTTPConnection(lab.http_address, timeout=60)
    for number in range(20):
        connection.request("POST", "/v1/ingest/logs", json.dumps({"line": 7000 + number}), JSON)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["rows"]) == (200, 1)
        connection.request("GET", "/healthz")
        assert json.loads(connection.getresponse().read()) == {"status": "serving"}
    connection.close()


def test_the_description_is_served(lab):
    status, told, answer = lab.request("GET", "/v1/openapi.json")
    described = json.loads(answer)
    assert (status, told["content-type"], described["openapi"]) == (200, "application/json", "3.1.0")
    assert described["info"]["version"] != "0.0.0"
    assert set(described["paths"]) == {"/v1/ingest/{table}", "/v1/query", "/v1/openapi.json", "/healthz"}


TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def misfit(value, schema, described, place="answer"):
    """How a value differs from a schema of the description; None: it does not."""
    while reference := schema.get("$ref"):
        schema = resolved(described, reference)
    if "oneOf" in schema:
        misfits = [misfit(value, one, described, place) for one in schema["oneOf"]]
        return None if misfits.count(None) == 1 else f"{place} fits {misfits.count(None)} of oneOf: {misfits}"
    types = schema.get("type", list(TYPES))
    types = [types] if isinstance(types, str) else types
    is_odd_bool = isinstance(value, bool) and "boolean" not in types
    if is_odd_bool or not isinstance(value, tuple(TYPES[name] for name in types)):
        return f"{place} is {value!r}, not {types}"
    if value not in schema.get("enum", [value]) or schema.get("const", value) != value:
        return f"{place} is {value!r}, none of {schema}"
    if isinstance(value, list):
        items = [misfit(one, schema.get("items", {}), described, f"{place}[{at}]") for at, one in enumerate(value)]
        if len(value) > schema.get("maxItems", len(value)):
            return f"{place} has {len(value)} items"
        return next(filter(None, items), None)
    if isinstance(value, dict):
        known = schema.get("properties", {})
        if missing := set(schema.get("required", [])) - set(value):
            return f"{place} lacks {missing}"
        # What is not described is no part of the interface, unless the schema says that anything may be there.
        if known and (more := set(value) - set(known)):
            return f"{place} has {more}, which is not described"
        fields = [misfit(one, known.get(name, {}), described, f"{place}.{name}") for name, one in value.items()]
        return next(filter(None, fields), None)
    return None


def resolved(described, reference):
    found = described
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


def test_answers_have_the_shape_that_is_described(lab):
    described = json.loads(lab.request("GET", "/v1/openapi.json")[2])
    ingest, logs = "/v1/ingest/{table}", "/v1/ingest/logs"
    large = b" " * ((16 << 20) + 1)
    ask = "/v1/query?sql=SELECT%201%20AS%20n"
    insert = b"INSERT INTO silver.logs (line) VALUES (9000)"
    for route, method, path, body, headers, status in [
        (ingest, "POST", logs, b'{"line": 9000}', {}, 200),
        (ingest, "POST", logs + "?partial=true", b'{"line": 9000}\n{"line": "x"}', {}, 200),
        (ingest, "POST", logs, b'{"line": 9000}\n{"line": "x"}', {}, 400),
        (ingest, "POST", logs, b'[{"line": 9000}, {"line": "x"}]', {"mallard-ingest-id": "shape"}, 400),
        (ingest, "POST", logs, b"[", {}, 400),
        (ingest, "POST", logs, b"{}", {"origin": "http://evil.example"}, 403),
        (ingest, "POST", "/v1/ingest/nothing", b"{}", {}, 404),
        (ingest, "POST", logs, large, {}, 413),
        (ingest, "POST", logs, b"{}", {"content-encoding": "br"}, 415),
        ("/v1/query", "GET", ask, None, {}, 200),
        ("/v1/query", "GET", "/v1/query", None, {}, 400),
        ("/v1/query", "GET", "/v1/query?sql=INSERT%20INTO%20silver.logs%20(line)%20VALUES%20(1)", None, {}, 405),
        ("/v1/query", "GET", ask, None, {"accept": "image/png"}, 406),
        ("/v1/query", "POST", "/v1/query", b'{"sql": "SELECT 1 AS n"}', JSON, 200),
        ("/v1/query", "POST", "/v1/query", insert, SQL, 200),
        ("/v1/query", "POST", "/v1/query", b"SELEC 1", SQL, 400),
        ("/v1/query", "POST", "/v1/query", b"sql=1", FORM, 415),
        ("/v1/openapi.json", "GET", "/v1/openapi.json", None, {}, 200),
        ("/healthz", "GET", "/healthz", None, {}, 200),
        ("/healthz", "GET", "/healthz", None, {"origin": "http://evil.example"}, 403),
    ]:
        got, told, answer = lab.request(method, path, body, headers)
        assert got == status, (path, answer)
        responses = described["paths"][route][method.lower()]["responses"]
        response = responses.get(str(status)) or responses["default"]
        if "$ref" in response:
            response = resolved(described, response["$ref"])
        schema = response["content"][told["content-type"]]["schema"]
        assert misfit(json.loads(answer), schema, described) is None
        ours = [name for name in told if name.startswith("mallard-")]
        assert status != 200 or set(ours) <= set(response.get("headers", {})), ours
    # The check itself finds what is wrong.
    wrong = {"error": {"code": "odd", "message": "x", "retriable": False}}
    assert "code" in misfit(wrong, {"$ref": "#/components/schemas/Error"}, described)
    assert "lacks" in misfit({"ingest_id": "x"}, {"$ref": "#/components/schemas/Receipt"}, described)


def test_rows_that_were_taken_are_there_after_a_stop(tmp_path):
    definition = write_definition(tmp_path / "definition", TOML)
    with HttpServer(definition, tmp_path / "data") as server:
        ingest_id = server.taken("logs", [{"line": 1}, {"line": 2}])["ingest_id"]
    with HttpServer(definition, tmp_path / "data") as server:
        assert server.result("SELECT count(*) AS n FROM silver.logs", ingest_id) == [{"n": 2}]
