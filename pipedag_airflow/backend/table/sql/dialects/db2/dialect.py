"""SQLAlchemy's dialect for Db2 as it is used here: that of ibm-db-sa, with what does not hold there said otherwise.

What ibm-db-sa 0.4.4 does, and why it is not enough: a text without a length becomes ``VARCHAR(None)``; ``FOR UPDATE``
fails with SQLAlchemy 2; values within ``%`` and CAST are no literals where literals are asked for; selects with an
offset are taken apart as text; a name that begins with a digit is not quoted; parameters of the URL that it does not
know are dropped; a password is cut off at a semicolon. Its driver sends bytes in a batch as ``<memory at 0x…>``.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from ibm_db_sa.base import RESERVED_WORDS, DB2Compiler
from ibm_db_sa.ibm_db import DB2Dialect_ibm_db
from ibm_db_sa.logger import configure_ibmdbsa_logging
from sqlalchemy.sql.compiler import DDLCompiler, GenericTypeCompiler, IdentifierPreparer, SQLCompiler

from pipedag_airflow.backend.table.sql.dialects.db2.ddl import LONGEST_VARCHAR
from pipedag_airflow.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Db2Dialect"]

# Its log has the parameters of statements, and prints errors that are caught.
configure_ibmdbsa_logging(False)

#: The most digits of a DECIMAL.
_MOST_DIGITS = 31
#: Bytes that the texts of a key share, and those of another text, where a table declares no length: for pages of 4 KB.
_IN_KEY, _IN_TABLE = 900, 512
#: What an object without a length may hold: its descriptor is part of the row, and grows with this.
_LARGE = "64M"


class Db2Compiler(DB2Compiler):  # type: ignore[misc] # ibm-db-sa has no types
    """Queries."""

    visit_select = SQLCompiler.visit_select
    visit_join = SQLCompiler.visit_join

    def limit_clause(self, select: Any, **kw: Any) -> str:
        """Return ``OFFSET … FETCH FIRST …`` for LIMIT and OFFSET."""
        limited = {"fetch_clause": select._limit_clause, "use_literal_execute_for_simple_int": True}
        return str(self.fetch_clause(select, **limited, **kw))

    def for_update_clause(self, select: Any, **_: Any) -> str:
        """Return which locks on rows are kept to the end of the transaction, of others or of all others."""
        # UPDATE LOCKS would let those pass who hold a share.
        kind = "SHARE" if select._for_update_arg.read else "EXCLUSIVE"
        return f" WITH RS USE AND KEEP {kind} LOCKS"

    def visit_mod_binary(self, binary: Any, _operator: Any, **kw: Any) -> str:
        """Return ``MOD(left, right)``."""
        return f"MOD({self.process(binary.left, **kw)}, {self.process(binary.right, **kw)})"

    def visit_cast(self, cast: Any, **kw: Any) -> str:
        """Return a CAST; of a moment that is written down, as Db2 reads it."""
        clause = cast.clause
        if (
            isinstance(cast.type, sa.DateTime)
            and isinstance(clause, sa.BindParameter)
            and isinstance(clause.value, str)
        ):
            cast = sa.cast(sa.literal(_moment_text(clause.value)), cast.type)
        return str(SQLCompiler.visit_cast(self, cast, **kw))  # type: ignore[no-untyped-call] # untyped there

    def visit_bindparam(self, bindparam: Any, within_columns_clause: bool = False, **kw: Any) -> str:
        """Return the place of a parameter; one that is a column of its own has no type unless it is said."""
        text = str(super().visit_bindparam(bindparam, within_columns_clause=within_columns_clause, **kw))
        literal = kw.get("literal_binds") or kw.get("literal_execute") or bindparam.expanding
        if not within_columns_clause or literal or isinstance(bindparam.type, sa.types.NullType):
            return text
        return f"CAST({text} AS {self.dialect.type_compiler_instance.process(bindparam.type)})"

    def visit_empty_set_op_expr(self, type_: Any, expand_op: Any, **_: Any) -> str:
        """Return what stands in the parentheses of ``IN ()``."""
        del expand_op
        return self.visit_empty_set_expr(type_)

    def visit_empty_set_expr(self, element_types: Any, **_: Any) -> str:
        """Return a query without rows, for ``IN ()``."""
        types = self.dialect.type_compiler_instance
        columns = ", ".join(f"CAST(NULL AS {types.process(kind)})" for kind in element_types or [sa.Integer()])
        return f"SELECT {columns} FROM SYSIBM.SYSDUMMY1 WHERE 1 = 0"  # noqa: S608 - types


class Db2Types(GenericTypeCompiler):
    """Types."""

    def visit_VARCHAR(self, type_: Any, type_expression: Any = None, **_: Any) -> str:
        """Return ``VARCHAR(bytes)``."""
        length = type_.length
        if length is None and isinstance(type_expression, sa.Column):
            length = _length_in_table(type_expression)
        return f"VARCHAR({length or LONGEST_VARCHAR})"

    def visit_CLOB(self, type_: Any, **_: Any) -> str:
        """Return ``CLOB(bytes)``."""
        return f"CLOB({type_.length or _LARGE})"

    def visit_BLOB(self, type_: Any, **_: Any) -> str:
        """Return ``BLOB(bytes)``."""
        return f"BLOB({type_.length or _LARGE})"

    def visit_DATETIME(self, type_: Any, **_: Any) -> str:
        """Return ``TIMESTAMP``: Db2 has no time zones."""
        del type_
        return "TIMESTAMP"

    def visit_TIMESTAMP(self, type_: Any, **_: Any) -> str:
        """Return ``TIMESTAMP``."""
        return self.visit_DATETIME(type_)

    def visit_FLOAT(self, type_: Any, **_: Any) -> str:
        """Return ``REAL`` or ``DOUBLE``."""
        return "REAL" if type_.precision is not None and type_.precision <= 24 else "DOUBLE"

    def visit_DECIMAL(self, type_: Any, **_: Any) -> str:
        """Return ``DECIMAL(digits, scale)``; without a precision the type that keeps what a number has.

        Raises:
            CompileError: if there are too many digits.
        """
        if type_.precision is None:
            return "DECFLOAT(34)"
        if type_.precision > _MOST_DIGITS:
            raise sa.exc.CompileError(
                f"Db2 has decimals of at most {_MOST_DIGITS} digits, not {type_.precision}. Cast it, or choose another "
                "type with type_map."
            )
        return f"DECIMAL({type_.precision}, {type_.scale or 0})"

    visit_NVARCHAR = visit_unicode = visit_VARCHAR
    visit_TEXT = visit_unicode_text = visit_CLOB
    visit_large_binary = visit_BLOB
    visit_NUMERIC = visit_DECIMAL


class Db2Preparer(IdentifierPreparer):
    """Names: what is not quoted is folded to capitals."""

    reserved_words = RESERVED_WORDS
    illegal_initial_characters = set("0123456789_$")  # noqa: RUF012 - SQLAlchemy's way


class _Moment(sa.DateTime):
    """A moment: with a zone it is stored in UTC, and read as such."""

    def bind_processor(self, dialect: Any) -> Callable[[Any], Any]:
        del dialect
        return _without_zone

    def result_processor(self, dialect: Any, coltype: Any) -> Callable[[Any], Any] | None:
        del dialect, coltype
        return _in_utc if self.timezone else None


class _Bytes(sa.LargeBinary):
    """Bytes as they are."""

    def bind_processor(self, dialect: Any) -> None:
        del dialect


def _length_in_table(column: sa.Column[Any]) -> int:
    if not column.primary_key:
        return _IN_TABLE
    return _IN_KEY // sum(isinstance(other.type, sa.String) for other in column.table.primary_key)


def _without_zone(value: Any) -> Any:
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        return value.astimezone(dt.UTC).replace(tzinfo=None)
    return value


def _in_utc(value: Any) -> Any:
    return value if value is None else value.replace(tzinfo=dt.UTC)


def _moment_text(text: str) -> str:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        return text
    return str(_without_zone(moment).isoformat(sep=" ", timespec="microseconds"))


class Db2Dialect(DB2Dialect_ibm_db):  # type: ignore[misc] # ibm-db-sa has no types
    """The dialect."""

    supports_statement_cache = True
    supports_native_boolean = True
    supports_native_decimal = True
    statement_compiler = Db2Compiler
    ddl_compiler = DDLCompiler
    type_compiler = Db2Types
    preparer = Db2Preparer
    colspecs = {  # noqa: RUF012 - SQLAlchemy's way
        **{kind: impl for kind, impl in DB2Dialect_ibm_db.colspecs.items() if kind is not sa.Numeric},
        sa.DateTime: _Moment,
        sa.LargeBinary: _Bytes,
    }

    def create_connect_args(self, url: sa.URL) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Return what the driver is called with: a text of keywords, all parameters of the URL among them.

        Raises:
            ConfigError: if a value has a semicolon, which would end it.
        """
        server = {"HOSTNAME": url.host, "PORT": url.port or 50_000, "PROTOCOL": "TCPIP"} if url.host else {}
        given = {"DATABASE": url.database, **server, "UID": url.username, "PWD": url.password}
        keywords = given | {name.upper(): value for name, value in url.query.items()}
        for name, value in keywords.items():
            if ";" in str(value):
                raise ConfigError(
                    f"The {name} of table_store.args.url has a semicolon, where Db2's driver ends a value. Choose one "
                    "without."
                )
        text = "".join(f"{name}={value};" for name, value in keywords.items() if value is not None)
        return (text, url.username or "", "", "", ""), {}
