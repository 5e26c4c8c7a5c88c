"""Runs that wait for each other in a circle, so that none of them would ever go on.

The ticket of a run that waits says what the run keeps until it has had what it waits for. Let each wait for a stage be
followed by the waits, if any, until which its holder keeps that stage.

    In a circle nobody ever goes on: each wait ends only after the next one.
    Without a circle somebody always goes on: follow the waits. As there are finitely many runs, that ends, with a
    stage whose holder does not keep it until it has had another one. So it gets its work on that stage done, and lets
    it go; then the first in the queue for it has it, and there is one wait less.

So runs wait for each other for ever if there is a circle, and only then. In each circle the youngest wait is given up.
Whichever circle of its own a run finds, the run whose wait is the youngest of all in circles sees that it is its turn.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipedag_airflow.backend.lock.lease import Lease, Owner
    from pipedag_airflow.backend.lock.stage_record import Ticket

__all__ = ["Wait", "find_circle", "told", "youngest"]


@attrs.frozen
class Wait:
    """A run that waits for a stage which another one has.

    Args:
        ticket: Who waits, and what it keeps meanwhile.
        lease: The stage that it waits for, and who has that.
    """

    ticket: Ticket
    lease: Lease

    @property
    def identity(self) -> tuple[str, int, str, float, tuple[str, ...]]:
        """What stays the same while this very run waits for that very lease."""
        ticket, lease = self.ticket, self.lease
        return lease.stage, lease.token, ticket.owner.run_id, ticket.since, ticket.keeps

    def lasts_until(self, other: Wait) -> bool:
        """Whether the stage is kept until the run of another wait has had what that waits for."""
        return self.lease.stage in other.ticket.keeps and _is_one(self.lease.owner, other.ticket.owner)


def _is_one(holder: Owner, waiting: Owner) -> bool:
    """Say whether two owners are one run, or runs of one process: it keeps what those of them have that ended."""
    if holder.run_id == waiting.run_id:
        return True
    return holder.pid is not None and attrs.evolve(holder, run_id=waiting.run_id) == waiting


def find_circle(waits: Sequence[Wait], stage: str, run_id: str) -> tuple[Wait, ...]:
    """Find a circle in which a run waits for a stage.

    Args:
        waits: All that wait.
        stage: The name of the stage.
        run_id: The id of the run.

    Returns:
        The waits, that of the run first, each followed by the one that it lasts for; none if there is no circle.
    """
    start = next((wait for wait in waits if (wait.lease.stage, wait.ticket.owner.run_id) == (stage, run_id)), None)
    paths: deque[tuple[Wait, ...]] = deque([] if start is None else [(start,)])
    seen: set[Wait] = set()
    while paths:
        path = paths.popleft()
        for wait in filter(path[-1].lasts_until, waits):
            if wait is start:
                return path
            if wait not in seen:
                seen.add(wait)
                paths.append((*path, wait))
    return ()


def youngest(circle: Iterable[Wait]) -> Wait:
    """Return the wait of a circle that began last: all runs agree that it has to end."""
    return max(circle, key=lambda wait: (wait.ticket.since, wait.ticket.owner.run_id))


def told(circle: Sequence[Wait], now: float) -> str:
    """Return a circle in words.

    Args:
        circle: The circle.
        now: The present time.
    """
    return "; ".join(
        f"run {wait.ticket.owner.run_id} waits for stage {wait.lease.stage!r} of {wait.lease.describe(now)}"
        for wait in circle
    )
