"""Fixtures: servers over the example and over the lab definition, and names that no other test uses."""

import itertools
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from lab import write_definition
from mallard import EXAMPLE, Server

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
