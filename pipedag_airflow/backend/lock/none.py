"""No locks at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipedag_airflow.backend.lock.base import LockManager
from pipedag_airflow.backend.lock.lease import Lease, LockState, Owner, Place, never

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NoLockManager"]


class NoLockManager(LockManager):
    """Grants everything and writes nothing down; for trying something out alone.

    Two runs at one time build the same stages twice. What they publish is still one run's generation at a time, because
    the publish has a fence of its own; the slower run fails there, after all its work.
    """

    guards = False
    warning = (
        "NoLockManager locks nothing: when a second run starts, both build the same stages, and one of them fails at "
        "its publish. Set lock_manager.class in pipedag.yaml to pipedag_airflow.backend.lock.FileLockManager or "
        "another one before running in earnest."
    )

    def _grant(self, stage: str, owner: Owner, seconds: float) -> Lease:
        now = self._clock()
        self.observe(stage, owner, LockState.LOCKED)
        return Lease(stage, owner, 0, now, now, now + seconds)

    def acquire(self, stage: str, owner: Owner, *, seconds: float, is_over: Callable[[Lease], bool] = never) -> Lease:
        """Grant the stage to whoever asks."""
        del is_over
        return self._grant(stage, owner, seconds)

    def wait(
        self, stage: str, owner: Owner, *, since: float | None = None, keeps: tuple[str, ...] | None = None
    ) -> Place:
        """Give the first place: nobody waits."""
        del stage, owner, keeps
        return Place(self._clock() if since is None else since, first=True, holder=None)

    def waits_for(self, run_id: str) -> list[str]:
        """Give an empty list: nobody waits."""
        del run_id
        return []

    def withdraw(self, stage: str, owner: Owner) -> None:
        """Do nothing: nobody waits."""

    def renew(self, stage: str, owner: Owner, *, seconds: float) -> Lease:
        """Grant the stage again."""
        return self._grant(stage, owner, seconds)

    def release(self, stage: str, owner: Owner) -> bool:
        """Forget the stage; it always counts as ours."""
        self.observe(stage, owner, LockState.UNLOCKED)
        return True

    def release_run(self, run_id: str) -> list[str]:
        """Give an empty list: nothing was written down."""
        del run_id
        return []

    def holder(self, stage: str) -> None:
        """Give ``None``: nothing was written down."""

    def leases(self) -> list[Lease]:
        """Give an empty list: nothing was written down."""
        return []

    def state(self, stage: str, owner: Owner) -> LockState:
        """Give ``LOCKED``: whoever asks may proceed."""
        del stage, owner
        return LockState.LOCKED
