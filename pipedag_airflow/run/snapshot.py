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

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.run.session import RunSession

__all__ = ["Snapshot", "location_of", "take_snapshot"]


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
        existing: The tables and views that are there, by (schema, name).
        published: The generations of the stages around this one that were ever published.
    """

    session: RunSession
    stage: str
    stages: Mapping[str, StageRecord]
    runs_generations: Mapping[str, GenerationRecord]
    rows: dict[tuple[str, int, str], TaskRecord]
    existing: set[tuple[str, str]]
    published: frozenset[tuple[str, int]] = frozenset()

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

    def visible_generation(self, stage: str) -> int | None:
        """Return the generation of a stage that this stage's tasks read.

        Of the stage itself, and of the stages around it, that is the one this run has open; of all others the one that
        is published.
        """
        around = stage == self.stage or self.session.plan.is_inside(self.stage, stage)
        if around and stage in self.open_generations:
            return self.open_generations[stage]
        return self.stages[stage].live if stage in self.stages else None

    def pins(self) -> dict[str, int | None]:
        """Return the published generation of each other stage that was read: what must still be so when we store."""
        return {
            stage: record.live
            for stage, record in self.stages.items()
            if stage != self.stage and self.visible_generation(stage) == record.live
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

    def hide(self, node: str) -> None:
        """Take the row of a node out of the open generation."""
        row = self.rows.pop((self.stage, self.generation.number, node), None)
        if row is None:
            return
        self.candidates.remove(row)
        for stored in row.objects:
            if stored.node == node:
                self._objects.pop(_key(stored), None)

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
        number = self.visible_generation(planned.stage)
        row = self.rows.get((planned.stage, number, node)) if number is not None else None
        if row is not None and row.state.has_output and row.position == planned.position:
            return row
        same_place = (
            other
            for other in self.rows.values()
            if (other.stage, other.generation, other.position) == (planned.stage, number, planned.position)
        )
        return next((other for other in same_place if other.state.has_output), None)

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
        if stored.kind is ObjectKind.TABLE:
            return (str(stored.container), str(stored.location)) in self.existing
        if stored.kind is ObjectKind.BLOB:
            return self.session.blobs.exists(str(stored.location))
        return True

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
    return TableLocation(stored.stage, stored.name, str(stored.container), str(stored.location), columns)


def take_snapshot(session: RunSession, transaction: SQLTransaction, stage: str, nodes: tuple[str, ...]) -> Snapshot:
    """Read what the given nodes of a stage need.

    Args:
        session: The run.
        transaction: An open transaction.
        stage: Name of the stage.
        nodes: Ids of the nodes that the step is about; their inputs are read with them.
    """
    plan, metadata = session.plan, transaction.metadata
    inputs = {source for node in nodes for source in plan.node_by_id[node].inputs}
    names = sorted({stage, *(plan.node_by_id[source].stage for source in inputs)})
    stages = metadata.stages(names)
    generations = {record.stage: record for record in metadata.generations(run_id=session.run_id)}
    tasks = metadata.read_tasks([(name, None) for name in names], nodes=inputs, own=stage)
    schemas = {str(stored.container) for task in tasks if task.stage == stage for stored in task.objects}
    existing = set(transaction.objects({session.store.schema(stage), *schemas} - {"None"}))
    published = {
        (record.stage, record.number)
        for name in plan.enclosing(stage)
        for record in metadata.generations(stage=name)
        if record.state is GenerationState.PUBLISHED
    }
    rows = {(task.stage, task.generation, task.node): task for task in tasks}
    snapshot = Snapshot(session, stage, stages, generations, rows, existing, frozenset(published))
    assert snapshot.states is not None  # known before decisions add rows
    return snapshot
