"""The client of ZooKeeper, from what pipedag.yaml or an Airflow connection says."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException
from kazoo.protocol.serialization import SASL, Auth
from kazoo.security import make_acl

from pipedag_airflow.core.naming import suggest
from pipedag_airflow.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipedag_airflow.config.connections import Connection

__all__ = ["client_args", "make_client"]

#: Arguments of the client. It would take a server without a quorum for a connection, or somebody else's session.
_NOT_FOR_LOCKS = ("read_only", "client_id")
#: How often the client tries to reach a server. Its own default waits twice as long each time, up to an hour.
_RECONNECT = {"max_tries": -1, "delay": 0.1, "max_delay": 1.0}
#: Arguments that a text is not good for, which is all that the parameters of a URI are.
_NO_TEXTS = ("timeout", "use_ssl", "verify_certs", "check_hostname", "default_acl")


class _WithoutCredentials(logging.Filter):
    """Drops what kazoo logs of a request that has credentials in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        args = record.args if isinstance(record.args, tuple) else ()
        return not any(isinstance(arg, Auth | SASL) for arg in args)


logging.getLogger("kazoo.client").addFilter(_WithoutCredentials())


def make_client(given: Mapping[str, Any]) -> KazooClient:
    """Make a client from what pipedag.yaml says.

    Args:
        given: The arguments of ``KazooClient``. YAML has no tuples and no objects, so ``auth_data`` may be a list of
            lists ``[scheme, credential]``, and ``default_acl`` a list of the arguments of ``kazoo.security.make_acl``.

    Returns:
        The client, not started.

    Raises:
        ConfigError: if the arguments do not fit.
    """
    args = {"connection_retry": _RECONNECT, **given}
    known = set(inspect.signature(KazooClient).parameters) - {"kwargs", *_NOT_FOR_LOCKS}
    for name in given.keys() - known:
        raise ConfigError(f"lock_manager.args.{name} is not for locks in ZooKeeper; {suggest(name, known)}")
    try:
        if args.get("auth_data"):
            args["auth_data"] = {(scheme, credential) for scheme, credential in args["auth_data"]}
        if args.get("default_acl"):
            args["default_acl"] = [make_acl(**entry) for entry in args["default_acl"]]
        return KazooClient(**args)
    except (TypeError, ValueError, KazooException) as error:
        # The values stay out of the message: a credential may be among them.
        raise ConfigError(
            f"lock_manager.args of pipedag.yaml do not fit kazoo.client.KazooClient: {type(error).__name__}. Given: "
            f"{', '.join(given)}. auth_data is a list of [scheme, credential], default_acl a list of "
            "{scheme: ..., credential: ..., all: true}."
        ) from error


def client_args(connection: Connection) -> dict[str, Any]:
    """Return the arguments that an Airflow connection stands for.

    Args:
        connection: The connection. Its host is one server or several, each with a port of its own if need be, its
            schema the root of all that is stored, its login and password are credentials of the scheme ``digest``.

    Raises:
        ConfigError: if it has no host, or something of its extra is a text that must not be one.
    """
    if not connection.host:
        raise ConfigError(f"the connection {connection.conn_id!r} has no host: the servers of ZooKeeper belong there")
    texts = [name for name in _NO_TEXTS if isinstance(connection.extra.get(name), str)]
    if texts:
        raise ConfigError(
            f"the connection {connection.conn_id!r} has {', '.join(texts)} as text: write its extra as JSON, such as "
            '{"timeout": 10, "use_ssl": true}'
        )
    servers = connection.host.split(",")
    hosts = ",".join(f"{server}:{connection.port}" if connection.port else server for server in servers)
    root = f"/{connection.schema.strip('/')}" if connection.schema else ""
    args = {**connection.extra, "hosts": hosts + root}
    if connection.login:
        args["auth_data"] = [["digest", f"{connection.login}:{connection.password or ''}"]]
    return args
