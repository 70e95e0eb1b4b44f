"""What an error of the server must look like to a client."""

import re
from contextlib import contextmanager

import adbc_driver_manager
import pytest

# An error says what to do, so it holds one of these.
CURES = re.compile(
    r"\b(add|cast|change|check|choose|declare|did you mean|drop|fill|give|known|leave|make|name|only|pass|remove|"
    r"rename|send|set|there (is|are)|try|use|write)\b",
    re.IGNORECASE,
)
INVALID = adbc_driver_manager.AdbcStatusCode.INVALID_ARGUMENT
NOT_IMPLEMENTED = adbc_driver_manager.AdbcStatusCode.NOT_IMPLEMENTED
ALREADY_EXISTS = adbc_driver_manager.AdbcStatusCode.ALREADY_EXISTS
UNAUTHORIZED = adbc_driver_manager.AdbcStatusCode.UNAUTHORIZED
UNAVAILABLE = adbc_driver_manager.AdbcStatusCode.IO
NOT_FOUND = adbc_driver_manager.AdbcStatusCode.NOT_FOUND


@contextmanager
def refused(*words, status=INVALID, cure=True):
    """The block must fail with `status` (or one of them), and a message with each of `words` whole, and the cure."""
    statuses = status if isinstance(status, tuple) else (status,)
    with pytest.raises(adbc_driver_manager.Error) as caught:
        yield
    message = str(caught.value)
    assert caught.value.status_code in statuses, f"{caught.value.status_code}: {message}"
    for word in words:
        whole = rf"(?<!\w){re.escape(word)}(?!\w)"
        assert re.search(whole, message, re.IGNORECASE), f"{word!r} is not named in: {message}"
    assert not cure or CURES.search(message), f"no cure in: {message}"
