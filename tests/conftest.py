"""What all tests share."""

from __future__ import annotations

import atexit
import os
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def require_program() -> Callable[[str, str], None]:
    """Skip a test whose program is missing; in CI, where nothing may be missing, it fails."""

    def require(name: str, package: str) -> None:
        if shutil.which(name) is None:
            complain = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            complain(f"the program {name} is missing: apt-get install {package}")

    return require


def _hush() -> None:
    """Silence what is printed after pytest's own last line.

    DuckDB's binding lists its objects that are alive when the interpreter ends, and Airflow keeps modules that it has
    parsed alive until then. The list is long, and says nothing about our tests.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


atexit.register(_hush)
