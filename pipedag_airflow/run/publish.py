"""``publish``: what a stage has made becomes visible, in one transaction.

The transaction is the tuple :data:`STEPS`, in its order. Each step is a crash point ``publish.<name>``, reached when
the step is done; a process that dies at any of them leaves what was visible before.
"""

from __future__ import annotations

import logging
from functools import cached_property, partial
from typing import TYPE_CHECKING

import attrs

from pipedag_airflow.backend.metadata import GenerationRecord, GenerationState, ObjectRecord, TaskRecord, TaskState
from pipedag_airflow.cache.decision import hash_inputs
from pipedag_airflow.errors import StageError, StaleRunError
from pipedag_airflow.run.crash import crash_point
from pipedag_airflow.run.emptied import described
from pipedag_airflow.run.garbage import collect_garbage
from pipedag_airflow.run.inputs import missing_inputs, resolve_arguments
from pipedag_airflow.run.locked import wait_for_readers
from pipedag_airflow.run.publication import Publication, tables_of
from pipedag_airflow.run.release import release_finished
from pipedag_airflow.run.snapshot import Snapshot, take_snapshot
from pipedag_airflow.run.switch import announce, link_blobs, log_changes, point_live, switch_tables
from pipedag_airflow.run.unchanged import is_unchanged

if TYPE_CHECKING:
    from pipedag_airflow.run.session import RunSession

__all__ = ["STEPS", "PublishReport", "publish"]

log = logging.getLogger(__name__)


@attrs.frozen
class PublishReport:
    """What publish did.

    Args:
        stage: Name of the stage.
        generation: The generation that readers see now; None for a stage without tasks.
        changed: Names of the tables that readers see anew.
        removed: Names of the tables that they no longer see.
        published: Whether anything was switched; False if the stage was unchanged, or published before.
        executed: Ids of the tasks that were executed.
        valid: Ids of those whose results were valid.
        tables: All tables and views that readers see; none if the stage was published before by this run.
    """

    stage: str
    generation: int | None
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    published: bool = False
    executed: tuple[str, ...] = ()
    valid: tuple[str, ...] = ()
    tables: tuple[ObjectRecord, ...] = attrs.field(default=(), repr=False)


@attrs.define(slots=False, kw_only=True)
class Commit(Publication):
    """The publish of what a run has made.

    Args:
        session: The run.
        unchanged: Whether the stage would look the same afterwards.
    """

    session: RunSession
    unchanged: bool = False

    @cached_property
    def snapshot(self) -> Snapshot:
        """What is there; read when all others who write to the generation are locked out."""
        nodes = self.session.plan.stage_by_name[self.stage].tasks
        return take_snapshot(self.session, self.transaction, self.stage, nodes)


def check_fence(commit: Commit) -> None:
    """Refuse if another run has taken the stage over; keep others out until the end of the transaction."""
    commit.transaction.metadata.check_fence(commit.stage, commit.number, alone=True)


def check_complete(commit: Commit) -> None:
    """Refuse if a task has no whole result in this generation, or one from other inputs than are here now."""
    snapshot, session = commit.snapshot, commit.session
    rows: dict[str, TaskRecord] = {}
    for node in session.plan.stage_by_name[commit.stage].tasks:
        row = snapshot.own_row(node)
        if row is None or not row.state.has_output:
            state = "was not run" if row is None else f"is {row.state.value}"
            raise StageError(
                f"Stage {commit.stage!r} cannot be published: task {node!r} {state} in generation "
                f"{commit.number}. Run it (in Airflow: clear it too), then publish again. Readers see generation "
                f"{snapshot.live} as before."
            )
        _check_inputs(commit, node, row)
        _check_rows(commit, row)
        rows[node] = row
    commit.live, commit.live_rows, commit.rows = snapshot.live, snapshot.live_rows(), rows
    commit.unchanged = is_unchanged(rows, snapshot)


def _check_inputs(commit: Commit, node: str, row: TaskRecord) -> None:
    snapshot = commit.snapshot
    task = commit.session.flow.tasks[node]
    if not missing_inputs(task, snapshot):
        arguments = resolve_arguments(task, snapshot)
        if hash_inputs(arguments, f"Task {node!r}", commit.session.classes) == row.input_hash:
            return
    raise StageError(
        f"Stage {commit.stage!r} cannot be published: task {node!r} was made from inputs that were made anew "
        f"since. Run it again (in Airflow: clear it too). Readers see generation {snapshot.live} as before."
    )


def _check_rows(commit: Commit, row: TaskRecord) -> None:
    for stored in row.objects:
        if commit.snapshot.inventory.is_emptied(stored):
            raise StageError(
                f"Stage {commit.stage!r} cannot be published: task {row.node!r} has {described(stored)} since. Run the "
                f"task again (in Airflow: clear it too), then publish again. Readers see generation "
                f"{commit.snapshot.live} as before."
            )


def switch(commit: Commit) -> None:
    """Let readers see the tables of this generation; say so if those of another flow leave."""
    switch_tables(commit)
    if commit.removed:
        _warn_of_other_flow(commit)


def _warn_of_other_flow(commit: Commit) -> None:
    """Say so if the tables that leave are another flow's: two flows with a stage of one name replace each other's."""
    ours = commit.session.plan.flow
    other = commit.transaction.metadata.flow_of(commit.stage, commit.live or 0)
    if other is not None and other != ours:
        log.warning(
            "Stage %s was published by flow %r before; flow %r replaces it, and the tables %s are gone. If that is not "
            "what you want, rename the stage in one of the flows, or give each flow an instance in pipedag.yaml.",
            commit.stage,
            other,
            ours,
            ", ".join(commit.removed),
        )


#: The publish transaction.
STEPS = (check_fence, check_complete, switch, point_live, announce)


def publish(session: RunSession, stage: str) -> PublishReport:
    """Publish a stage; idempotent. If it would look the same afterwards, what is live stays live.

    Raises:
        StageError: if a task of the stage has no valid result.
        StaleRunError: if this run lost the stage.
        StageBusyError: if another run holds it.
        StoreError: if readers hold what is replaced for longer than ``commit_wait_seconds``, or others have built on it
            what cannot be made to read the new tables.
    """
    tasks = session.plan.stage_by_name[stage].tasks
    if not tasks:
        return PublishReport(stage, None)
    with session.holding(stage):
        session.confirm_lease(stage)
        newest, commit = wait_for_readers(session.config, stage, partial(_switch, session, stage))
        crash_point("publish.committed")
        if commit is not None:
            if not commit.unchanged:
                link_blobs(commit)
            collect_garbage(session.config, stage)
    release_finished(session)
    return _report(stage, newest, commit)


def _switch(session: RunSession, stage: str, waits: bool) -> tuple[GenerationRecord, Commit | None]:
    """Run the transaction; return this run's generation, and what was done unless it was over before."""
    with session.store.transaction() as transaction:
        transaction.lock(f"publish of {stage}")
        metadata = transaction.metadata
        newest = metadata.latest_generation(stage, session.run_id)
        if newest is not None and newest.state in (GenerationState.PUBLISHED, GenerationState.UNCHANGED):
            return newest, None
        if newest is None or newest.state is not GenerationState.OPEN:
            if metadata.latest_generation(stage) is not None:
                metadata.check_fence(stage, -1 if newest is None else newest.number)
            raise StaleRunError(f"Stage {stage!r} was never begun by run {session.run_id!r}: begin it first.")
        commit = Commit(
            config=session.config,
            transaction=transaction,
            run_id=session.run_id,
            stage=stage,
            number=newest.number,
            waits=waits,
            session=session,
        )
        for step in STEPS:
            step(commit)
            crash_point(f"publish.{step.__name__}")
            if commit.unchanged:
                metadata.close_generation(stage, commit.number, GenerationState.UNCHANGED)
                break
        return newest, commit


def _report(stage: str, newest: GenerationRecord, commit: Commit | None) -> PublishReport:
    if commit is None:
        log.info("Stage %s: was finished before by this run (generation %s)", stage, newest.number)
        return PublishReport(stage, newest.number)
    tables = tuple(tables_of(commit.rows.values()).values())
    executed = tuple(node for node, row in commit.rows.items() if row.state is TaskState.EXECUTED)
    valid = tuple(node for node in commit.rows if node not in executed)
    log.info("Stage %s: executed: %s", stage, ", ".join(executed) or "none")
    log.info("Stage %s: valid: %s", stage, ", ".join(valid) or "none")
    if commit.unchanged:
        log.info("Stage %s: everything was valid, generation %s stays", stage, commit.live)
        return PublishReport(stage, commit.live, executed=executed, valid=valid, tables=tables)
    log_changes(commit)
    changed, removed = tuple(commit.changed), tuple(commit.removed)
    return PublishReport(stage, commit.number, changed, removed, True, executed, valid, tables)
