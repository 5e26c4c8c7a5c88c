"""``publish``: what a stage has made becomes visible, in one transaction.

The transaction is the tuple :data:`STEPS`, in its order. Each step is a crash point ``publish.<name>``, reached when
the step is done; a process that dies at any of them leaves what was visible before.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import attrs

from pipedag_airflow.backend.metadata import GenerationRecord, GenerationState, ObjectKind, ObjectRecord, TaskRecord
from pipedag_airflow.cache.decision import identify
from pipedag_airflow.errors import StageError, StaleRunError, StoreError
from pipedag_airflow.run.crash import crash_point
from pipedag_airflow.run.garbage import collect_garbage
from pipedag_airflow.run.inputs import missing_inputs, resolve_arguments
from pipedag_airflow.run.release import release_finished
from pipedag_airflow.run.snapshot import Snapshot, take_snapshot
from pipedag_airflow.run.unchanged import is_unchanged

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
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
    """

    stage: str
    generation: int | None
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    published: bool = False


@attrs.define
class Publication:
    """A publish in progress."""

    session: RunSession
    transaction: SQLTransaction
    snapshot: Snapshot
    rows: dict[str, TaskRecord] = attrs.field(factory=dict)
    before: dict[str, ObjectRecord] = attrs.field(factory=dict)
    after: dict[str, ObjectRecord] = attrs.field(factory=dict)
    changed: list[str] = attrs.field(factory=list)
    removed: list[str] = attrs.field(factory=list)
    unchanged: bool = False

    @property
    def stage(self) -> str:
        """Name of the stage."""
        return self.snapshot.stage

    @property
    def number(self) -> int:
        """Number of the generation."""
        return self.snapshot.generation.number


def check_fence(publication: Publication) -> None:
    """Refuse if another run has taken the stage over; keep others out until the end of the transaction."""
    publication.transaction.metadata.check_fence(publication.stage, publication.number)


def check_complete(publication: Publication) -> None:
    """Refuse if a task has no result in this generation, or one that was made from other inputs than are here now."""
    snapshot, session = publication.snapshot, publication.session
    for node in session.plan.stage_by_name[publication.stage].tasks:
        row = snapshot.own_row(node)
        if row is None or not row.state.has_output:
            state = "was not run" if row is None else f"is {row.state.value}"
            raise StageError(
                f"Stage {publication.stage!r} cannot be published: task {node!r} {state} in generation "
                f"{publication.number}. Run it (in Airflow: clear it too), then publish again. Readers see generation "
                f"{snapshot.live} as before."
            )
        _check_inputs(publication, node, row)
        publication.rows[node] = row
    publication.unchanged = is_unchanged(publication.rows, snapshot)


def _check_inputs(publication: Publication, node: str, row: TaskRecord) -> None:
    snapshot, session = publication.snapshot, publication.session
    task = session.flow.tasks[node]
    if not missing_inputs(task, snapshot):
        arguments = resolve_arguments(task, snapshot)
        name = session.identity_names[node]
        now = identify(task.unbound, name, arguments, f"Task {node!r}", row.cache_function_hash or "")
        if now.input_hash == row.input_hash:
            return
    raise StageError(
        f"Stage {publication.stage!r} cannot be published: task {node!r} was made from inputs that were made anew "
        f"since. Run it again (in Airflow: clear it too). Readers see generation {snapshot.live} as before."
    )


def switch_views(publication: Publication) -> None:
    """Point what readers see to the tables of this generation; tables that did not change are not touched."""
    snapshot, transaction = publication.snapshot, publication.transaction
    schema = publication.session.store.schema(publication.stage)
    publication.before = _tables(snapshot.live_rows().values())
    publication.after = _tables(publication.rows.values())
    visible = set(transaction.objects([schema]))
    for name, table in sorted(publication.after.items()):
        same = name in publication.before and _place(publication.before[name]) == _place(table)
        if not same or (schema, name) not in visible:
            transaction.show(schema, name, *_place(table))
            publication.changed.append(name)
    for name in sorted(publication.before.keys() - publication.after.keys()):
        transaction.hide(schema, name)
        publication.removed.append(name)
    if publication.removed:
        _warn_of_other_flow(publication)


def _warn_of_other_flow(publication: Publication) -> None:
    """Say so if the tables that leave are another flow's: two flows with a stage of one name replace each other's."""
    snapshot, ours = publication.snapshot, publication.session.plan.flow
    other = publication.transaction.metadata.flow_of(publication.stage, snapshot.live or 0)
    if other is not None and other != ours:
        log.warning(
            "Stage %s was published by flow %r before; flow %r replaces it, and the tables %s are gone. If that is not "
            "what you want, rename the stage in one of the flows, or give each flow an instance in pipedag.yaml.",
            publication.stage,
            other,
            ours,
            ", ".join(publication.removed),
        )


def _tables(rows: Iterable[TaskRecord]) -> dict[str, ObjectRecord]:
    return {stored.name: stored for row in rows for stored in row.objects if stored.kind is ObjectKind.TABLE}


def _place(table: ObjectRecord) -> tuple[str, str]:
    return str(table.container), str(table.location)


def point_live(publication: Publication) -> None:
    """Make this generation the live one, for everything that asks the metadata."""
    metadata = publication.transaction.metadata
    metadata.close_generation(publication.stage, publication.number, GenerationState.PUBLISHED)
    metadata.point_live(publication.stage, publication.number)


def announce(publication: Publication) -> None:
    """Put what changed into the outbox."""
    payload = {"changed": publication.changed, "removed": publication.removed, "run_id": publication.session.run_id}
    publication.transaction.metadata.write_event(publication.stage, publication.number, payload)


#: The publish transaction.
STEPS = (check_fence, check_complete, switch_views, point_live, announce)


def publish(session: RunSession, stage: str) -> PublishReport:
    """Publish a stage; idempotent. If it would look the same afterwards, what is live stays live.

    Raises:
        StageError: if a task of the stage has no valid result.
        StaleRunError: if this run lost the stage.
        StageBusyError: if another run holds it.
    """
    tasks = session.plan.stage_by_name[stage].tasks
    if not tasks:
        return PublishReport(stage, None)
    with session.holding(stage):
        with session.store.transaction() as transaction:
            newest = transaction.metadata.latest_generation(stage, session.run_id)
            publication = _switch(session, transaction, stage, newest)
        crash_point("publish.committed")
        if publication is not None:
            if not publication.unchanged:
                _link_blobs(publication)
            collect_garbage(session, stage)
    release_finished(session)
    return _report(stage, newest, publication)


def _switch(
    session: RunSession, transaction: SQLTransaction, stage: str, newest: GenerationRecord | None
) -> Publication | None:
    if newest is not None and newest.state in (GenerationState.PUBLISHED, GenerationState.UNCHANGED):
        return None
    if newest is None or newest.state is not GenerationState.OPEN:
        transaction.metadata.check_fence(stage, -1 if newest is None else newest.number)
        raise StaleRunError(f"Stage {stage!r} was never begun by run {session.run_id!r}: begin it first.")
    publication = Publication(session, transaction, take_snapshot(session, transaction, stage, _nodes(session, stage)))
    for step in STEPS:
        step(publication)
        crash_point(f"publish.{step.__name__}")
        if publication.unchanged:
            transaction.metadata.close_generation(stage, publication.number, GenerationState.UNCHANGED)
            break
    return publication


def _nodes(session: RunSession, stage: str) -> tuple[str, ...]:
    return session.plan.stage_by_name[stage].tasks


def _link_blobs(publication: Publication) -> None:
    """Refresh the links at the documented places, for people who look there; a reader goes by the metadata."""
    blobs = publication.session.blobs
    for stored in (stored for row in publication.rows.values() for stored in row.objects):
        if stored.kind is not ObjectKind.BLOB:
            continue
        try:
            blobs.link(stage=publication.stage, name=stored.name, location=str(stored.location))
        except (StoreError, OSError) as error:
            log.warning("Stage %s: the link of blob %s was not refreshed: %s", publication.stage, stored.name, error)


def _report(stage: str, newest: GenerationRecord | None, publication: Publication | None) -> PublishReport:
    if publication is None:
        assert newest is not None
        log.info("Stage %s: was finished before by this run (generation %s)", stage, newest.number)
        return PublishReport(stage, newest.number)
    if publication.unchanged:
        log.info("Stage %s: everything was valid, generation %s stays", stage, publication.snapshot.live)
        return PublishReport(stage, publication.snapshot.live)
    log.info("Stage %s: published generation %s", stage, publication.number)
    for name in publication.changed:
        table = publication.after[name]
        log.info("Stage %s: table %s, %s rows, from %s", stage, name, table.rows, table.container)
    for name in publication.removed:
        log.info("Stage %s: table %s is gone", stage, name)
    changed, removed = tuple(publication.changed), tuple(publication.removed)
    return PublishReport(stage, publication.number, changed, removed, published=True)
