"""IBM Db2 (LUW): all that a task stores, with its keys and metadata, in one unit of work. Readers go through aliases.

Written from IBM's documentation: its statements are tested, but none of them has run against a server.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs
import sqlalchemy as sa

from pipedag_airflow.backend.table.sql import ddl
from pipedag_airflow.backend.table.sql.dialects.db2 import catalog, errors, tables
from pipedag_airflow.backend.table.sql.dialects.db2 import ddl as db2_ddl
from pipedag_airflow.backend.table.sql.dialects.db2.grants import carry_over
from pipedag_airflow.backend.table.sql.dialects.db2.locks import add_lock_table, lock_in_transaction
from pipedag_airflow.backend.table.sql.dialects.db2.rows import fetch, fitted_types, load
from pipedag_airflow.backend.table.sql.dialects.db2.unit import UnitOfWork, collect_statistics, note_limit, watch
from pipedag_airflow.backend.table.sql.dialects.db2.words import first_words
from pipedag_airflow.backend.table.sql.store import SQLTableStore
from pipedag_airflow.errors import ConfigError, MissingExtraError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from pipedag_airflow.backend.metadata import Place
    from pipedag_airflow.backend.table.sql.facts import Column, ObjectType, TableLocation
    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.core.containers import ExternalTableReference, Table

__all__ = ["IBMDB2TableStore"]

_DIALECTS = f"{__name__.rpartition('.')[0]}.dialect"
sa.dialects.registry.register("db2.pipedag", _DIALECTS, "Db2Dialect")
_SET_UP = "set-up"
#: How long a publish waits for a lock, in whole seconds: those who come after it wait, too.
_LOCK_SECONDS = 1


class IBMDB2TableStore(SQLTableStore):
    """Table store in a database of IBM Db2 for Linux, UNIX and Windows; takes the same arguments as its base.

    The URL is ``db2+ibm_db://user:password@host:50000/database``. Publishing replaces aliases, because Db2 renames no
    schemas: an alias may stand for a table in the schema of any earlier generation, so tables that did not change are
    neither copied nor moved.

    Materialization details may have ``compression`` (``COMPRESS YES``, ``COMPRESS YES STATIC``, ``COMPRESS YES
    ADAPTIVE``, ``VALUE COMPRESSION`` or a list of two), ``table_space_data``, ``table_space_index`` and
    ``table_space_long``. With ``no_db_locking`` a table that is filled is locked as a whole, else row by row.

    The statements are tested, not yet run against a server.

    Raises:
        MissingExtraError: if the driver is not installed.
        ConfigError: if the URL names another driver, or the database is to be created.
    """

    #: The table of locks on names, one of those of the metadata schema.
    _locks: sa.Table

    dialect_name = "ibm_db_sa"
    lineage_scheme = "db2"
    default_port = 50_000
    identifier_limit = 128
    most_values = 32_767
    stores_lists = False
    duration_type = sa.BigInteger()
    detail_types = {  # noqa: RUF012 - a ClassVar in the base
        "compression": db2_ddl.COMPRESSIONS,
        "table_space_data": str,
        "table_space_index": str,
        "table_space_long": str,
    }

    def create_engine(self) -> sa.Engine:
        """Return an engine that notices connections which have ended, and transactions that Db2 has rolled back."""
        driver = self.url.drivername.partition("+")[2]
        if driver not in ("", "ibm_db", "pipedag"):
            raise ConfigError(f"Write db2+ibm_db://, not {self.url.drivername}://")
        if self.create_database_if_not_exists:
            raise ConfigError(
                f"Db2 makes a database only by a command on its server. Run db2 create database {self.url.database} "
                "there, and remove table_store.args.create_database_if_not_exists."
            )
        try:
            engine = sa.create_engine(self.url.set(drivername="db2+pipedag"), pool_pre_ping=True)
        except ImportError as error:
            raise MissingExtraError("ibm_db is not installed: pip install 'pipedag-airflow[db2]'.") from error
        watch(engine)
        self._locks = add_lock_table(self.metadata_tables.all)
        return engine

    # --- transactions -----------------------------------------------------------------------------------------------

    @contextmanager
    def connection(self) -> Iterator[sa.Connection]:
        """Open a connection with a transaction that ends with the block."""
        with super().connection() as connection:
            UnitOfWork.begin(connection)
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[SQLTransaction]:
        """Open a transaction; when it has ended, the statistics of the tables that it has filled are collected.

        Not within it: RUNSTATS commits whatever is under way.

        Raises:
            StoreError: if the database cannot be reached, or refuses; also if the block went on after a refusal.
            ConfigError: if the database belongs to another instance.
        """
        with super().transaction() as transaction:
            yield transaction
            written = UnitOfWork.of(transaction.connection).written
        collect_statistics(self, written)

    def probe(self, connection: sa.Connection) -> None:
        """Make sure that Db2 has not rolled back a part of the transaction; a failed statement alone does no harm.

        Raises:
            StoreError: if it has, and the error was caught.
        """
        if UnitOfWork.of(connection).rolled_back:
            raise StoreError(
                "Db2 has rolled back the transaction after a deadlock or a time-out (SQL0911N), and the error was "
                "caught; nothing of it was stored. Let such errors pass."
            )

    def reason(self, error: sa.exc.DBAPIError) -> str:
        """Return what the server says, without the parameters of the statement."""
        return errors.reason(error)

    def is_busy(self, error: sa.exc.DBAPIError) -> bool:
        """Say whether a statement failed only because of what others were doing at that moment."""
        return errors.is_busy(error)

    def limit_lock_wait(self, connection: sa.Connection) -> None:
        """Let no statement of the transaction wait long for a lock."""
        connection.execute(db2_ddl.SetLockTimeout(_LOCK_SECONDS))
        note_limit(connection)

    def lock(self, connection: sa.Connection, *names: str) -> None:
        """Let others who want one of the names wait until the transaction ends.

        Before there is a table of locks, others wait who want to make the metadata schema.
        """
        if names == (_SET_UP,):
            schema = self.metadata_tables.schema
            if not self.avoid_drop_create_schema and not catalog.has_schema(connection, schema):
                connection.execute(ddl.CreateSchema(schema))
        else:
            lock_in_transaction(connection, self._locks, names)

    def enter_schema(self, connection: sa.Connection, schema: str, *, alone: bool) -> None:
        """Let a script have a schema for itself until the transaction ends, or share it with others who store tables.

        What a script has made is what is new: the catalog does not tell which transaction made it.
        """
        lock_in_transaction(connection, self._locks, [f"schema {schema}"], share=not alone)

    def physical_name(self, name: str) -> str:
        """Return how a table or index is called: one in capitals is the same as one in small letters."""
        dialect: Any = self.engine.dialect
        return str(dialect.normalize_name(super().physical_name(name)))

    def external_location(
        self, connection: sa.Connection, reference: ExternalTableReference, task: str
    ) -> TableLocation:
        """Return where a table, view, alias or nickname of somebody else's is, and what it looks like now.

        Raises:
            ExternalTableError: if it is not there; the message names the nearest one that is.
        """
        found = attrs.evolve(reference, name=self.physical_name(reference.name))
        return super().external_location(connection, found, task)

    # --- writing ----------------------------------------------------------------------------------------------------

    def create_schema(self, connection: sa.Connection, schema: str) -> None:
        """Create a schema unless it is there, in a transaction of its own: parallel tasks of a stage need the same."""
        if not catalog.has_schema(connection, schema):
            with self.connection() as own:
                super().create_schema(own, schema)

    def refuse_null(self, connection: sa.Connection, schema: str, name: str, columns: Sequence[str]) -> None:
        """Do nothing: which columns may hold no NULL was said when the table was made."""
        del connection, schema, name, columns

    def create_table(
        self, connection: sa.Connection, verb: ddl.CreateTable, table: Table[Any], arrow: pa.Table
    ) -> None:
        """Create an empty table for data, with texts as long as the longest and NOT NULL where no NULL may be."""
        types = fitted_types(verb.columns, arrow, str(table.name))
        tables.create_empty(connection, verb, table, types, lock=self.no_db_locking)

    def create_table_as(self, connection: sa.Connection, verb: ddl.CreateTableAs, table: Table[Any]) -> None:
        """Create a table from a query: define it, and then fill it."""
        tables.create_filled(connection, verb, table, lock=self.no_db_locking)

    def load_arrow(
        self,
        connection: sa.Connection,
        schema: str,
        name: str,
        arrow: pa.Table,
        types: dict[str, sa.types.TypeEngine[Any]],
    ) -> None:
        """Insert the rows of an Arrow table in batches.

        Raises:
            UnsupportedValueError: if a column has a value that Db2 cannot have.
        """
        load(connection, schema, name, arrow, types)

    def fetch_arrow(self, connection: sa.Connection, query: sa.Select[Any]) -> pa.Table:
        """Return the rows of a query as Arrow; types that frames do not have as text."""
        return fetch(connection, query)

    def controls_transaction(self, statement: str) -> bool:
        """Say whether a statement of a script ends a transaction; BEGIN begins a block."""
        return not first_words(statement).isdisjoint({"COMMIT", "ROLLBACK"})

    # --- the catalog ------------------------------------------------------------------------------------------------

    def list_schemas(self, connection: sa.Connection) -> set[str]:
        """Return the names of the schemas of the database."""
        return catalog.schemas(connection)

    def list_objects(
        self, connection: sa.Connection, schemas: Sequence[str], *, own: bool = False
    ) -> dict[Place, ObjectType]:
        """Return what the tables and views of schemas are, aliases among them, in the order of their making.

        Nobody else has made any meanwhile: see :meth:`enter_schema`.
        """
        del own
        return {place: catalog.object_type(kind) for place, kind in catalog.relations(connection, schemas).items()}

    def identities(self, connection: sa.Connection, schema: str) -> dict[Place, int]:
        """Return when each table and view of a schema was made."""
        return catalog.identities(connection, schema)

    def list_columns(
        self, connection: sa.Connection, schema: str, table: str | None = None
    ) -> Mapping[str, tuple[Column, ...]]:
        """Return the columns of all tables and views of a schema, or of one of them."""
        return catalog.columns(connection, schema, table)

    def parse_type(self, text: str) -> sa.types.TypeEngine[Any]:
        """Return the SQLAlchemy type for one of Db2's; unknown ones get no type."""
        return catalog.parse_type(text)

    # --- what readers see, and what goes ----------------------------------------------------------------------------

    def show(self, connection: sa.Connection, view: ddl.CreateView, *, repoint: bool) -> None:
        """Create an alias, or let it stand for another table, with what is granted on the one until now."""
        target = view.shown_schema, view.shown
        before = catalog.base_of_alias(connection, (view.schema, view.name))
        super().show(connection, view, repoint=repoint)
        if before is not None and before != target:
            carry_over(connection, before, target)

    def hide(self, connection: sa.Connection, schema: str, name: str) -> None:
        """Drop an alias; a view of its name, which was made by hand, is left alone."""
        if catalog.base_of_alias(connection, (schema, name)) is not None:
            connection.execute(db2_ddl.DropRelation("ALIAS", (schema, name)))

    def refuse_dependents(self, connection: sa.Connection, schema: str) -> None:
        """Refuse to drop what is in a schema if views outside of it read that: they would become inoperative.

        Raises:
            StoreError: if there are some; the message names them.
        """
        dependents = catalog.dependents_elsewhere(connection, schema)
        if dependents:
            raise StoreError(
                f"The schema {schema} is not dropped, because {', '.join(dependents)} would become inoperative: "
                "nothing is dropped that others have built on. Let them read the aliases in the schema of the stage."
            )

    def content(self, connection: sa.Connection, schema: str) -> list[str]:
        """Return in words what is in a schema."""
        return [*super().content(connection, schema), *catalog.routines_and_sequences(connection, schema)]

    def drops(self, connection: sa.Connection, schema: str) -> list[tuple[str, sa.schema.ExecutableDDLElement]]:
        """Return what would drop each thing in a schema by its name; the newest first."""
        found = catalog.relations(connection, [schema])
        return [(place[1], db2_ddl.DropRelation(kind, place)) for place, kind in reversed(found.items())]

    def drop_schema(self, connection: sa.Connection, schema: str) -> None:
        """Drop a schema that has no content, if it is there."""
        if catalog.has_schema(connection, schema):
            super().drop_schema(connection, schema)
