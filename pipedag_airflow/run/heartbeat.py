"""The heartbeat of a local run between its steps: what it holds stays its own for as long as its process lives."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from pipedag_airflow.errors import StaleRunError

if TYPE_CHECKING:
    from pipedag_airflow.backend.lock import LockManager, Owner

__all__ = ["RunHeartbeat"]

log = logging.getLogger(__name__)

#: How long the end waits for a renewal under way; the thread is a daemon, so it never keeps a process.
_GOODBYE = 10.0


class RunHeartbeat:
    """A thread that renews all stages of a run which no step of it renews.

    A step renews its own stage. But a run keeps stages that its later steps read, and an open ``StageLockContext``
    those of runs that are over. Where processes cannot be looked at, on another host, a lease that nobody renews is
    that of a dead one.

    Args:
        locks: The lock manager.
        owner: The run.
        seconds: How long each renewal counts.
    """

    def __init__(self, locks: LockManager, owner: Owner, seconds: float) -> None:
        self._locks = locks
        self._owner = owner
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"pipedag-run-{owner.run_id}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; whatever is held is the caller's to release."""
        self._stop.set()
        self._thread.join(_GOODBYE)

    def beat(self) -> None:
        """Renew once what was not renewed for long."""
        now = self._locks.now()
        for lease in self._locks.leases():
            if lease.owner.run_id != self._owner.run_id or now - lease.heartbeat < self._seconds / 3:
                continue
            try:
                self._locks.renew(lease.stage, self._owner, seconds=self._seconds)
            except StaleRunError as error:
                # Released since, or in the hands of another run of the same block: whoever needs it is told.
                log.info("%s", error)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds / 3):
            try:
                self.beat()
            except Exception as error:  # of a driver, too: without this thread the stages would be lost
                log.warning(
                    "The stages of run %s could not be renewed; trying again in %g s. %s: %s",
                    self._owner.run_id,
                    self._seconds / 3,
                    type(error).__name__,
                    error,
                )
