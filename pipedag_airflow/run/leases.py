"""Who holds which stage, for a person to read; and taking a stage away from a run that will not give it back."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipedag_airflow.backend.lock import Owner
from pipedag_airflow.backend.metadata import GenerationState
from pipedag_airflow.errors import StageBusyError, StageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipedag_airflow.backend.lock import Lease, LockManager
    from pipedag_airflow.backend.metadata import MetadataRepository
    from pipedag_airflow.config import ConfigContext

__all__ = ["borrow", "break_lease", "list_leases"]


@contextmanager
def borrow(config: ConfigContext, stage: str, purpose: str) -> Iterator[Owner]:
    """Hold a stage within the block for work that is no run of a flow; nobody is waited for.

    Args:
        config: The configuration of the instance.
        stage: Name of the stage.
        purpose: What the stage is needed for, which whoever wants it meanwhile is told.

    Raises:
        StageBusyError: if a run holds the stage, or waits for it; the message names it.
    """
    locks: LockManager = config.lock_manager
    owner = Owner.this_process(f"{purpose}:{uuid.uuid4()}")
    seconds = float(config.lease_seconds)
    try:
        lease = locks.acquire(stage, owner, seconds=seconds)
    except StageBusyError:
        locks.withdraw(stage, owner)
        raise
    try:
        with locks.keep_alive(stage, owner, seconds=seconds, lease=lease), config.table_store.kept_open():
            yield owner
    finally:
        locks.release(stage, owner)


def list_leases(config: ConfigContext) -> list[str]:
    """Return a line for each stage that is held: by whom, since when, and the last sign of life.

    Args:
        config: The configuration of the instance.
    """
    locks: LockManager = config.lock_manager
    leases, now = locks.leases(), locks.now()
    with config.table_store.transaction() as transaction:
        return [_line(lease, now, transaction.metadata) for lease in leases]


def _line(lease: Lease, now: float, metadata: MetadataRepository) -> str:
    left = round(lease.expires - now)
    time_left = f"expires in {left} s" if left >= 0 else f"expired {-left} s ago"
    newest = metadata.latest_generation(lease.stage, lease.owner.run_id)
    is_open = newest is not None and newest.state is GenerationState.OPEN
    generation = f", generation {newest.number}" if newest is not None and is_open else ""
    return f"{lease.stage}: {lease.describe(now)}, {time_left}{generation}"


def break_lease(config: ConfigContext, stage: str) -> str:
    """Take a stage away from the run that holds it, dead or alive.

    First the door is shut: what the run has open can no longer be published, and a step that is still at work learns it
    from the fence. Then the lease goes, and the next run may begin.

    Args:
        config: The configuration of the instance.
        stage: Name of the stage.

    Returns:
        What was done, for the person who asked for it.

    Raises:
        StageError: if nobody holds the stage; the message names those that are held.
        LockError: if the lease cannot be read or changed.
    """
    locks: LockManager = config.lock_manager
    lease = locks.holder(stage)
    if lease is None:
        held = ", ".join(lease.stage for lease in locks.leases()) or "none"
        raise StageError(f"Stage {stage!r} is held by nobody: there is no lease to break. Held are: {held}.")
    with config.table_store.transaction() as transaction:
        number = transaction.metadata.shut_out(stage, lease.owner.run_id)
    locks.release(stage, lease.owner)
    fate = "It had no generation open." if number is None else f"Its generation {number} cannot be published any more."
    return f"Stage {stage!r} was taken from {lease.describe(locks.now())}. {fate} The next run may begin the stage."
