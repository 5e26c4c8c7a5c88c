"""What every lock manager must do when processes work, die and compete; a part of ``LockManagerSuite``."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import pytest

from pipedag_airflow.backend.lock import LockManager, LockState, Owner
from pipedag_airflow.errors import StageBusyError, StaleRunError
from pipedag_airflow.testing.lock_fixtures import PATIENCE, LockManagerFixtures, Remote, heartbeat, until

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LockProcessSuite"]


class LockProcessSuite(LockManagerFixtures):
    """Tests of heartbeats, and of processes that are killed or ask all at once."""

    def test_a_heartbeat_renews_in_the_background(self, real_time: LockManager) -> None:
        """Until the block ends."""
        manager = real_time
        self.needs_guards(manager)
        owner = Owner.of_run("r1")
        first = manager.acquire("s", owner, seconds=0.3)
        with manager.keep_alive("s", owner, seconds=0.3) as alive:
            until(lambda: heartbeat(manager) > first.heartbeat)
            second = heartbeat(manager)
            until(lambda: heartbeat(manager) > second)
            alive.check()
        assert not [thread for thread in threading.enumerate() if thread.name == "pipedag-lease-s"]

    def test_a_heartbeat_notices_that_the_stage_was_lost(
        self, real_time: LockManager, make_manager: Callable[..., LockManager]
    ) -> None:
        """It remembers the error for whoever works, and tells the listeners."""
        manager = real_time
        self.needs_guards(manager)
        owner = Owner.of_run("r1")
        lost = threading.Event()
        manager.add_listener(lambda _stage, _old, new: lost.set() if new is LockState.INVALID else None)
        manager.acquire("s", owner, seconds=0.3)
        with manager.keep_alive("s", owner, seconds=0.3) as alive:
            with make_manager() as other:
                other.acquire("s", Owner.of_run("r2"), seconds=30, is_over=lambda lease: True)
            assert lost.wait(PATIENCE)
            until(lambda: alive.lost)
            with pytest.raises(StaleRunError, match="r2"):
                alive.check()
        with pytest.raises(StaleRunError, match="r2"):
            manager.keep_alive("s", owner, seconds=30).__enter__()

    def test_a_killed_holder_frees_its_stage(self, real_time: LockManager, remotes: Callable[[], Remote]) -> None:
        """SIGKILL of the session's process; no waiting for the lease to expire."""
        manager = real_time
        self.needs_guards(manager)
        remote = remotes()
        remote.call("acquire", "s", remote.owner("r1"), seconds=3600)
        with pytest.raises(StageBusyError):
            manager.acquire("s", Owner.of_run("r2"), seconds=30)
        remote.kill()
        assert manager.acquire("s", Owner.of_run("r2"), seconds=30).owner.run_id == "r2"

    def test_a_killed_waiter_is_skipped_at_once(self, real_time: LockManager, remotes: Callable[[], Remote]) -> None:
        """SIGKILL of a session that waits."""
        manager = real_time
        self.needs_guards(manager)
        manager.acquire("s", Owner.of_run("r1"), seconds=3600)
        remote = remotes()
        with pytest.raises(StageBusyError):
            remote.call("acquire", "s", remote.owner("r2"), seconds=30)
        manager.release("s", Owner.of_run("r1"))
        with pytest.raises(StageBusyError, match="r2"):
            manager.acquire("s", Owner.of_run("r3"), seconds=30)
        remote.kill()
        assert manager.acquire("s", Owner.of_run("r3"), seconds=30).owner.run_id == "r3"

    def test_of_many_processes_one_gets_the_stage(self, real_time: LockManager, remotes: Callable[[], Remote]) -> None:
        """All ask at once, several times; tokens only grow."""
        manager = real_time
        self.needs_guards(manager)
        processes = [remotes() for _ in range(4)]
        tokens = []
        for turn in range(5):
            runs = [f"r{turn}.{number}" for number in range(len(processes))]
            for remote, run in zip(processes, runs, strict=True):
                remote.send("acquire", "s", Owner.of_run(run), seconds=30)
            granted = []
            for remote in processes:
                with contextlib.suppress(StageBusyError):
                    granted.append(remote.result())
            assert len(granted) == 1
            tokens.append(granted[0].token)
            for run in runs:
                manager.release_run(run)
        assert tokens == sorted(set(tokens))
