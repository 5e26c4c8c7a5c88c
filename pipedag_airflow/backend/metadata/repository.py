"""All statements on the metadata tables, within one transaction of the table store."""

from __future__ import annotations

import datetime as dt
import json
from itertools import groupby
from typing import TYPE_CHECKING, Any

import attrs
import sqlalchemy as sa

from pipedag_airflow.backend.metadata.outbox import Outbox
from pipedag_airflow.backend.metadata.records import (
    GenerationRecord,
    GenerationState,
    ObjectKind,
    ObjectRecord,
    StageRecord,
    TaskRecord,
    TaskState,
)
from pipedag_airflow.backend.metadata.rows import generation_of, object_of, row_of_object, row_of_task, task_of
from pipedag_airflow.backend.metadata.tables import METADATA_VERSION, MetadataTables
from pipedag_airflow.errors import ConfigError, StaleRunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pipedag_airflow.core.plan import Plan

__all__ = ["FencedError", "MetadataRepository"]


class FencedError(StaleRunError):
    """A generation may not write any more, as the metadata tell it; who holds the stage now, the locks know."""


#: SQL Server has hints in place of FOR SHARE and FOR UPDATE.
_SHARED, _ALONE = "WITH (ROWLOCK, HOLDLOCK)", "WITH (ROWLOCK, XLOCK, HOLDLOCK)"


@attrs.frozen
class MetadataRepository:
    """Reads and writes metadata rows on an open connection.

    Args:
        connection: A connection within a transaction; committing is the caller's.
        tables: The tables of the metadata schema.
        row_locks: Whether the database locks rows with SELECT … FOR SHARE.
        lock: Lets others who want the same name wait until the transaction ends.
        most_values: How many values a statement may have.
    """

    connection: sa.Connection
    tables: MetadataTables
    row_locks: bool = True
    lock: Callable[[str], None] = lambda name: None
    most_values: int = 65_535

    # --- set-up -----------------------------------------------------------------------------------------------------

    def setup(
        self, instance_id: str, is_there: Callable[[], bool], create_schema: Callable[[], None] | None = None
    ) -> None:
        """Create the metadata tables if they are not there, and check that they are ours.

        Args:
            instance_id: Whose they should be.
            is_there: Says whether they are there.
            create_schema: Creates their schema unless it is there; None if that is left to others.

        Raises:
            ConfigError: if the metadata belong to another instance, or were written by a newer release.
        """
        self.lock("set-up")
        if not is_there():
            if create_schema is not None:
                create_schema()
            # Nothing of it can be there: all is made in one transaction, so no table is looked for again.
            self.tables.all.create_all(self.connection, checkfirst=False)
        row = self.connection.execute(sa.select(self.tables.instance)).one_or_none()
        if row is None:
            created = {"instance_id": instance_id, "metadata_version": METADATA_VERSION, "created": _now()}
            self.connection.execute(sa.insert(self.tables.instance).values(created_by="pipedag_airflow", **created))
            return
        if row.instance_id != instance_id:
            raise ConfigError(
                f"The metadata schema {self.tables.schema!r} belongs to the instance {row.instance_id!r}, but this run "
                f"is of instance {instance_id!r}. Give each instance a database or a schema_prefix of its own."
            )
        if row.metadata_version > METADATA_VERSION:
            raise ConfigError(
                f"The metadata schema {self.tables.schema!r} has version {row.metadata_version}, written by a newer "
                f"release; this one knows version {METADATA_VERSION}. Upgrade pipedag-airflow here too."
            )

    # --- runs and generations ---------------------------------------------------------------------------------------

    def note_run(self, run_id: str, plan: Plan, engine: str) -> bool:
        """Record the run, or check that its plan is still the one it began with.

        Returns:
            Whether it begins with this.

        Raises:
            FlowChangedError: if the flow was changed since.
        """
        run = self.tables.run
        query = sa.select(run).where(run.c.run_id == run_id)
        row = self.connection.execute(query).one_or_none()
        if row is None:
            # Stages without inputs begin at once.
            self.lock(f"run {run_id}")
            row = self.connection.execute(query).one_or_none()
        if row is not None:
            if row.fingerprint != plan.fingerprint:
                plan.check_unchanged(row.fingerprint, json.loads(row.nodes))
            return False
        nodes = json.dumps([f"{node.id}@{node.position}" for node in plan.nodes])
        values = {"run_id": run_id, "flow": plan.flow, "fingerprint": plan.fingerprint, "nodes": nodes}
        self.connection.execute(sa.insert(run).values(engine=engine, started=_now(), **values))
        return True

    def stages(self, names: Iterable[str]) -> dict[str, StageRecord]:
        """Return the rows of the named stages that exist."""
        stage = self.tables.stage
        rows = self.connection.execute(sa.select(stage).where(stage.c.stage.in_(list(names))))
        return {row.stage: StageRecord(row.stage, row.live, row.fence) for row in rows}

    def all_stages(self) -> list[StageRecord]:
        """Return the rows of all stages, in the order in which they were first begun."""
        stage, generation = self.tables.stage, self.tables.generation
        first = sa.select(sa.func.min(generation.c.opened)).where(generation.c.stage == stage.c.stage).scalar_subquery()
        # A column of the result: Db2 orders by no query that depends on the row.
        begun = first.label("begun")
        rows = self.connection.execute(sa.select(stage, begun).order_by(begun, stage.c.stage))
        return [StageRecord(row.stage, row.live, row.fence) for row in rows]

    def note_same_plan(self, run_id: str, other: str, engine: str) -> None:
        """Record a run that has the flow and the plan of another one."""
        run = self.tables.run
        plan = [run.c.flow, run.c.fingerprint, run.c.nodes]
        same = sa.select(sa.literal(run_id), *plan, sa.literal(engine), sa.literal(_now())).where(run.c.run_id == other)
        names = ["run_id", *(column.name for column in plan), "engine", "started"]
        self.connection.execute(sa.insert(run).from_select(names, same))

    def open_generation(
        self, stage: str, run_id: str, holder: str, *, restores: int | None = None, above: int = 0
    ) -> GenerationRecord:
        """Open the next generation of a stage and shut the door behind all earlier ones.

        Args:
            stage: Name of the stage.
            run_id: The run that opens it.
            holder: Host and process.
            restores: The generation of the stage that it brings back, if it is one of a rollback.
            above: What the number is greater than, for a stage of which nothing is known.
        """
        generation, row = self.tables.generation, self.tables.stage
        record = self._fence(stage, alone=True)
        number = (record.fence if record else above) + 1
        if record is None:
            self.connection.execute(sa.insert(row).values(stage=stage, live=None, fence=number))
        else:
            self.connection.execute(sa.update(row).where(row.c.stage == stage).values(fence=number))
            self._abandon_open(stage)
        opened = _now()
        values = {"stage": stage, "number": number, "run_id": run_id, "holder": holder, "opened": opened}
        values |= {"state": GenerationState.OPEN.value, "dropped": False, "restores": restores}
        self.connection.execute(sa.insert(generation).values(**values))
        return GenerationRecord(stage, number, run_id, holder, GenerationState.OPEN, opened, restores=restores)

    def latest_generation(self, stage: str, run_id: str | None = None) -> GenerationRecord | None:
        """Return the newest generation of a stage, or the newest of one run."""
        generation = self.tables.generation
        query = sa.select(generation).where(generation.c.stage == stage)
        if run_id is not None:
            query = query.where(generation.c.run_id == run_id)
        row = self.connection.execute(query.order_by(generation.c.number.desc()).limit(1)).one_or_none()
        return None if row is None else generation_of(row)

    def generations(self, *, stage: str | None = None, run_id: str | None = None) -> list[GenerationRecord]:
        """Return generations, oldest first: those of a stage, of a run, or all."""
        generation = self.tables.generation
        query = sa.select(generation).order_by(generation.c.stage, generation.c.number)
        if stage is not None:
            query = query.where(generation.c.stage == stage)
        if run_id is not None:
            query = query.where(generation.c.run_id == run_id)
        return [generation_of(row) for row in self.connection.execute(query)]

    def flow_of(self, stage: str, number: int) -> str | None:
        """Return the name of the flow whose run opened a generation."""
        generation, run = self.tables.generation, self.tables.run
        query = (
            sa.select(run.c.flow)
            .join_from(generation, run, run.c.run_id == generation.c.run_id)
            .where(generation.c.stage == stage, generation.c.number == number)
        )
        return self.connection.execute(query).scalar_one_or_none()

    def flows(self, run_ids: Iterable[str]) -> dict[str, str]:
        """Return the name of the flow of each run."""
        run = self.tables.run
        query = sa.select(run.c.run_id, run.c.flow).where(run.c.run_id.in_(list(run_ids)))
        return {row.run_id: row.flow for row in self.connection.execute(query)}

    def runs_of(self, stage: str, numbers: Iterable[int]) -> dict[int, str]:
        """Return the id of the run that opened each generation of a stage, as far as it is known."""
        generation = self.tables.generation
        query = sa.select(generation.c.number, generation.c.run_id)
        query = query.where(generation.c.stage == stage, generation.c.number.in_(sorted(set(numbers))))
        return {row.number: row.run_id for row in self.connection.execute(query)}

    def check_fence(self, stage: str, number: int, *, alone: bool = False) -> StageRecord:
        """Check that a generation may still write, and lock out a take-over until the transaction ends.

        Args:
            stage: Name of the stage.
            number: Number of the generation.
            alone: Whether others who write to the generation are waited for and locked out, too.

        Raises:
            FencedError: if a later run has opened the stage; the message names it.
        """
        found = self._fence(stage, alone=alone)
        if found is not None and found.fence == number:
            return StageRecord(stage, found.live, found.fence)
        newest = self.latest_generation(stage)
        if newest is not None and newest.number == number:
            raise FencedError(
                f"Stage {stage!r} was taken from run {newest.run_id!r}: somebody broke its lease at {newest.closed}. "
                f"Generation {number} may no longer write or publish; nothing was changed. If the run is still wanted, "
                "start it again."
            )
        taken = "is gone from the metadata" if newest is None else f"was taken over by run {newest.run_id!r}"
        detail = "" if newest is None else f" ({newest.holder}, generation {newest.number}, since {newest.opened})"
        raise FencedError(
            f"Stage {stage!r} {taken}{detail}: generation {number} may no longer write or publish. Nothing was "
            "changed. Start a new run if this one is still wanted."
        )

    def _fence(self, stage: str, *, alone: bool) -> sa.Row[Any] | None:
        query = sa.select(self.tables.stage).where(self.tables.stage.c.stage == stage)
        if self.row_locks:
            query = query.with_for_update(read=not alone)
            query = query.with_hint(self.tables.stage, _ALONE if alone else _SHARED, "mssql")
        return self.connection.execute(query).one_or_none()

    def close_generation(self, stage: str, number: int, state: GenerationState) -> None:
        """Give a generation its final state."""
        generation = self.tables.generation
        this = (generation.c.stage == stage) & (generation.c.number == number)
        self.connection.execute(sa.update(generation).where(this).values(state=state.value, closed=_now()))

    def shut_out(self, stage: str, run_id: str) -> int | None:
        """Abandon the generation that a run has open, and shut the door behind it.

        Returns:
            The number of the generation; None if the run has none open.
        """
        newest = self.latest_generation(stage)
        if newest is None or newest.run_id != run_id or newest.state is not GenerationState.OPEN:
            return None
        row = self.tables.stage
        its_own = (row.c.stage == stage) & (row.c.fence == newest.number)
        # First the fence: it waits for a publish that has locked the row, and which is right to finish.
        self.connection.execute(sa.update(row).where(its_own).values(fence=newest.number + 1))
        return newest.number if self._abandon_open(stage) else None

    def _abandon_open(self, stage: str) -> bool:
        """Close what is open of a stage, and say whether there was anything."""
        generation = self.tables.generation
        left_open = (generation.c.stage == stage) & (generation.c.state == GenerationState.OPEN.value)
        closing = sa.update(generation).where(left_open)
        done = self.connection.execute(closing.values(state=GenerationState.ABANDONED.value, closed=_now()))
        return bool(done.rowcount)

    def point_live(self, stage: str, number: int) -> None:
        """Make a generation the one that readers see."""
        row = self.tables.stage
        self.connection.execute(sa.update(row).where(row.c.stage == stage).values(live=number))

    # --- tasks and objects ------------------------------------------------------------------------------------------

    def read_tasks(
        self,
        where: Sequence[tuple[str, int | None]],
        nodes: Iterable[str] | None = None,
        own: str | None = None,
        memo_key: str | None = None,
    ) -> list[TaskRecord]:
        """Read task rows with their objects, in one statement.

        Args:
            where: Pairs of stage and generation; None stands for the stage's live generation
                and those after it that may hold something new.
            nodes: Restrict to these nodes, except in stage ``own``.
            own: The stage whose rows are all read.
            memo_key: The call whose rows are read besides those of ``nodes``, whichever node made it.
        """
        task = self.tables.task
        places = [self._place(name, number) for name, number in where]
        if not places:
            return []
        query = self.tables.tasks_with_objects.where(sa.or_(*places))
        if nodes is not None:
            same_call = sa.false() if memo_key is None else task.c.memo_key == memo_key
            query = query.where(sa.or_(task.c.stage == own, task.c.node.in_(list(nodes)), same_call))
        rows = self.connection.execute(query).all()
        return [
            task_of(list(group)) for _, group in groupby(rows, key=lambda row: (row.stage, row.generation, row.node))
        ]

    def _place(self, name: str, number: int | None) -> sa.ColumnElement[bool]:
        task, stage, generation = self.tables.task, self.tables.stage, self.tables.generation
        if number is not None:
            return sa.and_(task.c.stage == name, task.c.generation == number)
        # What an unchanged generation has is a copy of the live one's.
        unchanged = sa.select(generation.c.number).where(
            generation.c.stage == name, generation.c.state == GenerationState.UNCHANGED.value
        )
        since = task.c.generation >= sa.func.coalesce(stage.c.live, 0)
        return sa.and_(task.c.stage == name, since, task.c.generation.not_in(unchanged))

    def write_tasks(self, records: Sequence[TaskRecord]) -> None:
        """Write task rows and their objects, replacing rows of the same generation and node."""
        if not records:
            return
        task, stored = self.tables.task, self.tables.object
        for table in (task, stored):
            owned = [
                sa.and_(table.c.stage == stage, table.c.generation == generation, table.c.node.in_(nodes))
                for (stage, generation), nodes in _nodes_by_generation(records).items()
            ]
            self.connection.execute(sa.delete(table).where(sa.or_(*owned)))
        self._insert(task, [row_of_task(record) for record in records])
        owners = [record for record in records if record.twin is None]
        self._insert(stored, [row_of_object(stored_object) for record in owners for stored_object in record.objects])

    def _insert(self, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows in one statement, or in as few as the database takes."""
        if len(rows) == 1:
            # SQLAlchemy keeps a statement with parameters compiled, one with values not.
            self.connection.execute(sa.insert(table), rows)
            return
        size = self.most_values // len(table.c)
        for start in range(0, len(rows), size):
            self.connection.execute(sa.insert(table).values(rows[start : start + size]))

    def task_states(self, stage: str, generation: int) -> dict[str, TaskState]:
        """Return the states of the nodes of a generation that have a row."""
        task = self.tables.task
        query = sa.select(task.c.node, task.c.state).where(task.c.stage == stage, task.c.generation == generation)
        return {node: TaskState(state) for node, state in self.connection.execute(query)}

    def object_owners(self, stage: str, generation: int, kind: ObjectKind, names: Sequence[str]) -> dict[str, str]:
        """Return which node of a generation has claimed which of the names."""
        stored = self.tables.object
        query = sa.select(stored.c.name, stored.c.node).where(
            stored.c.stage == stage,
            stored.c.generation == generation,
            stored.c.kind == kind.value,
            stored.c.name.in_(list(names)),
        )
        return {row.name: row.node for row in self.connection.execute(query)}

    def find_object(self, stage: str, generation: int, kind: ObjectKind, name: str) -> ObjectRecord | None:
        """Return what a generation has under a name."""
        stored = self.tables.object
        columns = [column.label(f"object_{column.name}") for column in stored.c]
        query = sa.select(*columns).where(
            stored.c.stage == stage,
            stored.c.generation == generation,
            stored.c.kind == kind.value,
            stored.c.name == name,
        )
        row = self.connection.execute(query).one_or_none()
        return None if row is None else object_of(row._mapping)

    @property
    def outbox(self) -> Outbox:
        """What publishes have to announce."""
        return Outbox(self.connection, self.tables)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _nodes_by_generation(records: Iterable[TaskRecord]) -> dict[tuple[str, int], list[str]]:
    found: dict[tuple[str, int], list[str]] = {}
    for record in records:
        found.setdefault((record.stage, record.generation), []).append(record.node)
    return found
