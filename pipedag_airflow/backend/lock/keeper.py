"""The heartbeat: a thread that renews a lease while a step works."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Self

from pipedag_airflow.backend.lock.lease import LockState
from pipedag_airflow.errors import LockError, StaleRunError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from pipedag_airflow.backend.lock.base import LockManager
    from pipedag_airflow.backend.lock.lease import Lease, Owner

__all__ = ["KeepAlive"]

logger = logging.getLogger(__name__)

# How long leaving the block waits for a renewal under way; the thread is a daemon, so it never keeps a process.
_GOODBYE = 10.0


class KeepAlive:
    """Renews a lease in the background; made by ``LockManager.keep_alive``.

    Args:
        manager: The manager that keeps the lease.
        stage: The name of the stage.
        owner: Any process of the run that holds it.
        seconds: How long each renewal counts.
        clock: The present time in seconds since 1970.
        lease: The lease if it was acquired just now; then entering the block need not renew it.
    """

    def __init__(
        self,
        manager: LockManager,
        stage: str,
        owner: Owner,
        seconds: float,
        clock: Callable[[], float],
        lease: Lease | None = None,
    ) -> None:
        if not seconds > 0:
            msg = f"keep_alive of stage {stage!r} needs a positive number of seconds, not {seconds!r}."
            raise ValueError(msg)
        self._manager = manager
        self._stage = stage
        self._owner = owner
        self._seconds = seconds
        self._clock = clock
        self._acquired = lease
        self._expires = 0.0
        self._reached = True
        self._stop = threading.Event()
        self._beating = threading.Lock()
        self._stale: StaleRunError | None = None
        self._thread: threading.Thread | None = None

    @property
    def lost(self) -> bool:
        """Whether the stage was lost for good."""
        return self._stale is not None

    def check(self) -> None:
        """Find out whether the stage is still ours, without asking the store.

        Raises:
            StaleRunError: When a heartbeat found that another run holds it.
        """
        if self._stale is not None:
            raise StaleRunError(*self._stale.args) from self._stale

    def beat(self) -> bool:
        """Renew once. Called by the thread; public for an engine that has a loop of its own.

        Returns:
            Whether there is any point in another try.
        """
        # A server that does not answer, on a connection that nobody has ended, is waited for much longer.
        left = self._expires - self._clock()
        silence = threading.Timer(left if left > 0 else self._seconds, self._note_silence)
        silence.daemon = True
        if self._manager.silence_is_doubt:
            silence.start()
        try:
            self._expires = self._manager.renew(self._stage, self._owner, seconds=self._seconds).expires
        except StaleRunError as error:
            logger.error("%s", error)
            self._stale = error
            return False
        except Exception as error:
            # The store cannot be reached. The lease counts until it expires; after that another run may take it.
            self._reached = False
            overdue = self._clock() > self._expires
            logger.warning(
                "The lease on stage %r of run %s could not be renewed%s; trying again. %s: %s",
                self._stage,
                self._owner.run_id,
                " and has expired" if overdue else "",
                type(error).__name__,
                error,
            )
            if overdue:
                self._manager.observe(self._stage, self._owner, LockState.UNCERTAIN)
        else:
            self._reached = True
        finally:
            silence.cancel()
        return True

    def _note_silence(self) -> None:
        logger.warning(
            "The lease on stage %r of run %s has expired, and its renewal got no answer yet: nothing is written until "
            "it does.",
            self._stage,
            self._owner.run_id,
        )
        self._manager.observe(self._stage, self._owner, LockState.UNCERTAIN)

    def stop(self) -> bool:
        """Begin no further renewal; leaving the block does so, too.

        Returns:
            Whether one may be under way. Leaving the block waits for it, so the caller should keep nothing that it
            may need.
        """
        self._stop.set()
        if not self._beating.acquire(blocking=False):
            return True
        self._beating.release()
        return False

    def _run(self) -> None:
        while not self._stop.wait(self._pause()):
            with self._beating:
                if self._stop.is_set() or not self.beat():
                    return

    def _pause(self) -> float:
        # After a failure try more often: the lease is running out.
        return self._seconds / 3 if self._reached else min(self._seconds / 3, 1.0)

    def __enter__(self) -> Self:
        if self._thread is not None:
            msg = f"keep_alive of stage {self._stage!r} is already running; call LockManager.keep_alive() for another."
            raise LockError(msg)
        lease = self._acquired or self._manager.renew(self._stage, self._owner, seconds=self._seconds)
        self._expires = lease.expires
        self._thread = threading.Thread(target=self._run, name=f"pipedag-lease-{self._stage}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_GOODBYE)
