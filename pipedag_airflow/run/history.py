"""What readers have seen of a stage: its published generations, as far back as they are kept."""

from __future__ import annotations

import datetime as dt
import difflib
from typing import TYPE_CHECKING

import attrs

from pipedag_airflow.backend.metadata import GenerationRecord, GenerationState, ObjectKind, ObjectRecord, TaskRecord
from pipedag_airflow.errors import StageError
from pipedag_airflow.run.inventory import take_inventory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipedag_airflow.backend.metadata import MetadataRepository
    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.config import ConfigContext

__all__ = ["History", "PastGeneration", "read_history", "show_history"]


@attrs.frozen
class PastGeneration:
    """A generation that readers see or have seen, and of which the metadata are still there.

    Args:
        record: Its row.
        flow: Name of the flow that made it.
        live: Whether readers see it now.
        rows: The rows of its tasks by node.
        lost: Names of its tables and blobs that are not there any more.
        emptied: Names of its tables and views that a crash of the server has emptied.
    """

    record: GenerationRecord
    flow: str | None
    live: bool
    rows: dict[str, TaskRecord]
    lost: tuple[str, ...]
    emptied: tuple[str, ...]

    @property
    def number(self) -> int:
        """Its number."""
        return self.record.number

    @property
    def restorable(self) -> bool:
        """Whether a rollback can bring it back."""
        return not (self.live or self.lost or self.emptied)

    @property
    def objects(self) -> list[ObjectRecord]:
        """Its tables, views and blobs, by name."""
        return sorted(_objects(self.rows), key=lambda stored: (stored.kind is ObjectKind.BLOB, stored.name))


@attrs.frozen
class History:
    """The generations of a stage.

    Args:
        stage: Name of the stage.
        past: The published ones of which the metadata are still there, oldest first.
        gone: The numbers of the published ones that are not kept any more.
        others: All that were not published, oldest first.
    """

    stage: str
    past: tuple[PastGeneration, ...]
    gone: tuple[int, ...]
    others: tuple[GenerationRecord, ...]

    @property
    def live(self) -> PastGeneration | None:
        """The one that readers see; None if nothing was ever published."""
        return next((generation for generation in self.past if generation.live), None)

    @property
    def restorable(self) -> list[PastGeneration]:
        """Those that a rollback can bring back, oldest first."""
        return [generation for generation in self.past if generation.restorable]


def read_history(config: ConfigContext, transaction: SQLTransaction, stage: str) -> History:
    """Return the generations of a stage.

    Args:
        config: The configuration of the instance.
        transaction: An open transaction.
        stage: Name of the stage.

    Raises:
        StageError: if there is no such stage; the message names the nearest one.
    """
    metadata = transaction.metadata
    known = metadata.stages([stage])
    if stage not in known:
        raise StageError(_unknown(metadata, stage))
    generations = metadata.generations(stage=stage)
    published = [record for record in generations if record.state is GenerationState.PUBLISHED]
    tasks: dict[int, dict[str, TaskRecord]] = {}
    for row in metadata.read_tasks([(stage, record.number) for record in published if not record.dropped]):
        tasks.setdefault(row.generation, {})[row.node] = row
    inventory = take_inventory(config, transaction, stage, (one for rows in tasks.values() for one in _objects(rows)))
    flows = metadata.flows([record.run_id for record in published if record.number in tasks])

    def past_of(record: GenerationRecord) -> PastGeneration:
        rows = tasks[record.number]
        emptied = tuple(one.name for one in _objects(rows) if inventory.is_emptied(one))
        broken = (one.name for one in _objects(rows) if not inventory.is_intact(one))
        lost = tuple(name for name in broken if name not in emptied)
        is_live = record.number == known[stage].live
        return PastGeneration(record, flows.get(record.run_id), is_live, rows, lost, emptied)

    past = tuple(past_of(record) for record in published if record.number in tasks)
    others = tuple(record for record in generations if record.state is not GenerationState.PUBLISHED)
    return History(stage, past, tuple(record.number for record in published if record.number not in tasks), others)


def _objects(rows: dict[str, TaskRecord]) -> list[ObjectRecord]:
    """Return the tables, views and blobs of tasks; what two tasks with one call share is their owner's."""
    found = (stored for row in rows.values() if row.twin is None for stored in row.objects)
    return [stored for stored in found if stored.kind is not ObjectKind.SCRIPT]


def _unknown(metadata: MetadataRepository, stage: str) -> str:
    names = [record.stage for record in metadata.all_stages()]
    near = difflib.get_close_matches(stage, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Nothing is known of a stage {stage!r}.{hint} Known stages: {', '.join(names) or 'none'}."


def show_history(config: ConfigContext, stage: str) -> list[str]:
    """Return the history of a stage as lines of text, the newest generation first.

    Args:
        config: The configuration of the instance.
        stage: Name of the stage.

    Raises:
        StageError: if there is no such stage; the message names the nearest one.
    """
    with config.table_store.transaction() as transaction:
        history = read_history(config, transaction, stage)
    return list(_lines(history, config.generations_to_keep))


def _lines(history: History, keep: int) -> Iterator[str]:
    if not history.past and not history.gone:
        yield f"Nothing of stage {history.stage} was ever published."
    for generation in reversed(history.past):
        record = generation.record
        restored = "" if record.restores is None else f", restores generation {record.restores}"
        when = "" if record.closed is None else f"{record.closed.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC, "
        yield f"{record.number}  {_state(generation)}  {when}flow {generation.flow}, run {record.run_id}{restored}"
        names = [stored.name for stored in generation.objects]
        width = max(map(len, names), default=0)
        for stored in generation.objects:
            size = f"{stored.rows or 0:,} rows" if stored.kind is ObjectKind.TABLE else stored.kind.value
            yield f"    {stored.name:<{width}}  {size}{_damage(stored.name, generation)}"
    if history.gone:
        kept = "only the last is" if keep == 1 else f"the last {keep} are"
        yield f"{len(history.gone)} published before are gone: {kept} kept (generations_to_keep)."


def _state(generation: PastGeneration) -> str:
    if generation.live:
        return "live"
    return "restorable" if generation.restorable else "damaged"


def _damage(name: str, generation: PastGeneration) -> str:
    if name in generation.emptied:
        return "  EMPTIED by a crash of the server"
    return "  LOST" if name in generation.lost else ""
