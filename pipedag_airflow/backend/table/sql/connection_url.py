"""The SQLAlchemy URL that an Airflow connection stands for."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pipedag_airflow.errors import ConfigError

if TYPE_CHECKING:
    from pipedag_airflow.config.connections import Connection

__all__ = ["connection_scheme", "file_url", "server_url"]

# Airflow's own names for these entries of a connection's extra.
_SCHEME = "sqlalchemy_scheme"
_QUERY = "sqlalchemy_query"
_SCHEMES = {"postgres": "postgresql"}


def connection_scheme(connection: Connection) -> str:
    """Return SQLAlchemy's name for dialect and driver: what the extra says, else what the type means.

    Args:
        connection: The connection.

    Raises:
        ConfigError: if a connection of our own type says neither.
    """
    given = connection.extra.get(_SCHEME)
    if given:
        return str(given)
    if connection.conn_type == "pipedag":
        raise ConfigError(
            f"the connection {connection.conn_id!r} does not say which database it is for: fill in {_SCHEME}, such as "
            "duckdb or postgresql"
        )
    return _SCHEMES.get(connection.conn_type, connection.conn_type)


def server_url(connection: Connection, scheme: str) -> sa.URL:
    """Return the URL of a database on a server; entries of the extra become its parameters, such as ``sslmode``.

    Args:
        connection: The connection.
        scheme: SQLAlchemy's name of dialect and driver.

    Raises:
        ConfigError: if an entry of the extra is a list or a map.
    """
    return sa.URL.create(
        scheme,
        username=connection.login,
        password=connection.password,
        host=connection.host,
        port=connection.port,
        database=connection.schema,
        query=_parameters(connection),
    )


def file_url(connection: Connection, scheme: str) -> sa.URL:
    """Return the URL of a database that is a file: the host of the connection is its path, or the schema is.

    Args:
        connection: The connection.
        scheme: SQLAlchemy's name of dialect and driver.

    Raises:
        ConfigError: if there is no path, there are two, or it is relative.
    """
    paths = [path for path in (connection.host, connection.schema) if path]
    if len(paths) != 1 or not PurePath(paths[0]).is_absolute():
        # Processes of Airflow's run in folders of their own.
        found = " and ".join(map(repr, paths)) or "nothing"
        raise ConfigError(
            f"the connection {connection.conn_id!r} must have the absolute path of the database file as its host, "
            f"or as its schema; found {found}"
        )
    return sa.URL.create(scheme, database=paths[0], query=_parameters(connection))


def _parameters(connection: Connection) -> dict[str, str]:
    """Return the parameters of the URL. Nothing is left out silently: an sslmode that is not heeded is no sslmode."""
    rest = {name: value for name, value in connection.extra.items() if name not in (_SCHEME, _QUERY)}
    return {
        name: _parameter(connection, name, value)
        for name, value in (rest | dict(connection.extra.get(_QUERY) or {})).items()
    }


def _parameter(connection: Connection, name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value).lower()
    raise ConfigError(
        f"the connection {connection.conn_id!r} has {name!r} in its extra, which is a {type(value).__name__}: only "
        "texts, numbers and truth values can be parameters of a URL"
    )
