from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from pipedag_airflow.backend.lock import NoLockManager, Owner
from pipedag_airflow.errors import ConfigError
from pipedag_airflow.testing.lock_suite import LockManagerSuite

if TYPE_CHECKING:
    from collections.abc import Callable


class TestNoLockManager(LockManagerSuite):
    @pytest.fixture
    def make_manager(self) -> Callable[..., NoLockManager]:
        return NoLockManager


def test_it_says_once_per_run_what_it_gives_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(NoLockManager, "_warned", set())
    for run in ("r1", "r2", "r1"):
        NoLockManager().acquire("s", Owner.of_run(run), seconds=30)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "lock_manager.class" in caplog.text


def test_it_takes_no_arguments() -> None:
    context = SimpleNamespace(instance_id="i")
    assert isinstance(NoLockManager.from_config(context), NoLockManager)
    with pytest.raises(ConfigError, match="base_path"):
        NoLockManager.from_config(context, base_path="x")
