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
from pipedag_airflow.backend.table.sql.script import refuse_names_in_text
from pipedag_airflow.cache.query import query_texts
from pipedag_airflow.cache.script import script_text, split_script
from pipedag_airflow.core.classes import is_dataclass_instance, with_fields
from pipedag_airflow.core.containers import Blob, ExternalTableReference, RawSql, Stored, Table, View
from pipedag_airflow.core.fingerprint import fingerprint, random_fingerprint
from pipedag_airflow.core.naming import generated_name
from pipedag_airflow.core.paths import at_key, circles_named
from pipedag_airflow.errors import (
    ConfigError,
    DuplicateNameError,
    ExternalTableError,
    LazyBlobError,
    UnsupportedValueError,
)
from pipedag_airflow.run.publication import moves_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pipedag_airflow.backend.table.sql.facts import TableFacts
    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.core.task import Task
    from pipedag_airflow.run.session import RunSession

__all__ = ["Output", "Prepared", "check_names", "new_output", "prepare", "renamed", "store_output"]

log = logging.getLogger(__name__)


@attrs.define(eq=False)
class Output:
    """A container that a task returned, with what will identify it.

    Args:
        container: The table, script or blob; its name is final.
        cache_key: Its identity by provenance.
        query: The text of a query or script, for people; None for data.
        identity: What stands for that text when it is compared.
        content: The hash of a lazy task's data, if they could be hashed.
        stored: What was stored of it while the function ran; empty if it is to be stored with the result.
    """

    container: Table[Any] | RawSql | Blob[Any]
    cache_key: str
    query: str | None
    identity: str | None = None
    content: str | None = None
    stored: list[ObjectRecord] = attrs.field(factory=list)

    @property
    def compared(self) -> str | None:
        """What a lazy output is compared by; None if it is new in every run."""
        return self.identity if self.identity is not None else self.content

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


def prepare(
    session: RunSession, task: Task, result: Any, task_hash: str, generation: int, known: Mapping[int, Output]
) -> Prepared:
    """Wrap what the configuration says is a table or blob, and give every container its name and identity.

    Args:
        session: The run.
        task: The task.
        result: What its function returned.
        task_hash: Identity of the call.
        generation: Number of the open generation.
        known: What the function has materialized, by the ids of the objects that stand for it in the result.

    Raises:
        UnsupportedValueError: if the result holds itself, an empty table or script, or a blob of a lazy task.
        ExternalTableError: if the result refers to a table that is not there, or is in the stage's own schemas.
        DuplicateNameError: if two tables, scripts or blobs of the result have one name.
        ConfigError: if ``auto_table`` or ``auto_blob`` list a class that is not there.
    """
    outputs = dict(known)
    before = list(dict.fromkeys(known.values()))
    references: list[ExternalTableReference] = []

    def prepared(value: Any, place: str) -> Any:
        if id(value) in known:
            return known[id(value)].container
        container = _wrapped(session, value)
        if not isinstance(container, Stored):
            return value
        if isinstance(container, Table) and container.external:
            references.append(container.external)
            located = copy.copy(container)
            key = fingerprint(task_hash, place, container.external.schema, container.external.name)
            located.locate(task.stage.name, generation, key)
            return located
        if id(value) not in outputs:
            output = new_output(session, task, container, place, task_hash, len(outputs), before)
            outputs[id(value)] = output
            output.container.locate(task.stage.name, generation, output.cache_key)
        return outputs[id(value)].container

    with circles_named(result, f"Task {task.id!r}: result"):
        value = _map_with_place(result, prepared, "result")
    every = list(dict.fromkeys(outputs.values()))
    check_names(task, every)
    _check_references(session, task, references, generation)
    return Prepared(value, every)


def _check_references(
    session: RunSession, task: Task, references: list[ExternalTableReference], generation: int
) -> None:
    """Check that the tables that a result refers to are there, and are not the stage's own."""
    stage = task.stage.name
    own = {session.store.schema(stage).casefold(), session.store.generation_schema(stage, generation).casefold()}
    for reference in references:
        if reference.schema.casefold() in own:
            raise ExternalTableError(
                f"Task {task.id!r} refers to {str(reference)!r} as an external table, but that schema is where its own "
                "stage is stored. Return the table itself, or refer to one in another schema."
            )
    if references:
        with session.store.connection() as connection:
            for reference in references:
                session.store.external_location(connection, reference, task.id)


def _map_with_place(value: Any, function: Callable[[Any, str], Any], place: str) -> Any:
    """Apply a function to every leaf and the path that leads to it; dict keys are left as they are.

    A dataclass is first offered as a whole, as it may be one that the configuration makes a table or blob of.
    """
    if type(value) is list:
        return [_map_with_place(item, function, f"{place}[{index}]") for index, item in enumerate(value)]
    if type(value) is tuple:
        return tuple(_map_with_place(item, function, f"{place}[{index}]") for index, item in enumerate(value))
    if type(value) is dict:
        return {key: _map_with_place(item, function, at_key(place, key)) for key, item in value.items()}
    mapped = function(value, place)
    if mapped is value and is_dataclass_instance(value):
        return with_fields(value, lambda name, field: _map_with_place(field, function, f"{place}.{name}"))
    return mapped


def _wrapped(session: RunSession, value: Any) -> Any:
    if isinstance(value, Stored):
        return value
    if isinstance(value, ExternalTableReference):
        return Table(value)
    kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(value).__mro__}
    if kinds & _public_paths("auto_table", session.config.auto_table):
        kind = frame_type_for_object(value)
        return Table(value, None if kind is None else kind.name_of(value))
    if kinds & _public_paths("auto_blob", session.config.auto_blob):
        return Blob(value)
    return value


def _public_paths(key: str, paths: Iterable[str]) -> set[str]:
    """Return the dotted paths, each also as the class itself names it: public names are often re-exports."""
    found = set(paths)
    for path in paths:
        module, _, name = path.rpartition(".")
        imported = _imported(module)
        if imported is None:
            continue  # A class whose library was never imported cannot be the class of a value.
        kind = getattr(imported, name, None)
        if not isinstance(kind, type):
            raise ConfigError(f"{key} of the configuration lists {path!r}, but {module} has no class {name!r}.")
        found.add(f"{kind.__module__}.{kind.__qualname__}")
    return found


def _imported(module: str) -> Any:
    """Return a module, also by a name that only the package above has for it, as ``ibis.api`` is."""
    package, _, name = module.rpartition(".")
    return sys.modules.get(module) or getattr(sys.modules.get(package), name, None)


def new_output(
    session: RunSession,
    task: Task,
    container: Stored,
    place: str,
    task_hash: str,
    number: int,
    before: Sequence[Output] = (),
) -> Output:
    """Return a container with its name and identity.

    Args:
        session: The run.
        task: The task.
        container: The user's object, which stays as it is.
        place: Where in the result it stands.
        task_hash: Identity of the call.
        number: What no other output of the call has.
        before: What the function had materialized: what a query says depends on what is in these tables.

    Raises:
        UnsupportedValueError: as for :func:`prepare`.
    """
    where = f"Task {task.id!r}: {place}"
    assert isinstance(container, (Table, RawSql, Blob))
    if (isinstance(container, Table) and container.obj is None) or (
        isinstance(container, RawSql) and container.sql is None
    ):
        raise UnsupportedValueError(f"{where} is an empty {type(container).__name__}: it holds nothing to store.")
    if isinstance(container, Blob) and task.unbound.lazy:
        raise LazyBlobError(
            f"{where} is a Blob, but the task is lazy: a lazy task has no version that tells whether a blob changed. "
            "Give the task a version instead of lazy=True."
        )
    container = copy.copy(container)  # the user's object stays as it is
    container.name = generated_name(container.name, task.name, f"{task_hash}_{number:04d}")
    query, identity = _query(session, container)
    if not task.unbound.lazy:
        return Output(container, fingerprint(task_hash, place), query)
    # A lazy table is identified by its query or by its data; what cannot be compared is new in every run.
    content = _content(task, container) if query is None and isinstance(container, Table) else None
    output = Output(container, "", query, identity, content)
    compared = output.compared or random_fingerprint()
    earlier = (other.cache_key for other in before)
    output.cache_key = fingerprint(task_hash, place, compared, _keys(task, container), *earlier)
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


def _query(session: RunSession, container: Stored) -> tuple[str | None, str | None]:
    """Return the text of a query or script, and what it is compared by."""
    schemas = session.store.generation_stems(session.plan.stage_by_name)
    if isinstance(container, RawSql):
        text = script_text(str(container.sql), schemas)
        return text, text
    if isinstance(container, Table) and session.store.is_query(container.obj):
        texts = query_texts(session.store.as_query(container), session.store.engine.dialect, schemas)
        return texts.shown, texts.compared
    return None, None


def _keys(task: Task, container: Stored) -> str:
    if not isinstance(container, Table):
        return ""
    nullability = container.nullable, container.non_nullable
    types = sorted(map(repr, (container.type_map or {}).items()))
    label = container.materialization_details or task.stage.materialization_details
    return repr((isinstance(container, View), container.primary_key, container.indexes, types, nullability, label))


def check_names(task: Task, outputs: Iterable[Output]) -> None:
    """Refuse two outputs of one kind and name."""
    seen = set()
    for output in outputs:
        if (output.kind, output.name) in seen:
            raise DuplicateNameError(
                f"Task {task.id!r} returns two {output.kind.value}s of the name {output.name!r}. "
                'Rename one, or let "%%" at the end of the name make it unique.'
            )
        seen.add((output.kind, output.name))


def renamed(output: Output, found: list[ObjectRecord]) -> list[ObjectRecord]:
    """Return an output's stored objects under its present name."""
    first, *tables = found
    if isinstance(output.container, RawSql):
        output.container.table_names = list(first.facts["tables"])
    return [attrs.evolve(first, name=output.name, query=output.query), *tables]


def store_output(
    session: RunSession,
    transaction: SQLTransaction,
    task: Task,
    output: Output,
    generation: int,
    location: str | None = None,
) -> list[ObjectRecord]:
    """Store one container in the generation's schema and return the records that describe it.

    Args:
        session: The run.
        transaction: An open transaction.
        task: The task.
        output: The container.
        generation: Number of the open generation.
        location: The name that a table gets in the database, where that is not its own.
    """
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
        details = session.store.details.of(label, f"Table {output.name!r} of task {task.id!r}")
        placed = copy.copy(container)
        placed.name = location or output.name
        facts = transaction.write_table(schema, placed, task.id, details)
        return [_table_record(base, schema, facts)]
    if isinstance(container, Blob):
        location = session.blobs.write(container.obj, stage=stage, name=output.name, generation=generation)
        return [attrs.evolve(base, location=location)]
    script = str(container.sql)
    statements = session.store.batches(script) or split_script(script, container.separator)
    made = transaction.run_script(schema, statements, task.id)
    if moves_tables(session.config):
        refuse_names_in_text(transaction, schema, made.definitions, task.id)
    container.table_names = sorted(made.tables)
    tables = [
        _table_record(
            attrs.evolve(
                base, kind=ObjectKind.TABLE, name=name, cache_key=fingerprint(output.cache_key, name), query=None
            ),
            schema,
            facts,
        )
        for name, facts in made.tables.items()
    ]
    definitions = [
        attrs.evolve(
            base,
            kind=ObjectKind.DEFINITION,
            name=label,
            cache_key=fingerprint(output.cache_key, label),
            query=None,
            container=schema,
            location=label,
            facts={},
        )
        for label in made.definitions
    ]
    names = {"tables": container.table_names, "definitions": list(made.definitions)}
    return [attrs.evolve(base, facts=names), *tables, *definitions]


def _table_record(base: ObjectRecord, schema: str, facts: TableFacts) -> ObjectRecord:
    described = base.facts | {
        "columns": [attrs.astuple(column) for column in facts.columns],
        "primary_key": facts.primary_key,
        "indexes": facts.indexes,
        "view": facts.view,
    }
    if facts.unlogged:
        described["unlogged"] = True
    if not facts.view:
        # The rows of a view are those of other tables.
        described["id"] = random_fingerprint()
    return attrs.evolve(base, container=schema, location=facts.table, facts=described, rows=facts.rows)
