"""Airflow's own connections and secrets, for the configuration of a flow.

Importing this module makes the configuration ask Airflow for connections, in the whole process, and Airflow hide in its
logs whatever secrets the configuration comes to know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from pipedag_airflow.config import PipedagConfig
from pipedag_airflow.config.connections import Connection, ConnectionSource, split_fernet_keys, use_connections
from pipedag_airflow.config.known_secrets import known_secrets
from pipedag_airflow.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from pipedag_airflow.config import ConfigContext

__all__ = ["AirflowConnections", "airflow_connection", "find_config", "read_config"]

CONFIG_SECTION = "pipedag"
CONFIG_FILE = "config_file"


class AirflowConnections(ConnectionSource):
    """Connections as Airflow knows them: from its secrets backend, the environment, or its database."""

    def connection(self, conn_id: str) -> Connection:
        """Ask Airflow; see :class:`ConnectionSource`."""
        try:
            found = BaseHook.get_connection(conn_id)
        except AirflowNotFoundException as error:
            raise ConfigError(
                f"Airflow has no connection {conn_id!r}. Add it, in the UI under Admin, Connections, or with "
                f"`airflow connections add {conn_id}`"
            ) from error
        return airflow_connection(found)

    def fernet_keys(self) -> tuple[str, ...]:
        """Read Airflow's option."""
        return split_fernet_keys(conf.get("core", "fernet_key", fallback="") or "")


def airflow_connection(found: Any) -> Connection:
    """Return a connection of Airflow's in our words.

    Args:
        found: The connection.
    """
    return Connection(
        conn_id=str(found.conn_id),
        conn_type=str(found.conn_type),
        host=found.host or None,
        port=found.port or None,
        schema=found.schema or None,
        login=found.login or None,
        password=found.password or None,
        extra=dict(found.extra_dejson),
    )


def find_config(folder: Path | None) -> PipedagConfig:
    """Find the configuration of a flow: the file that Airflow's option names, else as everywhere.

    Args:
        folder: The folder of the module that defines the flow.

    Raises:
        ConfigError: if it cannot be used.
    """
    named = conf.get(CONFIG_SECTION, CONFIG_FILE, fallback="")
    return PipedagConfig(named) if named else PipedagConfig.find(folder)


def read_config(folder: Path | None, instance: str | None, flow: str) -> ConfigContext:
    """Read the configuration of a flow, secrets included: in the process that executes a step, and never earlier.

    Args:
        folder: The folder of the module that defines the flow.
        instance: The instance.
        flow: Name of the flow.

    Raises:
        ConfigError: if it cannot be used.
    """
    return find_config(folder).get(instance=instance, flow=flow)


use_connections(AirflowConnections())
known_secrets.tell(mask_secret)
