from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from pipedag_airflow.backend.lock import NoLockManager
from pipedag_airflow.errors import ConfigError
from pipedag_airflow.testing.lock_suite import LockManagerSuite

if TYPE_CHECKING:
    from collections.abc import Callable


class TestNoLockManager(LockManagerSuite):
    @pytest.fixture
    def make_manager(self) -> Callable[..., NoLockManager]:
        return NoLockManager


def test_it_takes_no_arguments() -> None:
    context = SimpleNamespace(instance_id="i")
    assert isinstance(NoLockManager.from_config(context), NoLockManager)
    with pytest.raises(ConfigError, match="base_path"):
        NoLockManager.from_config(context, base_path="x")
