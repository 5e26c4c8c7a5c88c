"""What nobody needs any more: old generations, and what only they had. It is removed outside of the publish."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import attrs

from pipedag_airflow.backend.metadata import GenerationRecord, GenerationState, ObjectKind, PlaceRecord
from pipedag_airflow.errors import PipedagError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.config import ConfigContext

__all__ = ["OldGeneration", "collect_garbage", "find_garbage", "old_generations", "remove"]

log = logging.getLogger(__name__)

_STAYS = (
    "The schema %s stays, because %s in it is not ours: nothing is dropped that we did not create. Nobody else needs "
    "the schema any more. Drop or move what is in it, and the next publish drops the schema."
)


@attrs.frozen(kw_only=True)
class OldGeneration:
    """A generation that is not needed, and what goes with it.

    Args:
        record: Its row.
        reason: Why it is not needed.
        schema: The schema that it has written to.
        whole: Whether the schema goes; else something in it is still in use.
        tables: The rows of the tables and views in that schema that go, by name.
        blobs: The locations of the blobs that go.
        task_rows: How many rows of tasks go.
        object_rows: How many rows of tables and blobs go.
        shown: The names of its tables that stay, with their rows, because a view of another stage shows them.
    """

    record: GenerationRecord
    reason: str
    schema: str
    whole: bool
    tables: dict[str, int | None]
    blobs: tuple[str, ...]
    task_rows: int
    object_rows: int
    shown: tuple[str, ...] = ()


def collect_garbage(config: ConfigContext, stage: str) -> None:
    """Remove the garbage of a stage that this process holds.

    A failure is logged and tried again after the next publish: the data that readers see do not depend on it.
    """
    try:
        with config.table_store.transaction() as transaction:
            garbage = find_garbage(config, transaction, stage)
    except PipedagError as error:
        log.warning("Stage %s: old generations could not be looked for, the next publish tries again: %s", stage, error)
        return
    for old in garbage:
        try:
            remove(config, old)
        except PipedagError as error:
            log.warning(
                "Stage %s: generation %s could not be removed, the next publish tries again: %s",
                stage,
                old.record.number,
                error,
            )


def find_garbage(config: ConfigContext, transaction: SQLTransaction, stage: str) -> list[OldGeneration]:
    """Return the generations of a stage that are beyond the number that is kept, oldest first; nothing is changed.

    What only they have goes with them; what was carried over from them, or what a view of any stage shows, stays.

    Args:
        config: The configuration of the instance.
        transaction: An open transaction.
        stage: Name of the stage.
    """
    live = transaction.metadata.stages([stage])[stage].live
    reasons = old_generations(transaction.metadata.generations(stage=stage), live, config.generations_to_keep)
    if not reasons:
        return []
    numbers = {record.number for record in reasons}
    places = transaction.retention.places(stage)
    mine = [place for place in places if place.stage == stage and place.generation in numbers]
    kept = [place for place in places if place.stage != stage or place.generation not in numbers]
    described = _tables(place for place in kept if place.stage == stage)
    only_shown = set().union(*(place.sources for place in kept)) - described
    tables_in_use = described | only_shown
    blobs = _blobs(mine) - _blobs(place for place in kept if place.stage == stage)
    task_rows = transaction.retention.count_tasks(stage)
    found = []
    unused = _tables(mine) - tables_in_use
    rows = {(place.container, place.location): place.rows for place in mine}
    for record, reason in reasons.items():
        schema = config.table_store.generation_schema(stage, record.number)
        its_own = [place for place in mine if place.generation == record.number]
        shown = {str(place.location) for place in its_own if (place.container, place.location) in only_shown}
        its_blobs = _blobs(its_own) & blobs
        blobs -= its_blobs  # what several have goes with the first
        found.append(
            OldGeneration(
                record=record,
                reason=reason,
                schema=schema,
                whole=all(place != schema for place, _ in tables_in_use),
                tables={name: rows[place, name] for place, name in sorted(unused) if place == schema},
                blobs=tuple(sorted(its_blobs)),
                task_rows=task_rows.get(record.number, 0),
                object_rows=len(its_own) - len(shown),
                shown=tuple(sorted(shown)),
            )
        )
    # Of what is still in use everything else may have gone before.
    return [old for old in found if old.whole or old.tables or old.blobs or old.task_rows or old.object_rows]


def remove(config: ConfigContext, old: OldGeneration) -> None:
    """Remove an old generation of a stage that this process holds.

    Raises:
        StoreError: if something else would be dropped with it, or a blob cannot be removed.
    """
    record = old.record
    # First the blobs, which are in no transaction: after a kill the rows are still there, and all is tried again.
    for location in old.blobs:
        config.blob_store.drop(location)
    with config.table_store.transaction() as transaction:
        transaction.retention.forget_generation(record.stage, record.number, old.shown)
        if not old.whole:
            transaction.drop_objects(old.schema, old.tables)
            return
        nothing_made = record.state is GenerationState.UNCHANGED
        left = [] if nothing_made else transaction.drop_generation_schema(old.schema, old.tables)
        if not left:
            transaction.retention.mark_dropped(record.stage, record.number)
    if left:
        # It is looked at again by each collection, but said loudly only once.
        log.log(logging.WARNING if old.task_rows else logging.DEBUG, _STAYS, old.schema, ", ".join(left))


def _tables(places: Iterable[PlaceRecord]) -> set[tuple[str, str]]:
    return {(str(place.container), str(place.location)) for place in places if place.kind.is_in_schema}


def _blobs(places: Iterable[PlaceRecord]) -> set[str]:
    return {str(place.location) for place in places if place.kind is ObjectKind.BLOB}


def old_generations(generations: list[GenerationRecord], live: int | None, keep: int) -> dict[GenerationRecord, str]:
    """Return the generations that are not needed, with the reason.

    Those are the published and the unchanged ones but for the last few, and all others before the live one: what an
    abandoned generation before the live one had made is either carried over or obsolete.

    Args:
        generations: Those of a stage, in their order.
        live: The number of the one that readers see.
        keep: How many are kept.
    """

    def last(state: GenerationState) -> list[int]:
        return [record.number for record in generations if record.state is state][-keep:]

    kept = {live, *last(GenerationState.PUBLISHED), *last(GenerationState.UNCHANGED)}
    closed = (GenerationState.PUBLISHED, GenerationState.UNCHANGED)
    old = [record for record in generations if not record.dropped and record.number not in kept]
    return {
        record: f"it is beyond the last {keep} (generations_to_keep)"
        if record.state in closed
        else f"it was never published, and generation {live} was after it"
        for record in old
        if record.state in closed or record.number < (live or 0)
    }
