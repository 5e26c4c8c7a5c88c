"""``rollback``: what readers saw of a stage before is what they see again.

It is a publish like any other, of a new generation whose objects are those of an old one: nothing is copied, and the
generation that it replaces can be brought back in the same way. The transaction is the tuple :data:`STEPS`, in its
order; each step is a crash point ``rollback.<name>``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs

from pipedag_airflow.backend.metadata import TaskRecord, TaskState
from pipedag_airflow.cache.decision import Reason
from pipedag_airflow.errors import StageError
from pipedag_airflow.run.crash import crash_point
from pipedag_airflow.run.garbage import collect_garbage
from pipedag_airflow.run.history import History, PastGeneration, read_history
from pipedag_airflow.run.leases import borrow
from pipedag_airflow.run.locked import wait_for_readers
from pipedag_airflow.run.publication import Publication
from pipedag_airflow.run.switch import announce, link_blobs, log_changes, point_live, switch_tables

if TYPE_CHECKING:
    from pipedag_airflow.backend.lock import Owner
    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.config import ConfigContext

__all__ = ["STEPS", "RollbackReport", "rollback"]


@attrs.frozen
class RollbackReport:
    """What a rollback did.

    Args:
        stage: Name of the stage.
        generation: The generation that readers see now.
        restored: The generation whose tables, views and blobs these are.
        replaced: The generation that readers saw until now.
        changed: Names of the tables that readers see anew.
        removed: Names of the tables that they no longer see.
    """

    stage: str
    generation: int
    restored: int
    replaced: int | None
    changed: tuple[str, ...]
    removed: tuple[str, ...]

    def __str__(self) -> str:
        changed = f" Tables that changed: {', '.join(self.changed)}." if self.changed else ""
        removed = f" Tables that are gone: {', '.join(self.removed)}." if self.removed else ""
        return (
            f"Stage {self.stage!r}: readers see generation {self.restored} again, as generation {self.generation}, "
            f"and generation {self.replaced} no longer.{changed}{removed}"
        )


@attrs.define(slots=False, kw_only=True)
class Rollback(Publication):
    """The publish of an old generation.

    Args:
        old: The old generation.
    """

    old: PastGeneration


def take_over_rows(rollback: Rollback) -> None:
    """Let the new generation have what the old one has: what the next runs decide by, and where everything is."""
    rollback.rows = {node: _restored(row, rollback.number) for node, row in rollback.old.rows.items()}
    rollback.transaction.metadata.write_tasks(list(rollback.rows.values()))


def _restored(row: TaskRecord, number: int) -> TaskRecord:
    return attrs.evolve(
        row,
        generation=number,
        state=TaskState.VALID,
        reason=Reason.ROLLED_BACK.value,
        detail=f"as in generation {row.generation}",
        revision=0,
        seconds=None,
        objects=tuple(attrs.evolve(stored, generation=number) for stored in row.objects),
    )


#: The rollback transaction, once its generation is open.
STEPS = (take_over_rows, switch_tables, point_live, announce)


def rollback(config: ConfigContext, stage: str, to: int | None = None) -> RollbackReport:
    """Publish an old generation of a stage again, as a new one.

    Afterwards decisions are those of the old generation: tasks whose code and inputs are those of then are valid.
    Other stages stay as they are.

    Args:
        config: The configuration of the instance.
        stage: Name of the stage.
        to: Number of the old generation; None for the newest restorable one before that which readers see.

    Raises:
        StageBusyError: if a run holds the stage; the message names it.
        StageError: if the stage or the generation cannot be restored; the message says which ones can.
        StoreError: if readers hold what is replaced for longer than ``commit_wait_seconds``, or others have built on it
            what cannot be made to read the old tables.
    """
    with borrow(config, stage, "rollback") as owner:
        done = wait_for_readers(config, stage, partial(_switch, config, owner, stage, to))
        crash_point("rollback.committed")
        log_changes(done)
        link_blobs(done)
        collect_garbage(config, stage)
    return RollbackReport(stage, done.number, done.old.number, done.live, tuple(done.changed), tuple(done.removed))


def _switch(config: ConfigContext, owner: Owner, stage: str, to: int | None, waits: bool) -> Rollback:
    with config.table_store.transaction() as transaction:
        transaction.lock(f"publish of {stage}")
        publication = _open(config, transaction, owner, stage, to)
        publication.waits = waits
        crash_point("rollback.open")
        for step in STEPS:
            step(publication)
            crash_point(f"rollback.{step.__name__}")
        return publication


def _open(config: ConfigContext, transaction: SQLTransaction, owner: Owner, stage: str, to: int | None) -> Rollback:
    """Choose the old generation, and open the new one; this keeps all others out until the transaction ends."""
    history = read_history(config, transaction, stage)
    old = _choose(history, to, config.generations_to_keep)
    assert history.live is not None, "what is restorable was published, and something is live since"
    holder = f"{owner.host}, process {owner.pid}"
    transaction.metadata.note_same_plan(owner.run_id, old.record.run_id, engine="rollback")
    opened = transaction.metadata.open_generation(stage, owner.run_id, holder, restores=old.number)
    return Rollback(
        config=config,
        transaction=transaction,
        run_id=owner.run_id,
        stage=stage,
        number=opened.number,
        live=history.live.number,
        live_rows=history.live.rows,
        old=old,
    )


def _choose(history: History, to: int | None, keep: int) -> PastGeneration:
    restorable = history.restorable
    if to is None:
        before = [one for one in restorable if history.live is not None and one.number < history.live.number]
        if before:
            return before[-1]
        problem = f"There is no generation of stage {history.stage!r} to go back to."
    else:
        chosen = next((one for one in restorable if one.number == to), None)
        if chosen is not None:
            return chosen
        problem = f"Generation {to} of stage {history.stage!r} cannot be restored: {_why_not(history, to, keep)}."
    numbers = ", ".join(str(one.number) for one in restorable)
    raise StageError(f"{problem} Restorable are: {numbers or 'none'}. Readers see what they saw before.")


def _why_not(history: History, to: int, keep: int) -> str:
    past = next((one for one in history.past if one.number == to), None)
    if past is not None and past.live:
        return "it is what readers see"
    if past is not None:
        dropped = [f"somebody has dropped {', '.join(past.lost)}"] * bool(past.lost)
        emptied = [f"a crash of the server has emptied {', '.join(past.emptied)} (unlogged)"] * bool(past.emptied)
        return ", and ".join(dropped + emptied)
    other = next((record for record in history.others if record.number == to), None)
    if other is not None:
        return f"it was never published, it is {other.state.value}"
    if to in history.gone:
        return f"it is gone, only the last {keep} published generations are kept (generations_to_keep)"
    return "there never was one"
