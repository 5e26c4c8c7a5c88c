"""The records of the metadata as rows of its tables, and back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.backend.metadata.records import (
    GenerationRecord,
    GenerationState,
    ObjectKind,
    ObjectRecord,
    TaskRecord,
    TaskState,
)

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["generation_of", "object_of", "row_of_object", "row_of_task", "task_of"]


def generation_of(row: sa.Row[Any]) -> GenerationRecord:
    """Return the record of a generation."""
    return GenerationRecord(**{**row._mapping, "state": GenerationState(row.state)})


def task_of(rows: list[sa.Row[Any]]) -> TaskRecord:
    """Return the record of a task from its rows, one for each of its objects."""
    first = rows[0]._mapping
    fields = {field.name: first[field.name] for field in attrs.fields(TaskRecord) if field.name in first}
    fields["state"] = TaskState(fields["state"])
    fields["reads_open"] = tuple((stage, number) for stage, number in json.loads(fields["reads_open"] or "[]"))
    objects = tuple(object_of(row._mapping) for row in rows if row._mapping["object_name"] is not None)
    return TaskRecord(**fields, objects=objects)


def object_of(row: Any) -> ObjectRecord:
    """Return the record of an object from the mapping of a row."""
    fields = {field.name: row[f"object_{field.name}"] for field in attrs.fields(ObjectRecord)}
    fields["kind"] = ObjectKind(fields["kind"])
    fields["facts"] = json.loads(fields["facts"])
    fields["sources"] = tuple((schema, name) for schema, name in json.loads(fields["sources"] or "[]"))
    return ObjectRecord(**fields)


def row_of_task(record: TaskRecord) -> dict[str, Any]:
    """Return a task as the values of its row."""
    row = attrs.asdict(record, recurse=False)
    del row["objects"]
    return row | {"state": record.state.value, "reads_open": json.dumps(record.reads_open)}


def row_of_object(record: ObjectRecord) -> dict[str, Any]:
    """Return an object as the values of its row."""
    row = attrs.asdict(record, recurse=False)
    sources = json.dumps(record.sources) if record.sources else None
    return row | {"kind": record.kind.value, "facts": json.dumps(record.facts), "sources": sources}
