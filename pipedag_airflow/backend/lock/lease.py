"""The nouns of locking: who wants a stage, and the record of who has it.

Two forms of a holder:

* *session*: one process lives through the stage. Its death frees the stage at once.
* *lease*: the steps of the run are separate processes. Nobody's death says anything; the stage is free when the run is
  over, which only the orchestrator knows (``is_over``). A lease that merely expired belongs to a run that is slow.
"""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum

import attrs

from pipedag_airflow.backend.lock.process import pid_space, process_is_gone, process_started

__all__ = ["Lease", "Listener", "LockState", "Owner", "Place", "how_to_free", "in_words", "never"]


_SILENT = 60


@attrs.frozen
class Owner:
    """Who wants a stage.

    Args:
        run_id: The orchestrator's id in full: ``airflow:<dag>/<run>`` or ``local:<uuid>``.
        host: The host name of whoever asks.
        pid: Session form: the process whose death ends the run. ``None``: lease form.
        process_started: When that process started, so that its id given out again is not taken for it.
        pid_space: Where the process id counts, as two containers may share a host name. Lease form: where the id of
            the run does, as two orchestrators may share an instance; ``None`` if that is not known.
    """

    run_id: str
    host: str
    pid: int | None = None
    process_started: float | None = None
    pid_space: str | None = None

    @classmethod
    def this_process(cls, run_id: str) -> Owner:
        """The session form: the run ends when this process does.

        Args:
            run_id: The id of the run.

        Returns:
            The owner.
        """
        pid = os.getpid()
        return cls(run_id, socket.gethostname(), pid, process_started(pid), pid_space())

    @classmethod
    def of_run(cls, run_id: str, orchestrator: str | None = None) -> Owner:
        """The lease form: the run outlives this process.

        Args:
            run_id: The id of the run.
            orchestrator: Which orchestrator knows the run.

        Returns:
            The owner.
        """
        return cls(run_id, socket.gethostname(), pid_space=orchestrator)

    @property
    def is_local(self) -> bool:
        """Whether this process could see the owner's process (session form only)."""
        if self.pid is None or os.name == "nt" or self.host != socket.gethostname():
            return False
        return self.pid_space is None or self.pid_space == pid_space()

    @property
    def is_dead(self) -> bool:
        """Whether the owner's process is certainly gone; ``False`` where that cannot be known."""
        return self.pid is not None and self.is_local and process_is_gone(self.pid, self.process_started)

    def describe(self) -> str:
        """The owner in words.

        Returns:
            ``run local:… on host h (pid 12)``.
        """
        process = f" (pid {self.pid})" if self.pid is not None else ""
        return f"run {self.run_id} on host {self.host}{process}"


def in_words(owner: Owner, *, since: float, heartbeat: float, now: float) -> str:
    """Say who has a stage or waits for it.

    Args:
        owner: The owner.
        since: Since when.
        heartbeat: When it was heard of last.
        now: The present time.

    Returns:
        ``run local:… on host h (pid 12), since 2026-01-31 12:00:00 UTC, last heartbeat 3 s ago``.
    """
    began = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{owner.describe()}, since {began}, last heartbeat {max(0, round(now - heartbeat))} s ago"


def how_to_free(stage: str) -> str:
    """Say what a person can do about the run that holds a stage; every refusal ends with it.

    Args:
        stage: The name of the stage.

    Returns:
        The commands.
    """
    return (
        "Look at it with: pipedag-airflow locks; if that run is gone, free the stage with: "
        f"pipedag-airflow locks break {shlex.quote(stage)}"
    )


@attrs.frozen
class Lease:
    """The one record of who holds a stage.

    Args:
        stage: The name of the stage.
        owner: Who holds it.
        token: Grows with every change of the holder.
        since: When the holder took it, in seconds since 1970, like the other times.
        heartbeat: When the holder last renewed it.
        expires: Until when it counts without another renewal.
    """

    stage: str
    owner: Owner
    token: int
    since: float
    heartbeat: float
    expires: float

    def describe(self, now: float) -> str:
        """The holder in words.

        Args:
            now: The present time.

        Returns:
            ``run local:… on host h (pid 12), since 2026-01-31 12:00:00 UTC, last heartbeat 3 s ago``.
        """
        return in_words(self.owner, since=self.since, heartbeat=self.heartbeat, now=now)

    def is_silent(self, now: float) -> bool:
        """Whether its run counts as over for whoever has nobody to ask.

        Args:
            now: The present time.

        Returns:
            Whether nothing was heard of it for sixty times as long as a renewal counts: each step renews it for as long
            as it works, so none was at work.
        """
        return now - self.heartbeat > _SILENT * (self.expires - self.heartbeat)

    def abandoned(self, now: float) -> bool:
        """Whether the record alone shows that its run is over.

        Args:
            now: The present time.

        Returns:
            Session form: whether the process is dead or, where it cannot be seen from here, has not renewed in time.
            Lease form: always ``False``; an expired lease of a living run is slow, and only the orchestrator knows.
        """
        if self.owner.pid is None:
            return False
        return self.owner.is_dead if self.owner.is_local else now > self.expires


@attrs.frozen
class Place:
    """Where somebody stands who waits for a stage.

    Args:
        since: When the waiting began.
        first: Whether nobody comes before.
        holder: The lease of the run that has the stage; ``None`` when nobody has it who lives.
        keeps: The stages that will not be free before whoever waits has had this one.
        deadlock: When runs wait for each other in a circle, and this one has to give up: who waits for whom.
        token: The token of the last lease of the stage, by which two places of one name can be told apart.
    """

    since: float
    first: bool
    holder: Lease | None
    keeps: tuple[str, ...] = ()
    deadlock: str | None = None
    token: int = 0


class LockState(Enum):
    """What a run may assume about a stage.

    ``UNLOCKED`` nobody holds it; ``LOCKED`` we do; ``UNCERTAIN`` we did, and it was not renewed in time or the store
    cannot be reached; ``INVALID`` we have lost it.
    """

    UNLOCKED = 0
    LOCKED = 1
    UNCERTAIN = 2
    INVALID = 3


Listener = Callable[[str, LockState, LockState], None]
"""Called with the stage, the old and the new state."""


def never(lease: Lease) -> bool:
    """The ``is_over`` of a caller who cannot know whether another run has ended.

    Args:
        lease: The lease of that run.

    Returns:
        ``False``.
    """
    del lease
    return False
