"""What a lock manager is: it keeps one lease per stage, so that two runs do not build one stage at a time.

A lease saves work; it is not what keeps the data right. That is the fence which the publish checks in its own
transaction. So a lease may be lost (a paused process, a cut network), and the run that lost it is told:
``StaleRunError``.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pipedag_airflow.backend.lock.files import InstanceContext, construct
from pipedag_airflow.backend.lock.keeper import KeepAlive
from pipedag_airflow.backend.lock.lease import Lease, Listener, LockState, Owner, Place, how_to_free, never
from pipedag_airflow.errors import LockError, StaleRunError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["KeepAlive", "Lease", "Listener", "LockManager", "LockState", "Owner", "Place", "never"]

logger = logging.getLogger(__name__)

# A stage of this name is never built.
_CHECK_STAGE = "pipedag_check"
_CHECK_SECONDS = 10.0


class LockManager(ABC):
    """Base of all lock managers.

    Most managers only store records: they derive from ``RecordLockManager``, which has the rules, and implement where a
    record is read and changed. Use as a context manager, or call ``dispose`` when done.

    Args:
        clock: The present time in seconds since 1970.
    """

    guards: ClassVar[bool] = True
    """Whether a second run is kept out; ``False`` for a placeholder."""

    warning: ClassVar[str | None] = None
    """What each run is to be told once, when it begins; ``None`` if there is nothing to say."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._mutex = threading.Condition()
        self._listeners: list[Listener] = []
        self._seen: dict[tuple[str, str], LockState] = {}

    silence_is_doubt: bool = True
    """Whether a renewal that gets no answer may mean that the store cannot be reached; ``False`` where it may as well
    wait for another process that is at work."""

    @classmethod
    def from_config(cls, context: InstanceContext, **args: Any) -> Self:
        """Make the lock manager that pipedag.yaml describes.

        Args:
            context: The configuration of the instance.
            **args: ``lock_manager.args``.

        Returns:
            The manager.
        """
        del context
        return construct(cls, "lock_manager", args)

    def check(self) -> str:
        """Try the manager: take a stage that is never built, renew the lease, and give it back.

        Returns:
            What was tried.

        Raises:
            StageBusyError: When somebody else is trying it this moment.
            LockError: When the records cannot be changed.
        """
        if not self.guards:
            return f"{type(self).__name__}: locks nothing, which is fine for one run at a time"
        owner = Owner.this_process(f"check:{uuid.uuid4()}")
        self.acquire(_CHECK_STAGE, owner, seconds=_CHECK_SECONDS)
        try:
            self.renew(_CHECK_STAGE, owner, seconds=_CHECK_SECONDS)
        finally:
            self.release(_CHECK_STAGE, owner)
        return f"{type(self).__name__}: a lease was taken, renewed and given back"

    @abstractmethod
    def acquire(self, stage: str, owner: Owner, *, seconds: float, is_over: Callable[[Lease], bool] = never) -> Lease:
        """Take a stage, or renew it when the same run holds it.

        A stage of another run is taken over when that run is over: ``is_over`` says so, the process of a session on
        this host is dead, or a session of another host has expired. A caller who is refused leaves a ticket, and
        whoever comes later is refused until the earlier one has had the stage or stops asking.

        Args:
            stage: The name of the stage.
            owner: Who wants it.
            seconds: How long the lease counts without a renewal.
            is_over: Asked about a lease of another run: has that run ended? It may be slow; no lock is held meanwhile.

        Returns:
            The lease.

        Raises:
            StageBusyError: When another run has it or comes first.
        """

    @abstractmethod
    def wait(
        self, stage: str, owner: Owner, *, since: float | None = None, keeps: tuple[str, ...] | None = None
    ) -> Place:
        """Keep a place in the queue for a stage, without taking it; to be called again and again.

        Args:
            stage: The name of the stage.
            owner: Who waits.
            since: When the waiting began, as an earlier call has said; it gives the place back to somebody who could
                not ask for some time.
            keeps: The stages that the caller has, and that will not be free before it has had this one; ``None``: as
                an earlier call has said.

        Returns:
            The place. Of several runs that wait in a circle for what the others keep, the one that began to wait last
            is told so: the others go on when it gives up.
        """

    @abstractmethod
    def waits_for(self, run_id: str) -> list[str]:
        """For which stages a run has a place in the queue.

        Args:
            run_id: The id of the run.

        Returns:
            The names of the stages.
        """

    @abstractmethod
    def withdraw(self, stage: str, owner: Owner) -> None:
        """Stop waiting: remove the caller's ticket.

        Args:
            stage: The name of the stage.
            owner: Who waited.
        """

    @abstractmethod
    def renew(self, stage: str, owner: Owner, *, seconds: float) -> Lease:
        """Extend a lease that the run holds.

        Args:
            stage: The name of the stage.
            owner: Any process of the run that holds it.
            seconds: How long the lease counts from now.

        Returns:
            The lease.

        Raises:
            StaleRunError: When the run does not hold the stage; the message names who does.
        """

    @abstractmethod
    def release(self, stage: str, owner: Owner) -> bool:
        """Give a stage back. Not an error when it is not ours.

        Args:
            stage: The name of the stage.
            owner: Any process of the run that holds it.

        Returns:
            Whether it was ours.
        """

    @abstractmethod
    def release_run(self, run_id: str) -> list[str]:
        """Give back all stages of a run, and its tickets.

        Args:
            run_id: The id of the run.

        Returns:
            The names of the stages that it held.
        """

    @abstractmethod
    def holder(self, stage: str) -> Lease | None:
        """Who holds a stage.

        Args:
            stage: The name of the stage.

        Returns:
            The lease, expired or not; ``None`` when nobody does.
        """

    @abstractmethod
    def leases(self) -> list[Lease]:
        """All leases of the instance.

        Returns:
            The leases, by name of the stage.
        """

    @abstractmethod
    def state(self, stage: str, owner: Owner) -> LockState:
        """What a run may assume about a stage.

        Args:
            stage: The name of the stage.
            owner: Any process of the run.

        Returns:
            The state. Once this manager saw the run lose the stage, ``INVALID`` until the run acquires it anew.
        """

    def keep_alive(self, stage: str, owner: Owner, *, seconds: float, lease: Lease | None = None) -> KeepAlive:
        """Renew a lease in the background for as long as a ``with`` block runs.

        Args:
            stage: The name of the stage.
            owner: Any process of the run that holds it.
            seconds: How long each renewal counts; one is made every third of it.
            lease: What :meth:`acquire` has returned just now, if it has.

        Returns:
            A context manager whose ``check()`` raises ``StaleRunError`` once the stage was lost. Entering it renews
            unless a lease is given, so it raises at once when the stage is already lost.
        """
        return KeepAlive(self, stage, owner, seconds, self._clock, lease)

    def confirm(self, stage: str, owner: Owner, *, seconds: float) -> None:
        """Wait while it is uncertain whether a run still has a stage; to be called before something is written.

        The store is not asked: what counts is what the heartbeat and the connection have noticed. A stage that was
        broken passes; of that the fence tells more.

        Args:
            stage: The name of the stage.
            owner: Any process of the run.
            seconds: How long to wait.

        Raises:
            StaleRunError: When the run has lost the stage.
            LockError: When it is still uncertain.
        """
        key = (stage, owner.run_id)
        with self._mutex:
            doubt = LockState.UNCERTAIN
            self._mutex.wait_for(lambda: self._seen.get(key) is not doubt, seconds)
            known = self._seen.get(key)
        if known is LockState.UNCERTAIN:
            raise LockError(
                f"Run {owner.run_id} cannot go on with stage {stage!r}: for {seconds:g} s the locks could not be "
                "reached, so it is not known whether the stage is still its own. Nothing was written meanwhile. The "
                "log above says what could not be reached; when it can be again, start the step again."
            )
        if known is LockState.INVALID:
            raise StaleRunError(
                f"Run {owner.run_id} has lost stage {stage!r}. Nothing of it is published by this run; start a new "
                f"run. {self.told_holder(stage)}"
            )

    def told_holder(self, stage: str) -> str:
        """Say who holds a stage, for the message of an error.

        Args:
            stage: The name of the stage.

        Returns:
            A sentence that names the holder, and what can be done about it.
        """
        if not self.guards:
            return f"Who is at work on the stage is not known: {type(self).__name__} notes nothing."
        try:
            lease, now = self.holder(stage), self.now()
        except LockError as error:
            return f"Who holds the stage now is not known: {error}"
        if lease is None:
            return "Nobody holds the stage now; see: pipedag-airflow locks"
        return f"Its lease is that of {lease.describe(now)}. {how_to_free(stage)}"

    def now(self) -> float:
        """The present time by the clock of the leases.

        Returns:
            Seconds since 1970.
        """
        return self._clock()

    def add_listener(self, listener: Listener) -> None:
        """Be told when this manager notices that a stage's state has changed.

        Args:
            listener: Called with the stage, the old and the new state, in the thread that noticed.
        """
        with self._mutex:
            self._listeners.append(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Not be told any longer.

        Args:
            listener: What was given to ``add_listener``; unknown ones are ignored.
        """
        with self._mutex:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def dispose(self) -> None:
        """Free what the manager itself uses. Leases stay: the run's next step may be another process."""
        with self._mutex:
            self._listeners.clear()
            self._seen.clear()

    def observe(self, stage: str, owner: Owner, new: LockState) -> LockState:
        """Note a state that was seen, and tell the listeners when it is a new one.

        For implementations. ``INVALID`` stays: a run that lost a stage does not get it back by a late renewal.

        Args:
            stage: The name of the stage.
            owner: Whose state it is.
            new: What was seen.

        Returns:
            What counts now.
        """
        key = (stage, owner.run_id)
        with self._mutex:
            old = self._seen.get(key, LockState.UNLOCKED)
            if old in {new, LockState.INVALID}:
                return old
            self._seen[key] = new
            if new is LockState.UNLOCKED:
                del self._seen[key]
            self._mutex.notify_all()
            listeners = tuple(self._listeners)
        for listener in listeners:
            try:
                listener(stage, old, new)
            except Exception:
                # A listener must not end the heartbeat of a run that still holds its stage.
                logger.exception("A lock listener failed on stage %r (%s -> %s).", stage, old.name, new.name)
        return new

    def forget(self, stage: str, run_id: str) -> None:
        """Drop what was noted about a stage, so that a new acquisition starts from ``UNLOCKED``.

        Args:
            stage: The name of the stage.
            run_id: The id of the run.
        """
        with self._mutex:
            self._seen.pop((stage, run_id), None)

    def tracked(self, stage: str, owner: Owner) -> bool:
        """Whether this manager has seen the run hold the stage.

        Args:
            stage: The name of the stage.
            owner: Any process of the run.

        Returns:
            Whether it has.
        """
        with self._mutex:
            return (stage, owner.run_id) in self._seen

    def all_tracked(self) -> list[tuple[str, str]]:
        """All that this manager has seen held.

        Returns:
            Stages and the ids of the runs that have them.
        """
        with self._mutex:
            return list(self._seen)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.dispose()
