"""The hook: a table store's database by its Airflow connection, for tasks that are none of a flow, and for the UI."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import sqlalchemy as sa
from airflow.sdk import BaseHook

import pipedag_airflow.provider.connections  # noqa: F401 - importing it makes Airflow the one that is asked
from pipedag_airflow.backend.table.sql.store import SQLTableStore
from pipedag_airflow.config.connections import find_connection
from pipedag_airflow.config.known_secrets import without_secrets

__all__ = ["PipedagHook"]


class PipedagHook(BaseHook):
    """Opens the database of an Airflow connection as a table store does.

    The connection may be of the type ``pipedag``, whose form in the UI asks for dialect and driver, or of the type of a
    database, such as ``postgres``.

    Args:
        pipedag_conn_id: Name of the connection.
        kwargs: Arguments of Airflow's ``BaseHook``.

    Example:
        ::

            with PipedagHook("warehouse").get_conn() as connection:
                pandas.read_sql("select * from mart.large_orders", connection)
    """

    conn_name_attr = "pipedag_conn_id"
    default_conn_name = "pipedag_default"
    conn_type = "pipedag"
    hook_name = "pipedag"

    def __init__(self, pipedag_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pipedag_conn_id = pipedag_conn_id

    @cached_property
    def store(self) -> SQLTableStore:
        """The table store, with nothing but the URL configured.

        Raises:
            ConfigError: if there is no such connection, or it lacks something.
        """
        url = SQLTableStore.connection_args(find_connection(self.pipedag_conn_id))["url"]
        return SQLTableStore(url)  # type: ignore[abstract]  # it makes the store of the dialect

    def get_conn(self) -> sa.Connection:
        """Return an open connection of SQLAlchemy's; close it, or use it with ``with``.

        Raises:
            ConfigError: if there is no such connection, or it lacks something.
            StoreError: if the database cannot be reached.
        """
        return self.store.open()

    def get_engine(self) -> sa.Engine:
        """Return an engine of SQLAlchemy's.

        Raises:
            ConfigError: if there is no such connection, or it lacks something.
        """
        return self.store.engine

    def test_connection(self) -> tuple[bool, str]:
        """Try the connection, for the button of that name in the UI.

        Returns:
            Whether the database answers, and in words where it is, or why not.
        """
        try:
            # Not store.connection(): that queues behind the tasks that use the file of a DuckDB.
            with self.get_conn() as connection:
                connection.execute(sa.select(sa.literal(1)))
            # The server of the UI lives long, and keeps no connection for this.
            self.store.dispose()
        except Exception as error:  # whatever a driver raises, the UI shows the message
            return False, without_secrets(f"{type(error).__name__}: {error}")
        return True, f"Connected to {self.store.address}"
