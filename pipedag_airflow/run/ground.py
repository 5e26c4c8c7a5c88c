"""What must still be so when a step has something to store, or has stored it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pipedag_airflow.backend.metadata import GenerationState
from pipedag_airflow.errors import PipedagError

if TYPE_CHECKING:
    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.run.session import RunSession
    from pipedag_airflow.run.snapshot import Snapshot

__all__ = ["GroundMovedError", "check_inputs", "check_open", "inputs_moved"]

log = logging.getLogger(__name__)


class GroundMovedError(Exception):
    """Somebody published a stage that was read, or the stage itself, meanwhile; nothing was stored."""


def check_open(transaction: SQLTransaction, snapshot: Snapshot) -> None:
    """Check that another step of the run has not closed the generation: nothing may change in what readers see.

    To be called after the fence was checked, which keeps others from closing it until the end of the transaction.

    Raises:
        GroundMovedError: if the generation is no longer open.
    """
    newest = transaction.metadata.latest_generation(snapshot.stage)
    if newest is not None and newest.state is not GenerationState.OPEN:
        raise GroundMovedError(f"generation {newest.number} of stage {snapshot.stage!r} is {newest.state.value} by now")


def check_inputs(transaction: SQLTransaction, snapshot: Snapshot) -> None:
    """Check that what was read is still what is published.

    To be called after all has been read and stored: queries read when they are stored, and a name in the schema of a
    stage may mean another table after a publish.

    Raises:
        GroundMovedError: if an input was published anew since the snapshot.
    """
    pins = snapshot.pins()
    now = transaction.metadata.stages(pins)
    for stage, generation in pins.items():
        if now[stage].live != generation:
            raise GroundMovedError(
                f"stage {stage!r} was published meanwhile (generation {now[stage].live}, read was {generation})"
            )


def inputs_moved(session: RunSession, snapshot: Snapshot) -> GroundMovedError | None:
    """Return what :func:`check_inputs` would raise now: a task that failed may have read what does not belong together.

    If that cannot be seen, the task's own error matters more.
    """
    try:
        with session.store.transaction() as transaction:
            check_inputs(transaction, snapshot)
    except GroundMovedError as moved:
        return moved
    except PipedagError as error:
        log.warning(
            "Whether the inputs of stage %s are still those that were read is not known: %s", snapshot.stage, error
        )
    return None
