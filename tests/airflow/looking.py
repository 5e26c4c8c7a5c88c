"""Waiting for what Airflow does in its own time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: Seconds between two looks: most are a request to an Airflow that has other things to do.
POLL = 0.3


def eventually(look: Callable[[], T], *, seconds: float = 240, instead: Callable[[], Any] = lambda: "nothing") -> T:
    """Look until there is something, and return it.

    Args:
        look: Returns what is waited for, or something false.
        seconds: How long at most; far more than it takes, as the machine may be busy with other tests.
        instead: Returns what there is instead.
    """
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"after {seconds} s there is still {instead()}"
        time.sleep(POLL)
    return found
