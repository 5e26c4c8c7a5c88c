"""Names that a database would cut off are shortened by us, so that two of them stay two and each is found again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

import sqlalchemy as sa

from pipedag_airflow.core.fingerprint import fingerprint, random_fingerprint
from pipedag_airflow.core.naming import generation_schema

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["StoreNames", "is_marked", "marked", "shortened"]

#: Characters of the hash; with what stands before it, names of one schema do not collide.
_HASH = 12
#: Characters that tell a table apart that is not recorded yet.
_MARK = 8
_MARKED = re.compile(rf"__pipedag_[a-z2-7]{{{_MARK}}}$")
#: Bytes that ``__g<number>`` may need.
_GENERATION_MARK = 13


def shortened(name: str, limit: int) -> str:
    """Return a name as it is if it fits, else its beginning and a hash of the whole: always the same.

    Args:
        name: The name.
        limit: The longest that the database takes, in bytes of UTF-8.
    """
    encoded = name.encode()
    if len(encoded) <= limit:
        return name
    unique = fingerprint(name)[:_HASH]
    beginning = encoded[: limit - len(unique) - 1].decode(errors="ignore")  # no half of a character
    return f"{beginning}_{unique}"


def marked(name: str, limit: int) -> str:
    """Return a name for a table that is recorded later: nothing else has it, and it shows that the table is ours.

    Args:
        name: The name that the table will have.
        limit: The longest that the database takes, in bytes of UTF-8.
    """
    mark = f"__pipedag_{random_fingerprint()[:_MARK]}"
    return shortened(name, limit - len(mark)) + mark


def is_marked(name: str) -> bool:
    """Say whether a name is one that :func:`marked` gives."""
    return _MARKED.search(name) is not None


class StoreNames:
    """How a table store calls what it keeps: the part of :class:`SQLTableStore` that needs no connection."""

    #: Longest name of a schema, table, column or index, in bytes of UTF-8.
    identifier_limit: ClassVar[int] = 63

    #: The kind of database in the words of OpenLineage, and the port of its server where the URL names none.
    lineage_scheme: ClassVar[str] = ""
    default_port: ClassVar[int | None] = None

    url: sa.URL
    schema_prefix: str
    schema_suffix: str

    @property
    def address(self) -> str:
        """The database for messages, without user and password."""
        # Not url.set(username=None): that leaves the user name as it is.
        url = self.url
        return sa.URL.create(url.drivername, host=url.host, port=url.port, database=url.database).render_as_string()

    def schema_token(self, schema: str) -> str:
        """Return the name of a schema as SQLAlchemy's constructs take it, for dialects that read a dot in it."""
        return schema

    def schema(self, stage: str) -> str:
        """Return the schema in which readers find a stage."""
        return self._affixed(shortened(stage, self.longest_stage))

    def generation_schema(self, stage: str, generation: int) -> str:
        """Return the schema that a generation of a stage writes to."""
        return self._affixed(generation_schema(self._stem(stage), generation))

    def generation_number(self, stage: str, schema: str) -> int | None:
        """Return which generation of a stage a schema is that of, None if it is none of its."""
        before, after = f"{self.schema_prefix}{self._stem(stage)}__g", self.schema_suffix
        number = schema.removeprefix(before).removesuffix(after)
        return int(number) if f"{before}{number}{after}" == schema and number.isdecimal() else None

    def generation_stems(self, stages: Iterable[str]) -> dict[str, str]:
        """Return for each stage, as it is called in the schemas of its generations, these without ``__g<number>``."""
        stems = map(self._stem, stages)
        return {stem: self._affixed(stem) for stem in stems}

    def physical_name(self, name: str) -> str:
        """Return how a table or index is called in the database: a name that is too long is shortened."""
        return shortened(name, self.identifier_limit)

    def shown_place(self, stage: str, name: str) -> tuple[str, str]:
        """Return the schema and the name under which readers find a table of a stage."""
        return self.schema(stage), self.physical_name(name)

    def shown_schemas(self, stages: Iterable[str]) -> dict[str, str]:
        """Return for each stage, as it is called in the schemas of its generations, the schema of its readers."""
        return {self._stem(stage): self.schema(stage) for stage in stages}

    @property
    def lineage_namespace(self) -> str:
        """The database as OpenLineage calls it: the server, without user and password."""
        host = self.url.host or "localhost"  # else it is a socket of this machine
        port = self.url.port or self.default_port
        return f"{self.lineage_scheme}://{host}" + ("" if port is None else f":{port}")

    def lineage_name(self, schema: str, table: str) -> str:
        """Return how OpenLineage calls a table of the database."""
        return f"{self.url.database}.{schema}.{table}"

    def _stem(self, stage: str) -> str:
        return shortened(stage, self.longest_stage - _GENERATION_MARK)

    def _affixed(self, name: str) -> str:
        return f"{self.schema_prefix}{name}{self.schema_suffix}"

    @property
    def longest_stage(self) -> int:
        """Bytes that prefix and suffix leave for the name of a stage."""
        return self.identifier_limit - len(self._affixed("").encode())
