"""What all tests share."""

from __future__ import annotations

import atexit
import os


def _hush() -> None:
    """Silence what is printed after pytest's own last line.

    DuckDB's binding lists its objects that are alive when the interpreter ends, and Airflow keeps modules that it has
    parsed alive until then. The list is long, and says nothing about our tests.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


atexit.register(_hush)
