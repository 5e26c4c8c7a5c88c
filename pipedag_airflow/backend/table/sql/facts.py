"""What is known of a table: where it is, and what it looks like."""

from __future__ import annotations

import attrs

__all__ = ["Column", "TableFacts", "TableLocation"]


@attrs.frozen
class Column:
    """A column as the database has it: its type in the dialect's own words."""

    name: str
    type: str
    nullable: bool


@attrs.frozen
class TableLocation:
    """Where a table is, and what it is called: the logical place (stage, name) and the physical one."""

    stage: str
    name: str
    schema: str
    table: str
    columns: tuple[Column, ...]


@attrs.frozen
class TableFacts:
    """What is known of a table after it was made."""

    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    indexes: tuple[tuple[str, ...], ...]
    rows: int
    view: bool = False
