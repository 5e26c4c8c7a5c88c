"""What one step of a run reads from the metadata: one look, a constant number of statements."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.backend.metadata import (
    GenerationRecord,
    GenerationState,
    ObjectKind,
    ObjectRecord,
    StageRecord,
    TaskRecord,
    TaskState,
)
from pipedag_airflow.backend.table.sql.facts import Column, TableLocation
from pipedag_airflow.core.containers import Blob, RawSql, Stored, Table
from pipedag_airflow.core.values import Decoder
from pipedag_airflow.errors import CacheError
from pipedag_airflow.run.candidates import Candidates
from pipedag_airflow.run.inventory import Inventory, take_inventory
from pipedag_airflow.run.release import FINISHED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipedag_airflow.backend.metadata import MetadataRepository
    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.run.session import RunSession

__all__ = ["Snapshot", "location_of", "snapshot_ahead", "take_snapshot"]


@attrs.define(slots=False)
class Snapshot:
    """The state of a stage and of all that its tasks read.

    Args:
        session: The run.
        stage: Name of the stage.
        stages: The rows of the stage and of those that it reads.
        runs_generations: The generations of this run, the newest of each stage.
        rows: Task rows by stage, generation and node: of the stage all that a decision may look at, of other stages
            those that are inputs.
        inventory: The tables and views of the stage that are there, and what a crash has emptied.
        published: The generations of the stages around this one that were ever published.
        reopened: Whether the run had been over with the stage before it opened the present generation.
    """

    session: RunSession
    stage: str
    stages: Mapping[str, StageRecord]
    runs_generations: Mapping[str, GenerationRecord]
    rows: dict[tuple[str, int, str], TaskRecord]
    inventory: Inventory
    published: frozenset[tuple[str, int]] = frozenset()
    reopened: bool = False

    @property
    def generation(self) -> GenerationRecord:
        """The generation of the stage that this run has open."""
        return self.runs_generations[self.stage]

    @property
    def live(self) -> int | None:
        """The generation of the stage that readers see."""
        return self.stages[self.stage].live

    @cached_property
    def states(self) -> dict[str, TaskState]:
        """The states that the nodes of the open generation had when the snapshot was taken."""
        own = (self.stage, self.generation.number)
        return {row.node: row.state for row in self.rows.values() if (row.stage, row.generation) == own}

    @cached_property
    def open_generations(self) -> dict[str, int]:
        """The generations that this run has open, by stage."""
        return {
            stage: generation.number
            for stage, generation in self.runs_generations.items()
            if generation.state is GenerationState.OPEN
        }

    @cached_property
    def _objects(self) -> dict[tuple[str, int, ObjectKind, str], ObjectRecord]:
        return {_key(stored): stored for row in self.rows.values() for stored in row.objects}

    def visible_generation(self, node: str) -> int | None:
        """Return the generation in which this stage's tasks read the result of a node.

        Of the stage itself, and of the stages around it, that is the one this run has open; of all others the one that
        is published, unless this run will not publish what it selects of them. What it does not select is always read
        as it is published.
        """
        stage = self.session.plan.node_by_id[node].stage
        own = self._read_before_publish(stage) if node in self.session.selection.tasks else None
        if own is not None:
            return own
        return self.stages[stage].live if stage in self.stages else None

    def _read_before_publish(self, stage: str) -> int | None:
        """Return this run's generation of a stage if this stage's tasks read it although it is not published."""
        plan, own = self.session.plan, self.runs_generations.get(stage)
        if own is None:
            return None
        if stage == self.stage or plan.is_inside(self.stage, stage):
            return self.open_generations.get(stage)
        unpublished = self.session.selection.is_unpublished(plan.stage_by_name[stage])
        return own.number if unpublished and own.state is not GenerationState.UNCHANGED else None

    def pins(self) -> dict[str, int | None]:
        """Return the published generation of each other stage that was read: what must still be so when we store."""
        return {
            stage: record.live
            for stage, record in self.stages.items()
            if stage != self.stage and self._read_before_publish(stage) is None
        }

    @cached_property
    def candidates(self) -> Candidates:
        """The rows of the stage whose results may still be valid, the best first.

        Those are the rows of the open generation, of the published one, and of abandoned ones after it: what a run that
        died had finished is not done again. Left out is what was made from data of an enclosing stage that were never
        published.
        """
        usable = self.published | set(self.open_generations.items())
        rows = [row for row in self.rows.values() if row.stage == self.stage and row.state.has_output]
        current = self.generation.number
        rows.sort(key=lambda row: (row.generation != current, row.generation != self.live, -row.generation))
        return Candidates(row for row in rows if usable.issuperset(row.reads_open))

    def add(self, row: TaskRecord) -> None:
        """Let a row of the open generation be seen by what is decided next."""
        self.hide(row.node)
        self.rows[row.stage, row.generation, row.node] = row
        self._objects.update({_key(stored): stored for stored in row.objects})
        self.candidates.add(row)

    def add_made(self, row: TaskRecord) -> None:
        """Let what a step has made be seen as if it was read now."""
        self.add(row)
        self.inventory.add(row.objects)

    def with_rows(self, rows: Iterable[TaskRecord]) -> Snapshot:
        """Return what would be read now that these rows of the open generation were written."""
        written = {(row.stage, row.generation, row.node): row for row in rows}
        return attrs.evolve(self, rows=self.rows | written)

    def hide(self, node: str) -> None:
        """Take the row of a node out of the open generation."""
        row = self.rows.pop((self.stage, self.generation.number, node), None)
        if row is None:
            return
        self.candidates.remove(row)
        for stored in row.objects:
            if stored.node == node:
                self._objects.pop(_key(stored), None)

    def forget(self, nodes: set[str]) -> None:
        """Take the rows of nodes of other stages away, as if they had no results."""
        for key in [key for key in self.rows if key[0] != self.stage and key[2] in nodes]:
            del self.rows[key]

    def claimant(self, stored: ObjectRecord) -> ObjectRecord | None:
        """Return what has the kind and name of an object in the open generation already, if anything has."""
        return self._objects.get((self.stage, self.generation.number, stored.kind, stored.name))

    def live_rows(self) -> dict[str, TaskRecord]:
        """Return the rows of the stage's published generation by node."""
        place = (self.stage, self.live)
        return {row.node: row for row in self.rows.values() if (row.stage, row.generation) == place}

    def own_row(self, node: str) -> TaskRecord | None:
        """Return the row of a node of the stage in the open generation."""
        return self.rows.get((self.stage, self.generation.number, node))

    def output_row(self, node: str) -> TaskRecord | None:
        """Return the row whose output the stage's tasks read, None while there is none."""
        planned = self.session.plan.node_by_id[node]
        number = self.visible_generation(node)
        place = planned.stage, number, planned.position, self.session.identity_names[node]

        def is_there(row: TaskRecord) -> bool:
            return row.state.has_output and (row.stage, row.generation, row.position, row.name) == place

        row = self.rows.get((planned.stage, number, node)) if number is not None else None
        if row is not None and is_there(row):
            return row
        return next(filter(is_there, self.rows.values()), None)

    def value(self, row: TaskRecord) -> Any:
        """Return the stored result of a task, with descriptors.

        Raises:
            CacheError: if there is none, or it needs a stage or class that the flow no longer has.
        """
        if row.output is None:
            raise CacheError(f"Task {row.node!r} has no result in generation {row.generation} of stage {row.stage!r}.")
        where = f"The stored result of task {row.node!r} in stage {row.stage!r}"
        return Decoder(row.generation, self.session.flow.stages, self.session.classes, where).load(row.output)

    def object(self, kind: ObjectKind, stored: Stored) -> ObjectRecord:
        """Return the record of a stored container.

        Raises:
            CacheError: if there is none.
        """
        key = (str(stored.stage), int(stored.generation or 0), kind, str(stored.name))
        if key not in self._objects:
            raise CacheError(
                f"The {kind.value} {stored.stage}.{stored.name} is not in generation {stored.generation} of its stage."
            )
        return self._objects[key]

    def is_intact(self, stored: ObjectRecord) -> bool:
        """Say whether what a record describes is still there."""
        return self.inventory.is_intact(stored)

    def has_rows(self, row: TaskRecord) -> bool:
        """Say whether a crash of the server has emptied none of the tables of a task."""
        return not any(self.inventory.is_emptied(stored) for stored in row.objects)

    def table_locations(self, value: Stored) -> dict[str, TableLocation]:
        """Return where the tables of a table or script are, by their names."""
        if isinstance(value, Table):
            return {str(value.name): location_of(self.object(ObjectKind.TABLE, value))}
        assert isinstance(value, RawSql)
        return {name: location_of(self.object(ObjectKind.TABLE, value.table(name))) for name in value.table_names}

    def blob_location(self, value: Blob[Any]) -> str:
        """Return where a blob is."""
        return str(self.object(ObjectKind.BLOB, value).location)


def _key(stored: ObjectRecord) -> tuple[str, int, ObjectKind, str]:
    return stored.stage, stored.generation, stored.kind, stored.name


def location_of(stored: ObjectRecord) -> TableLocation:
    """Return where a stored table is, with its columns."""
    columns = tuple(Column(*column) for column in stored.facts["columns"])
    place = str(stored.container), str(stored.location)
    return TableLocation(
        stored.stage, stored.name, *place, columns, key=stored.cache_key, id=stored.facts.get("id"), rows=stored.rows
    )


def snapshot_ahead(session: RunSession, transaction: SQLTransaction, stage: str, nodes: tuple[str, ...]) -> Snapshot:
    """Read what the given nodes of a stage need, as if the next generation of the stage were open; see below."""
    record = transaction.metadata.stages([stage]).get(stage) or StageRecord(stage, live=None, fence=0)
    ahead = GenerationRecord(stage, record.fence + 1, session.run_id, "nobody", GenerationState.OPEN)
    return take_snapshot(session, transaction, stage, nodes, (record, ahead))


def take_snapshot(
    session: RunSession,
    transaction: SQLTransaction,
    stage: str,
    nodes: tuple[str, ...],
    ahead: tuple[StageRecord, GenerationRecord] | None = None,
) -> Snapshot:
    """Read what the given nodes of a stage need, and of each other stage what is of one publish.

    Args:
        session: The run.
        transaction: An open transaction.
        stage: Name of the stage.
        nodes: Ids of the nodes that the step is about; their inputs are read with them.
        ahead: The stage and its generation, where this run has none open.
    """
    plan, metadata = session.plan, transaction.metadata
    inputs = {source for node in nodes for source in plan.node_by_id[node].inputs}
    names = sorted({stage, *(plan.node_by_id[source].stage for source in inputs)})
    stages = metadata.stages(names)
    past = metadata.generations(run_id=session.run_id)
    reopened = any(record.stage == stage and record.state in FINISHED for record in past)
    generations = {record.stage: record for record in past}
    if ahead is not None:
        stages[stage], generations[stage] = ahead
    tasks = metadata.read_tasks([(name, None) for name in names], nodes=inputs, own=stage)
    own = [stored for task in tasks if task.stage == stage for stored in task.objects]
    others = [stored for task in tasks if task.stage != stage for stored in task.objects]
    inventory = take_inventory(session.config, transaction, stage, own, others)
    published = {
        (record.stage, record.number)
        for name in plan.enclosing(stage)
        for record in metadata.generations(stage=name)
        if record.state is GenerationState.PUBLISHED
    }
    rows = {(task.stage, task.generation, task.node): task for task in tasks}
    snapshot = Snapshot(session, stage, stages, generations, rows, inventory, frozenset(published), reopened)
    if _has_missed(snapshot, inputs, metadata):
        return take_snapshot(session, transaction, stage, nodes, ahead)
    assert snapshot.states is not None  # known before decisions add rows
    return snapshot


def _has_missed(snapshot: Snapshot, inputs: Iterable[str], metadata: MetadataRepository) -> bool:
    """Say whether inputs are not there because their stage was published after its row was read, and before theirs."""
    plan = snapshot.session.plan
    others = [node for node in inputs if plan.node_by_id[node].stage != snapshot.stage]
    missing = {plan.node_by_id[node].stage for node in others if snapshot.output_row(node) is None}
    known = {stage: record.live for stage, record in snapshot.stages.items()}
    now = metadata.stages(missing) if missing else {}
    return any(record.live != known.get(stage) for stage, record in now.items())
