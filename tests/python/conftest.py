"""Fixtures: servers over the example and over the lab definition, and names that no other test uses.

A test with the marker `feature("…")` reports to the conformance matrix, for the client that its module's CLIENT names.
"""

import itertools
import json
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import write_definition
from mallard import EXAMPLE, Server

FEATURES = Path(__file__).parents[1] / "conformance" / "features.txt"
IDS_PER_TEST = 1000
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def flights(tmp_path_factory):
    """A server on examples/flights, without rows; one for each test module."""
    with Server(EXAMPLE, tmp_path_factory.mktemp("flights") / "data") as server:
        yield server


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A server on the lab definition; one for each test module."""
    folder = tmp_path_factory.mktemp("lab")
    with Server(write_definition(folder / "definition"), folder / "data") as server:
        yield server


@pytest.fixture
def fresh_server(tmp_path):
    """A function that starts a server: `fresh_server(definition, data)`; both may be left out."""
    with ExitStack() as stack:

        def start(definition=None, data=None, **options):
            folder = tmp_path / "definition"
            if definition is None:
                definition = folder if folder.exists() else write_definition(folder)
            return stack.enter_context(Server(definition, data or tmp_path / "data", **options))

        yield start


@dataclass(frozen=True)
class Own:
    """What belongs to one test alone: a sensor's name, and ids from `base` on."""

    sensor: str
    base: int

    def id(self, number):
        return self.base + number

    def where(self):
        return f"id >= {self.base} AND id < {self.base + IDS_PER_TEST}"


@pytest.fixture
def own():
    number = next(_numbers)
    return Own(f"sensor-{number}", number * IDS_PER_TEST)


def pytest_configure(config):
    config.addinivalue_line("markers", "feature(*names): what the test shows, as tests/conformance/features.txt has it")


def features_of(item):
    return [name for mark in item.iter_markers("feature") for name in mark.args]


def pytest_collection_modifyitems(items):
    known = set(FEATURES.read_text(encoding="utf-8").splitlines())
    for item in items:
        if unknown := set(features_of(item)) - known:
            raise pytest.UsageError(f"{item.nodeid}: {FEATURES.name} does not have {sorted(unknown)}")
        if features_of(item) and not hasattr(item.module, "CLIENT"):
            raise pytest.UsageError(f"{item.nodeid}: its module has no CLIENT")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    folder = os.environ.get("MALLARD_CONFORMANCE")
    if folder and (report.when == "call" or report.failed):
        with open(Path(folder) / "python.jsonl", "a", encoding="utf-8") as file:
            for feature in features_of(item):
                entry = {"client": item.module.CLIENT, "feature": feature, "test": item.nodeid, "passed": report.passed}
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    return report
