"""What is known of a table: where it is, and what it looks like."""

from __future__ import annotations

from enum import StrEnum

import attrs

__all__ = ["Column", "DefinitionType", "ObjectType", "ScriptFacts", "TableFacts", "TableLocation"]


class ObjectType(StrEnum):
    """What something with columns is, in the words of DDL."""

    TABLE = "TABLE"
    VIEW = "VIEW"
    MATERIALIZED_VIEW = "MATERIALIZED VIEW"


class DefinitionType(StrEnum):
    """What something without rows of its own is, in the words of DDL."""

    #: A function, a procedure or an aggregate.
    ROUTINE = "ROUTINE"
    SEQUENCE = "SEQUENCE"
    TYPE = "TYPE"


@attrs.frozen
class Column:
    """A column as the database has it: its type in the dialect's own words."""

    name: str
    type: str
    nullable: bool


@attrs.frozen
class TableLocation:
    """Where a table is, and what it is called: the logical place (stage, name) and the physical one.

    In the queries of a task it is called ``alias``, or like its name if there is none. The ``key`` is its identity by
    provenance, which a table of somebody else's has not. The ``id`` is that of its rows: each time that a table is
    stored they get another one. Views, tables of somebody else's and those of older releases have none. ``rows`` says
    how many there were then. ``keep_copy`` says whether a reader wants a local copy of it to be kept; None is as
    configured.
    """

    stage: str
    name: str
    schema: str
    table: str
    columns: tuple[Column, ...]
    alias: str | None = None
    key: str | None = None
    id: str | None = None
    rows: int | None = None
    keep_copy: bool | None = None


@attrs.frozen
class TableFacts:
    """What is known of a table after it was made; ``table`` is its name in the database."""

    table: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    indexes: tuple[tuple[str, ...], ...]
    rows: int
    view: bool = False
    #: Whether a crash of the server empties it.
    unlogged: bool = False


@attrs.frozen
class ScriptFacts:
    """What a script has made: the tables and views by name, and the labels of functions, sequences and types."""

    tables: dict[str, TableFacts]
    definitions: tuple[str, ...]
