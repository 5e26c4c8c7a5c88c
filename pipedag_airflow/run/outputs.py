"""The result of a task: containers get their names and identities, and are stored."""

from __future__ import annotations

import copy
import logging
import sys
from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.backend.metadata import ObjectKind, ObjectRecord
from pipedag_airflow.backend.table.sql.frames.base import frame_type_for_object
from pipedag_airflow.backend.table.sql.frames.content import content_hash
from pipedag_airflow.cache.query import query_text
from pipedag_airflow.cache.script import script_text, split_script
from pipedag_airflow.core.classes import is_dataclass_instance, with_fields
from pipedag_airflow.core.containers import Blob, RawSql, Stored, Table
from pipedag_airflow.core.fingerprint import fingerprint, random_fingerprint
from pipedag_airflow.core.naming import generated_name
from pipedag_airflow.errors import DuplicateNameError, UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pipedag_airflow.backend.table.sql.facts import TableFacts
    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.core.task import Task
    from pipedag_airflow.run.session import RunSession

__all__ = ["Output", "Prepared", "prepare", "store_output"]

log = logging.getLogger(__name__)


@attrs.define
class Output:
    """A container that a task returned, with what will identify it.

    Args:
        container: The table, script or blob; its name is final.
        cache_key: Its identity by provenance.
        query: The text that identifies a query or script; None for data.
        content: The hash of a lazy task's data, if they could be hashed.
    """

    container: Table[Any] | RawSql | Blob[Any]
    cache_key: str
    query: str | None
    content: str | None = None

    @property
    def compared(self) -> str | None:
        """What a lazy output is compared by; None if it is new in every run."""
        return self.query if self.query is not None else self.content

    @property
    def name(self) -> str:
        """The name of the container in its stage."""
        return str(self.container.name)

    @property
    def kind(self) -> ObjectKind:
        """What is to be stored."""
        if isinstance(self.container, Table):
            return ObjectKind.TABLE
        return ObjectKind.SCRIPT if isinstance(self.container, RawSql) else ObjectKind.BLOB


@attrs.define
class Prepared:
    """A task's result, ready to be stored: the value with containers of final names, and the containers."""

    value: Any
    outputs: list[Output]


def prepare(session: RunSession, task: Task, result: Any, task_hash: str, generation: int) -> Prepared:
    """Wrap what the configuration says is a table or blob, and give every container its name and identity.

    Args:
        session: The run.
        task: The task.
        result: What its function returned.
        task_hash: Identity of the call.
        generation: Number of the open generation.

    Raises:
        UnsupportedValueError: if the result holds an empty table or script, or a blob of a lazy task.
        DuplicateNameError: if two tables, scripts or blobs of the result have one name.
    """
    outputs: dict[int, Output] = {}

    def prepared(value: Any, place: str) -> Any:
        container = _wrapped(session, value)
        if not isinstance(container, Stored):
            return value
        if id(value) not in outputs:
            suffix = f"{task_hash}_{len(outputs):04d}"
            output = outputs[id(value)] = _output(session, task, container, place, task_hash, suffix)
            output.container.locate(task.stage.name, generation, output.cache_key)
        return outputs[id(value)].container

    value = _map_with_place(result, prepared, "result")
    _check_names(task, outputs.values())
    return Prepared(value, list(outputs.values()))


def _map_with_place(value: Any, function: Callable[[Any, str], Any], place: str) -> Any:
    """Apply a function to every leaf and the path that leads to it; dict keys are left as they are.

    A dataclass is first offered as a whole, as it may be one that the configuration makes a table or blob of.
    """
    if type(value) is list:
        return [_map_with_place(item, function, f"{place}[{index}]") for index, item in enumerate(value)]
    if type(value) is tuple:
        return tuple(_map_with_place(item, function, f"{place}[{index}]") for index, item in enumerate(value))
    if type(value) is dict:
        return {key: _map_with_place(item, function, f"{place}[{key!r}]") for key, item in value.items()}
    mapped = function(value, place)
    if mapped is value and is_dataclass_instance(value):
        return with_fields(value, lambda name, field: _map_with_place(field, function, f"{place}.{name}"))
    return mapped


def _wrapped(session: RunSession, value: Any) -> Any:
    if isinstance(value, Stored):
        return value
    kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(value).__mro__}
    if kinds & _public_paths(session.config.auto_table):
        return Table(value)
    if kinds & _public_paths(session.config.auto_blob):
        return Blob(value)
    return value


def _public_paths(paths: Iterable[str]) -> set[str]:
    """Return the dotted paths, each also as the class itself names it: public names are often re-exports."""
    found = set(paths)
    for path in paths:
        module, _, name = path.rpartition(".")
        # A class whose library was never imported cannot be the class of a value.
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type):
            found.add(f"{kind.__module__}.{kind.__qualname__}")
    return found


def _output(session: RunSession, task: Task, container: Stored, place: str, task_hash: str, suffix: str) -> Output:
    where = f"Task {task.id!r}: {place}"
    assert isinstance(container, (Table, RawSql, Blob))
    if (isinstance(container, Table) and container.obj is None) or (
        isinstance(container, RawSql) and container.sql is None
    ):
        raise UnsupportedValueError(f"{where} is an empty {type(container).__name__}: it holds nothing to store.")
    if isinstance(container, Blob) and task.unbound.lazy:
        raise UnsupportedValueError(
            f"{where} is a Blob, but the task is lazy: a lazy task has no version that tells whether a blob changed. "
            "Give the task a version instead of lazy=True."
        )
    container = copy.copy(container)  # the user's object stays as it is
    container.name = generated_name(container.name, task.name, suffix)
    query = _query(session, container)
    if not task.unbound.lazy:
        return Output(container, fingerprint(task_hash, place), query)
    # A lazy table is identified by its query or by its data; what cannot be compared is new in every run.
    content = _content(task, container) if query is None and isinstance(container, Table) else None
    output = Output(container, "", query, content)
    output.cache_key = fingerprint(task_hash, place, output.compared or random_fingerprint(), _keys(container))
    return output


def _content(task: Task, table: Table[Any]) -> str | None:
    """Return the hash of a frame's data; a lazy frame is collected first, and what was collected is what is stored."""
    kind = frame_type_for_object(table.obj)
    if kind is None:
        return None  # storing says so
    table.obj = kind.collected(table.obj)
    try:
        return content_hash(kind.to_arrow(table.obj, str(table.name)))
    except Exception as error:  # whatever a library raises: if the data cannot be stored either, storing says so
        log.warning(
            "%s: the data of table %s cannot be hashed, so they are new in every run: %s", task.id, table.name, error
        )
        return None


def _query(session: RunSession, container: Stored) -> str | None:
    schemas = {name: session.store.schema(name) for name in session.plan.stage_by_name}
    if isinstance(container, RawSql):
        return script_text(str(container.sql), schemas)
    if isinstance(container, Table) and session.store.is_query(container.obj):
        assert container.obj is not None
        return query_text(container.obj, session.store.engine.dialect, schemas)
    return None


def _keys(container: Stored) -> str:
    if not isinstance(container, Table):
        return ""
    return repr((container.primary_key, container.indexes, sorted(map(repr, (container.type_map or {}).items()))))


def _check_names(task: Task, outputs: Iterable[Output]) -> None:
    seen = set()
    for output in outputs:
        if (output.kind, output.name) in seen:
            raise DuplicateNameError(
                f"Task {task.id!r} returns two {output.kind.value}s of the name {output.name!r}. "
                'Rename one, or let "%%" at the end of the name make it unique.'
            )
        seen.add((output.kind, output.name))


def store_output(
    session: RunSession, transaction: SQLTransaction, task: Task, output: Output, generation: int
) -> list[ObjectRecord]:
    """Store one container in the generation's schema and return the records that describe it."""
    stage = task.stage.name
    schema = session.store.generation_schema(stage, generation)
    container = output.container
    base = ObjectRecord(
        stage, generation, output.kind, output.name, task.id, output.cache_key, None, None, {}, output.query
    )
    if output.content is not None:
        base.facts["content"] = output.content
    if isinstance(container, Table):
        label = container.materialization_details or task.stage.materialization_details
        session.store.check_materialization_details(label, f"Table {output.name!r} of task {task.id!r}")
        facts = transaction.write_table(schema, container, task.id)
        return [_table_record(base, schema, output.name, facts)]
    if isinstance(container, Blob):
        location = session.blobs.write(container.obj, stage=stage, name=output.name, generation=generation)
        return [attrs.evolve(base, location=location)]
    statements = split_script(str(container.sql), container.separator)
    made = transaction.run_script(schema, statements, task.id)
    container.table_names = sorted(made)
    tables = [
        _table_record(
            attrs.evolve(
                base, kind=ObjectKind.TABLE, name=name, cache_key=fingerprint(output.cache_key, name), query=None
            ),
            schema,
            name,
            facts,
        )
        for name, facts in made.items()
    ]
    return [attrs.evolve(base, facts={"tables": container.table_names}), *tables]


def _table_record(base: ObjectRecord, schema: str, table: str, facts: TableFacts) -> ObjectRecord:
    described = base.facts | {
        "columns": [attrs.astuple(column) for column in facts.columns],
        "primary_key": facts.primary_key,
        "indexes": facts.indexes,
        "view": facts.view,
    }
    return attrs.evolve(base, container=schema, location=table, facts=described, rows=facts.rows)
