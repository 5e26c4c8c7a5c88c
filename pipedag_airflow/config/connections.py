"""Airflow connections, as the configuration sees them: where something is, and how to log in.

A part of the configuration names one by ``args.conn_id``. It is looked up when the part is built, so in the process
that executes a step, and never when a DAG file is parsed. Within Airflow the provider answers, with whatever secrets
backend is set up there; anywhere else the environment variables do that Airflow reads, too.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from attrs import field, frozen

from pipedag_airflow.config.known_secrets import known_secrets
from pipedag_airflow.config.redacting import Secrets
from pipedag_airflow.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Connection",
    "ConnectionSource",
    "EnvironmentConnections",
    "find_connection",
    "find_fernet_keys",
    "use_connections",
]

_PREFIX = "AIRFLOW_CONN_"
_FERNET_KEY = "AIRFLOW__CORE__FERNET_KEY"
_EXTRA = "__extra__"


@frozen
class Connection:
    """A connection of Airflow's.

    Attributes:
        conn_id: Its name.
        conn_type: Its type, such as ``postgres``.
        host: Name or address of the host; for some types a path.
        port: The port.
        schema: What Airflow calls schema and databases call a database.
        login: Name of the user.
        password: The password.
        extra: Whatever else its type knows.
    """

    conn_id: str
    conn_type: str
    host: str | None = None
    port: int | None = None
    schema: str | None = None
    login: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    extra: Mapping[str, Any] = field(factory=dict, repr=False)


class ConnectionSource(ABC):
    """Where connections come from."""

    @abstractmethod
    def connection(self, conn_id: str) -> Connection:
        """Look a connection up.

        Raises:
            ConfigError: If there is none of that name, or it cannot be understood.
        """

    @abstractmethod
    def fernet_keys(self) -> tuple[str, ...]:
        """Return the keys by which Airflow encrypts, the one in use first; none if they are not known here."""


class EnvironmentConnections(ConnectionSource):
    """Connections from the environment, as a URI or as JSON in ``AIRFLOW_CONN_<ID>``: for runs outside of Airflow."""

    def connection(self, conn_id: str) -> Connection:
        """Read ``AIRFLOW_CONN_<ID>``; see :class:`ConnectionSource`."""
        variable = _PREFIX + conn_id.upper()
        text = os.environ.get(variable)
        if not text:
            raise ConfigError(
                f"there is no Airflow connection {conn_id!r}: this process is none of Airflow's, so it is looked for "
                f"in the environment variable {variable}, which is not set. Set it to what "
                f"`airflow connections get {conn_id}` shows as URI, or run the flow in Airflow"
            )
        try:
            return _from_json(conn_id, text) if text.lstrip().startswith("{") else _from_uri(conn_id, text)
        except (ValueError, TypeError):
            pass
        # Raised out here because the error quotes the text, password included.
        raise ConfigError(
            f"the environment variable {variable} is neither a URI such as postgres://user:password@host:5432/database "
            "nor JSON with the keys conn_type, host, port, schema, login, password, extra"
        )

    def fernet_keys(self) -> tuple[str, ...]:
        """Read Airflow's own environment variable."""
        return split_fernet_keys(os.environ.get(_FERNET_KEY, ""))


def split_fernet_keys(text: str) -> tuple[str, ...]:
    """Split Airflow's option ``fernet_key``: while keys are exchanged it has several, the new one first."""
    return tuple(key.strip() for key in text.split(",") if key.strip())


def _from_json(conn_id: str, text: str) -> Connection:
    data = json.loads(text)
    given = {name: str(value) for name, value in data.items() if value not in (None, "")}
    extra = data.get("extra") or {}
    return Connection(
        conn_id=conn_id,
        conn_type=given.get("conn_type") or _no_type(),
        host=given.get("host"),
        port=int(given["port"]) if "port" in given else None,
        schema=given.get("schema"),
        login=given.get("login"),
        password=given.get("password"),
        extra=dict(json.loads(extra) if isinstance(extra, str) else extra),
    )


def _from_uri(conn_id: str, text: str) -> Connection:
    parts = urlsplit(text)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return Connection(
        conn_id=conn_id,
        conn_type=parts.scheme.replace("-", "_") or _no_type(),
        host=_text(_raw_host(parts)),
        port=parts.port,
        schema=_text(parts.path[1:]),
        login=_text(parts.username),
        password=_text(parts.password),
        extra=dict(json.loads(query[_EXTRA])) if _EXTRA in query else query,
    )


def _raw_host(parts: SplitResult) -> str:
    # Not parts.hostname, which is in lower case: the host may be a path.
    address = parts.netloc.rpartition("@")[2]
    return address.rpartition(":")[0] if parts.port is not None else address.removesuffix(":")


def _no_type() -> str:
    raise ValueError("no type")


def _text(quoted: str | None) -> str | None:
    return unquote(quoted) if quoted else None


class _Current:
    source: ConnectionSource = EnvironmentConnections()


def use_connections(source: ConnectionSource) -> None:
    """Look connections up in a source from now on, in the whole process; Airflow's provider does so when it is loaded.

    Args:
        source: Where connections come from.
    """
    _Current.source = source


def find_connection(conn_id: object) -> Connection:
    """Look a connection up; its secrets are known, and hidden, from now on.

    Args:
        conn_id: What the configuration says.

    Returns:
        The connection.

    Raises:
        ConfigError: If there is none of that name; the message is a clause without its place in the configuration.
    """
    if not isinstance(conn_id, str) or not conn_id:
        raise ConfigError(f"expected the name of an Airflow connection, found a {type(conn_id).__name__}")
    if "://" in conn_id:
        # It is not shown: there is a password in most of them.
        raise ConfigError("expected the name of an Airflow connection, found a URL, which belongs under url")
    connection = _Current.source.connection(conn_id)
    known_secrets.learn(filter(None, (connection.password, *Secrets.of(dict(connection.extra)).texts)))
    return connection


def find_fernet_keys() -> tuple[str, ...]:
    """Return the keys by which Airflow encrypts, the one in use first; none if they are not known here."""
    keys = _Current.source.fernet_keys()
    known_secrets.learn(keys)
    return keys
