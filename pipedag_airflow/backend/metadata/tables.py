"""The metadata schema as SQLAlchemy tables.

Two unique keys do the coordination: (generation, node), so a retry overwrites its own row, and (generation, kind,
name), so two tasks cannot claim one table.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import sqlalchemy as sa

__all__ = ["METADATA_VERSION", "MetadataTables"]

#: Version of the layout below; a change of it comes with a migration.
METADATA_VERSION = 1


#: SQL Server tells no "a" from an "A" unless it compares as bytes.
_AS_BYTES = "Latin1_General_100_BIN2"


def _key(name: str, length: int = 128, comment: str | None = None) -> sa.Column[object]:
    """Return a text in a primary key; the keys of SQL Server have at most 900 bytes, two for each character."""
    kind = sa.String().with_variant(sa.NVARCHAR(length, collation=_AS_BYTES), "mssql")
    return sa.Column(name, kind, primary_key=True, comment=comment)


def _time(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True))


class MetadataTables:
    """The tables of one metadata schema.

    Args:
        schema: Name of the schema, prefix and suffix included.
    """

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self.all = sa.MetaData(schema=schema)
        self.instance = sa.Table(
            "instance",
            self.all,
            _key("instance_id"),
            sa.Column("metadata_version", sa.Integer, nullable=False),
            sa.Column("created_by", sa.String, nullable=False),
            _time("created"),
        )
        self.run = sa.Table(
            "run",
            self.all,
            _key("run_id", 450),
            sa.Column("flow", sa.String, nullable=False),
            sa.Column("fingerprint", sa.String, nullable=False),
            sa.Column("nodes", sa.Text, nullable=False, comment="ids and positions of the plan, JSON"),
            sa.Column("engine", sa.String, nullable=False),
            _time("started"),
        )
        self.stage = sa.Table(
            "stage",
            self.all,
            _key("stage"),
            sa.Column("live", sa.BigInteger, comment="the generation that readers see"),
            sa.Column("fence", sa.BigInteger, nullable=False, comment="the only generation that may write"),
        )
        self.lease = sa.Table(
            "lease",
            self.all,
            _key("stage"),
            sa.Column("version", sa.BigInteger, nullable=False, comment="grows with each change: compare and set"),
            sa.Column("token", sa.BigInteger, nullable=False, comment="grows with each holder"),
            sa.Column("run_id", sa.String, comment="who holds the stage; null is nobody"),
            sa.Column("host", sa.String),
            sa.Column("pid", sa.BigInteger, comment="the process that ends with the run, if there is one"),
            sa.Column("process_started", sa.Double),
            sa.Column("pid_space", sa.String),
            sa.Column("since", sa.Double, comment="seconds since 1970 by this database's clock, like all times here"),
            sa.Column("heartbeat", sa.Double),
            sa.Column("expires", sa.Double),
            sa.Column("tickets", sa.Text, nullable=False, comment="who waits, first come first, JSON"),
        )
        self.generation = sa.Table(
            "generation",
            self.all,
            _key("stage"),
            sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("run_id", sa.String, nullable=False),
            sa.Column("holder", sa.String, nullable=False, comment="host and process that opened it"),
            sa.Column("state", sa.String, nullable=False),
            _time("opened"),
            _time("closed"),
            sa.Column("dropped", sa.Boolean, nullable=False, comment="its schema and its rows are gone"),
            sa.Column("restores", sa.BigInteger, comment="the generation that a rollback brought back with it"),
        )
        self.task = sa.Table(
            "task",
            self.all,
            _key("stage"),
            sa.Column("generation", sa.BigInteger, primary_key=True, autoincrement=False),
            _key("node", 290),
            sa.Column("name", sa.String, nullable=False),
            sa.Column("version", sa.String),
            sa.Column("position", sa.String, nullable=False),
            sa.Column("input_hash", sa.String),
            sa.Column("cache_function_hash", sa.String),
            sa.Column("task_hash", sa.String),
            sa.Column("memo_key", sa.String),
            sa.Column("inputs", sa.Text, comment="identity of each argument, JSON"),
            sa.Column("output", sa.Text, comment="the result, JSON"),
            sa.Column("state", sa.String, nullable=False),
            sa.Column("reason", sa.String, nullable=False),
            sa.Column("detail", sa.Text, nullable=False),
            sa.Column("revision", sa.Integer, nullable=False, comment="grows when a user asks to build the task anew"),
            sa.Column("produced_by", sa.BigInteger, comment="the generation in which the function ran"),
            sa.Column("reads_open", sa.Text, comment="unpublished generations that were read, JSON"),
            sa.Column("seconds", sa.Double),
            sa.Column("twin", sa.String, comment="the node of the same call that stored the objects"),
        )
        self.object = sa.Table(
            "object",
            self.all,
            _key("stage"),
            sa.Column("generation", sa.BigInteger, primary_key=True, autoincrement=False),
            _key("kind", 16, comment="table, script, definition or blob"),
            _key("name", 290),
            sa.Column("node", sa.String, nullable=False),
            sa.Column("cache_key", sa.String, nullable=False),
            sa.Column("container", sa.String, comment="schema of a table"),
            sa.Column("location", sa.String, comment="name of a table or definition in its schema, file of a blob"),
            sa.Column("facts", sa.Text, nullable=False, comment="columns, keys, indexes; the tables of a script; JSON"),
            sa.Column("query", sa.Text),
            sa.Column("rows", sa.BigInteger),
            sa.Column("sources", sa.Text, comment="schemas and names of the tables that a view shows, JSON"),
        )
        self.event = sa.Table(
            "event",
            self.all,
            _key("stage"),
            sa.Column("generation", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("payload", sa.Text, nullable=False),
            _time("created"),
        )

    @cached_property
    def tasks_with_objects(self) -> sa.Select[Any]:
        """The query of tasks with their stage and objects, whose columns begin with ``object_``; a row for each object.

        It is made once, because that takes SQLAlchemy longer than a database takes to answer it.
        """
        task, stored, stage = self.task, self.object, self.stage
        same = sa.and_(
            stored.c.stage == task.c.stage,
            stored.c.generation == task.c.generation,
            stored.c.node == sa.func.coalesce(task.c.twin, task.c.node),
        )
        joined = sa.join(task, stored, same, isouter=True).join(stage, stage.c.stage == task.c.stage)
        columns = [*task.c, *(column.label(f"object_{column.name}") for column in stored.c)]
        query = sa.select(*columns).select_from(joined)
        return query.order_by(task.c.stage, task.c.generation, task.c.node, stored.c.kind, stored.c.name)
