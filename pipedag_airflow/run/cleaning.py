"""Removing what is not needed any more because somebody asks for it; and first saying what that would be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipedag_airflow.backend.table.sql.names import is_marked
from pipedag_airflow.errors import StageBusyError, StoreError
from pipedag_airflow.run.garbage import OldGeneration, find_garbage, remove
from pipedag_airflow.run.leases import borrow
from pipedag_airflow.run.strays import find_strays

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipedag_airflow.backend.blob import BlobStore
    from pipedag_airflow.config import ConfigContext

__all__ = ["clean", "show_garbage"]


def show_garbage(config: ConfigContext) -> Iterator[str]:
    """Yield lines that say what :func:`clean` would remove, and why; nothing is changed.

    Args:
        config: The configuration of the instance.
    """
    for stage in _stages(config):
        for _, lines in _find(config, stage):
            yield from lines
        yield from _stray_lines(config, stage, find_strays(config, stage))


def clean(config: ConfigContext) -> Iterator[str]:
    """Remove what is not needed, and yield lines that say what went.

    A stage that a run holds is left alone: when the run publishes it, its old generations leave.

    Args:
        config: The configuration of the instance.

    Raises:
        StoreError: at the end, if something could not be removed; everything else is.
    """
    problems: list[str] = []
    for stage in _stages(config):
        yield from _clean(config, stage, problems)
    if problems:
        raise StoreError("\n".join(problems))


def _clean(config: ConfigContext, stage: str, problems: list[str]) -> list[str]:
    lines = []
    try:
        with borrow(config, stage, "gc"):
            for old, shown in _find(config, stage):
                try:
                    remove(config, old)
                except StoreError as error:
                    problems.append(f"Generation {old.record.number} of stage {stage!r} could not be removed: {error}")
                else:
                    lines += shown
            lines += _remove_strays(config, stage, problems)
    except StageBusyError as busy:
        lines.append(f"{stage}: left alone. {busy}")
    return lines


def _remove_strays(config: ConfigContext, stage: str, problems: list[str]) -> list[str]:
    """Remove the blobs that no row describes; return the lines that say so."""
    strays = find_strays(config, stage)
    lines = list(_stray_lines(config, stage, strays))
    for location in strays:
        try:
            config.blob_store.drop(location)
        except StoreError as error:
            problems.append(str(error))
    return lines


def _stages(config: ConfigContext) -> list[str]:
    with config.table_store.transaction() as transaction:
        return sorted(record.stage for record in transaction.metadata.all_stages())


def _find(config: ConfigContext, stage: str) -> list[tuple[OldGeneration, list[str]]]:
    """Return what is not needed, each with the lines that describe it."""
    with config.table_store.transaction() as transaction:
        garbage = find_garbage(config, transaction, stage)
        if not garbage:
            return []
        schemas = {old.schema for old in garbage}
        there, sizes = transaction.objects(schemas), transaction.sizes(schemas)
    found = []
    for old in garbage:
        unrecorded = [name for schema, name in there if old.whole and schema == old.schema and name not in old.tables]
        tables = {name: rows for name, rows in old.tables.items() if (old.schema, name) in there}
        # What a task that died had materialized was never recorded.
        tables |= dict.fromkeys(filter(is_marked, unrecorded))
        others = [name for name in unrecorded if not is_marked(name)]
        found.append((old, list(_lines(config, old, tables, sizes, others))))
    return found


def _lines(
    config: ConfigContext,
    old: OldGeneration,
    tables: Mapping[str, int | None],
    sizes: Mapping[tuple[str, str], int],
    others: Sequence[str],
) -> Iterator[str]:
    record = old.record
    yield f"{record.stage}: generation {record.number} ({record.state.value}, run {record.run_id}): {old.reason}"
    if others:
        yield f"    schema {old.schema} stays, because {', '.join(sorted(others))} in it is not ours"
    elif old.whole and tables:
        yield f"    schema {old.schema}"
    for name, rows in sorted(tables.items()):
        facts = ["" if rows is None else f"{rows:,} rows", _bytes(sizes.get((old.schema, name)))]
        yield _joined(f"    table {old.schema}.{name}", *facts)
    blobs: BlobStore = config.blob_store
    for location in old.blobs:
        yield _joined(f"    blob {location}", _bytes(blobs.size(location)))
    if old.task_rows or old.object_rows:
        yield f"    metadata: {old.task_rows} rows of tasks, {old.object_rows} of tables and blobs"


def _stray_lines(config: ConfigContext, stage: str, strays: Sequence[str]) -> Iterator[str]:
    if strays:
        yield f"{stage}: blobs of generations that are not kept, which no task has as its result"
    for location in strays:
        yield _joined(f"    blob {location}", _bytes(config.blob_store.size(location)))


def _joined(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def _bytes(size: int | None) -> str:
    return "" if size is None else f"{size:,} bytes"
