#!/usr/bin/env python3
"""Makes docs/conformance.md out of what the client tests reported: matrix.py FOLDER [--check].

Each test that shows a feature appends a line of JSON to a file in the folder that MALLARD_CONFORMANCE names:

    {"client": "ADBC, Python", "feature": "cancel", "test": "tests/python/…::test_…", "passed": true}

With --check nothing is written: it fails if the page that is there is not what the tests would make of it.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
FEATURES = Path(__file__).with_name("features.txt")
PAGE = REPO / "docs" / "conformance.md"
HEAD = """\
# Which client uses what

`make test` runs real clients against the built server; each cell is made from the tests that ran: ✓ where all tests of
that feature with that client passed, ✗ where one failed, empty where no test uses it. `make conformance` writes this
page, `make test` fails if it is not what the tests say. The number of tests is behind the mark.

"""


def features():
    """The names of all features, in order."""
    lines = FEATURES.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def read(folder):
    """By feature and client: whether each test passed, by the test's name."""
    reported = defaultdict(dict)
    for file in sorted(Path(folder).glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            tests = reported[entry["feature"], entry["client"]]
            tests[entry["test"]] = tests.get(entry["test"], True) and entry["passed"]
    return reported


def page(reported):
    known = features()
    if unknown := sorted({feature for feature, _ in reported} - set(known)):
        raise SystemExit(f"error: tests name features that {FEATURES} does not have: {unknown}")
    clients = sorted({client for _, client in reported})
    lines = ["| feature | " + " | ".join(clients) + " |", "| --- |" + " --- |" * len(clients)]
    for feature in known:
        cells = []
        for client in clients:
            tests = reported.get((feature, client), {})
            mark = "✓" if all(tests.values()) else "✗"
            cells.append(f"{mark} {len(tests)}" if tests else "")
        lines.append(f"| {feature} | " + " | ".join(cells) + " |")
    return HEAD + "\n".join(lines) + "\n"


def main():
    made = page(read(sys.argv[1]))
    if "--check" not in sys.argv[2:]:
        PAGE.write_text(made, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != made:
        sys.exit(f"error: {PAGE.relative_to(REPO)} is not what the tests say; run `make conformance`, and commit it")


if __name__ == "__main__":
    main()
