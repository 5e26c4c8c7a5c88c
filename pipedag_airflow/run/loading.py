"""Results of tasks as objects, for somebody outside of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.backend.metadata import ObjectKind, ObjectRecord
from pipedag_airflow.core.containers import Blob, RawSql, Table
from pipedag_airflow.core.task import Task, TaskGetItem
from pipedag_airflow.core.values import Decoder, deep_map
from pipedag_airflow.errors import CacheError, StoreError, UnsupportedValueError
from pipedag_airflow.run.emptied import described, emptied_places, is_emptied
from pipedag_airflow.run.identity_names import IdentityNames
from pipedag_airflow.run.snapshot import location_of

if TYPE_CHECKING:
    from pipedag_airflow.backend.metadata import MetadataRepository, TaskRecord
    from pipedag_airflow.backend.table.sql.facts import TableLocation
    from pipedag_airflow.backend.table.sql.store import SQLTableStore
    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.config import ConfigContext

__all__ = ["load", "published_value"]

#: How often reading starts over because another run published the stage meanwhile.
_ATTEMPTS = 5


def load(
    config: ConfigContext,
    reference: Task | TaskGetItem,
    value: Any,
    as_type: Any = None,
    write_local_table_cache: bool = False,
) -> Any:
    """Return the result of a task, or the part that a reference means, with its tables and blobs loaded.

    Args:
        config: The configuration.
        reference: The task, or a part of its result.
        value: The whole result; tables and blobs are descriptors.
        as_type: Type in which tables are loaded; default is the ``input_type`` of the task itself.
        write_local_table_cache: Whether copies of the tables are kept in the local table cache, if there is one.

    Raises:
        CacheError: if a table was removed since, or a crash of the server has emptied it.
        ExternalTableError: if a table of somebody else's is not there.
        UnsupportedValueError: if there are tables, and no type to load them as.
    """
    task = reference
    if isinstance(reference, TaskGetItem):
        task, value = reference.task, reference.pick(value)
    assert isinstance(task, Task)
    as_type = as_type or task.unbound.input_type
    if as_type is None and _holds_tables(value):
        raise UnsupportedValueError(
            f"The result of {task.id!r} holds tables, and the task has no input_type that says how to load them: "
            "give the type, as_type=pandas.DataFrame for example."
        )
    return _load(config, task, value, as_type, write_local_table_cache)


def published_value(config: ConfigContext, task: Task) -> Any:
    """Return the published result of a task; tables and blobs are descriptors.

    Raises:
        CacheError: if none is published, or it holds a stage or class that the flow no longer has.
    """
    with config.table_store.transaction() as transaction:
        row = _published_row(transaction.metadata, task)
    if row is None or row.output is None:
        raise CacheError(
            f"Nothing is published of task {task.id!r} as it stands in flow {task.flow.name!r} now. Run stage "
            f"{task.stage.name!r} first. (What was published with other arguments does not count.)"
        )
    where = f"The stored result of task {row.node!r} in stage {row.stage!r}"
    return Decoder(row.generation, task.flow.stages, task.flow.classes, where).load(row.output)


def _published_row(metadata: MetadataRepository, task: Task) -> TaskRecord | None:
    """Return the row of the task, or of one that stood in its place under another id."""
    place = task.flow.plan().node_by_id[task.id].position, IdentityNames(task.flow)[task.id]
    while (live := _live(metadata, task.stage.name)) is not None:
        stored = metadata.read_tasks([(task.stage.name, live)])
        rows = [row for row in stored if (row.position, row.name) == place]
        # Without any, the generation may have gone meanwhile.
        if rows or _live(metadata, task.stage.name) == live:
            return next((row for row in rows if row.node == task.id), rows[0] if rows else None)
    return None


def _live(metadata: MetadataRepository, stage: str) -> int | None:
    record = metadata.stages([stage]).get(stage)
    return None if record is None else record.live


def _holds_tables(value: Any) -> bool:
    found: list[Any] = []
    deep_map(value, lambda leaf: found.append(leaf) if isinstance(leaf, (Table, RawSql)) else None)
    return bool(found)


def _load(config: ConfigContext, task: Task, value: Any, as_type: Any, keep_copy: bool) -> Any:
    for _ in range(_ATTEMPTS):
        found: list[ObjectRecord] = []
        try:
            loaded = _load_once(config, task, value, as_type, found, keep_copy)
        except StoreError:
            if _have_stayed(config, found):
                raise
        else:
            if _have_stayed(config, found):
                return loaded
    raise CacheError(
        f"The result of {task.id!r} was moved {_ATTEMPTS} times while it was read: other runs keep publishing its "
        "stage. Read it within a StageLockContext that also surrounds flow.run()."
    )


def _have_stayed(config: ConfigContext, found: list[ObjectRecord]) -> bool:
    """Say whether everything is still where it was looked for: a publish may have moved it."""
    store: SQLTableStore = config.table_store
    if not store.moves_tables:
        return True
    with store.transaction() as transaction:
        for stored in found:
            now = transaction.metadata.find_object(stored.stage, stored.generation, stored.kind, stored.name)
            if now is None or (now.container, now.location) != (stored.container, stored.location):
                return False
    return True


def _find(transaction: SQLTransaction, task: Task, kind: ObjectKind, container: Any, name: str) -> ObjectRecord:
    found = transaction.metadata.find_object(container.stage, container.generation, kind, name)
    if found is None:
        raise CacheError(
            f"The {kind.value} {container.stage}.{name} of task {task.id!r} is gone: generation "
            f"{container.generation} of its stage was removed. Run the flow again."
        )
    if is_emptied(found, emptied_places(transaction, [found])):
        raise CacheError(
            f"The result of {task.id!r} has {described(found)}. Run stage {found.stage!r} again, which makes the table "
            "anew."
        )
    return found


def _load_once(
    config: ConfigContext, task: Task, value: Any, as_type: Any, seen: list[ObjectRecord], keep_copy: bool
) -> Any:
    """Load a result in one transaction; where its parts were looked for is noted in ``seen``."""
    store: SQLTableStore = config.table_store
    with store.transaction() as transaction:

        def record(kind: ObjectKind, container: Any, name: str) -> ObjectRecord:
            seen.append(_find(transaction, task, kind, container, name))
            return seen[-1]

        def load_table(container: Any, name: str) -> Any:
            return read(attrs.evolve(location_of(record(ObjectKind.TABLE, container, name)), keep_copy=keep_copy))

        def read(location: TableLocation) -> Any:
            return store.read_table(transaction.connection, location, as_type, task.id)

        def load_leaf(leaf: Any) -> Any:
            if isinstance(leaf, Table) and leaf.external:
                return read(store.external_location(transaction.connection, leaf.external, task.id))
            if isinstance(leaf, Table):
                return load_table(leaf, str(leaf.name))
            if isinstance(leaf, RawSql):
                return leaf.loaded({name: load_table(leaf, name) for name in leaf.table_names})
            if isinstance(leaf, Blob):
                return config.blob_store.read(str(record(ObjectKind.BLOB, leaf, str(leaf.name)).location))
            return leaf

        return deep_map(value, load_leaf)
