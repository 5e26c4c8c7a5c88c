"""What a local table cache is: it keeps copies of stored tables, so that tasks need not read them from the database.

A copy is found by the identity of one storing of a table, which no other storing ever has, so a copy that is found is
right: there is nothing to expire, and processes need not talk to each other. A cache is never a reason to fail. What
it cannot give is read from the database, and what went wrong is a line in the log.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pipedag_airflow.backend.lock.files import construct

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl
    import pyarrow as pa

    from pipedag_airflow.backend.table.sql.facts import TableLocation
    from pipedag_airflow.config import ConfigContext

__all__ = ["TableCache"]

log = logging.getLogger(__name__)

T = TypeVar("T")

SECTION = "table_store.local_table_cache"
_OPTIONS = ("store_input", "store_output", "use_stored_input_as_cache")


class TableCache(ABC):
    """Base of all local table caches.

    Args:
        store_input: Keep a copy of a table that a task reads from the database as a frame.
        store_output: Keep a copy of a frame that a task stores.
        use_stored_input_as_cache: Read a copy where there is one.
    """

    def __init__(
        self, store_input: bool = True, store_output: bool = False, use_stored_input_as_cache: bool = True
    ) -> None:
        self.store_input = store_input
        self.store_output = store_output
        self.use_stored_input_as_cache = use_stored_input_as_cache

    @classmethod
    def from_config(cls, context: ConfigContext, **args: Any) -> Self:
        """Make the cache that pipedag.yaml describes.

        Args:
            context: The configuration of the instance; the options stand beside ``args`` there.
            **args: ``table_store.local_table_cache.args``.

        Returns:
            The cache.
        """
        section = context.config_dict["table_store"]["local_table_cache"]
        options = {option: section[option] for option in _OPTIONS if option in section}
        return construct(cls, SECTION, args | options)

    # --- what the table store asks for; a cache is no reason to fail --------------------------------------------------

    def fetch(
        self, location: TableLocation, read: Callable[[], pa.Table], standing: Callable[[], int | None]
    ) -> pa.Table:
        """Return the copy of a table, or what a read from the database gives; of that a copy is kept if it is wanted.

        Args:
            location: Where the table is; its ``keep_copy`` goes before ``store_input``.
            read: Reads it from the database.
            standing: Says whether what is read is the table that is meant; see
                :func:`~pipedag_airflow.backend.table.sql.standing.standing`.

        Raises:
            Exception: What ``read`` raises.
        """
        copy = self._found(location, self.read)
        if copy is not None:
            return copy
        wanted = self.store_input if location.keep_copy is None else location.keep_copy
        if not wanted or location.id is None:
            return read()
        before = self._tried(location, standing)
        table = read()
        as_stored = location.rows in (None, table.num_rows)  # else a script or a user has changed it since
        if as_stored and before is not None and self._tried(location, standing) == before:
            self.keep(location, table)
        return table

    def find_lazy(self, location: TableLocation) -> pl.LazyFrame | None:
        """Return a frame that reads the copy of a table when it is collected; None if there is none.

        Args:
            location: Where the table is.
        """
        return self._found(location, self.scan)

    def keep(self, location: TableLocation, table: pa.Table) -> None:
        """Keep a copy of a table.

        Args:
            location: Where the table is.
            table: What a read from the database gives.
        """
        self._tried(location, lambda: self.write(location, table))

    def _found(self, location: TableLocation, read: Callable[[TableLocation], T | None]) -> T | None:
        if not self.use_stored_input_as_cache or location.id is None:
            return None
        try:
            return read(location)
        except Exception as error:  # whatever is wrong with a copy, the table itself is in the database
            _warn("The local copy of table %s.%s is not used; it is read from the database: %s: %s", location, error)
            return None

    def _tried(self, location: TableLocation, attempt: Callable[[], T]) -> T | None:
        try:
            return attempt()
        except Exception as error:  # a full disk, a folder without rights, a type that the files do not have
            _warn("No local copy of table %s.%s is kept; it will be read again: %s: %s", location, error)
            return None

    # --- what a cache provides ----------------------------------------------------------------------------------------

    @abstractmethod
    def read(self, location: TableLocation) -> pa.Table | None:
        """Return the copy with the stage, name and ``id`` of a location: types and values as they were written.

        Args:
            location: Where the table is; its ``id`` is not None.

        Returns:
            The table; None if there is no copy.

        Raises:
            Exception: If there is something in the place of the copy that is not whole, or not of this table.
        """

    @abstractmethod
    def write(self, location: TableLocation, table: pa.Table) -> None:
        """Keep a copy. Until it is whole, nobody sees it; several processes may write the same one at a time.

        Args:
            location: Where the table is; its ``id`` is not None.
            table: The table.

        Raises:
            Exception: If it cannot be written.
        """

    def scan(self, location: TableLocation) -> pl.LazyFrame | None:
        """Return a frame that reads the copy when it is collected, where that gives what :meth:`read` gives.

        Args:
            location: Where the table is; its ``id`` is not None.

        Returns:
            The frame; None if there is no copy, or it has to be read at once.

        Raises:
            Exception: As :meth:`read`.
        """
        del location
        return None

    @abstractmethod
    def check(self) -> str:
        """Try the cache: keep a copy, read it, and remove it.

        Returns:
            What was tried.

        Raises:
            StoreError: If one of them fails; runs would go on without copies.
        """


def _warn(message: str, location: TableLocation, error: Exception) -> None:
    log.warning(message, location.stage, location.name, type(error).__name__, error)
