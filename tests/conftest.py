from __future__ import annotations

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
