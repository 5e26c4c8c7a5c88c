"""Short names of classes: what an installed distribution has registered can be named so in ``pipedag.yaml``."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from pipedag_airflow.errors import ConfigError

__all__ = ["GROUPS", "find_registered"]

#: The group of entry points for each part of the configuration that has a class.
GROUPS = {
    "table_store": "pipedag_airflow.table_stores",
    "table_store.local_table_cache": "pipedag_airflow.local_table_caches",
    "blob_store": "pipedag_airflow.blob_stores",
    "lock_manager": "pipedag_airflow.lock_managers",
    "orchestration": "pipedag_airflow.engines",
}


def find_registered(path: str, name: str) -> EntryPoint:
    """Find the class that is registered under a short name.

    Args:
        path: The dotted path of a part of the configuration, which says what kind of class is meant.
        name: The name.

    Returns:
        The entry point, not loaded.

    Raises:
        ConfigError: If no distribution has registered that name, or several have; the message is a clause.
    """
    if path not in GROUPS:
        raise ConfigError("which is no dotted path. Write package.module.Class")
    known = entry_points(group=GROUPS[path])
    found = sorted(known.select(name=name), key=_described)
    if not found:
        names = ", ".join(sorted(known.names)) or "none"
        raise ConfigError(
            f"which is neither a dotted path (package.module.Class) nor a name that an installed distribution has "
            f"registered. Names in the group {GROUPS[path]} of entry points: {names}"
        )
    if len(found) > 1:
        raise ConfigError(
            f"a name that {' and '.join(map(_described, found))} have registered. Write the dotted path of the one "
            "that is meant"
        )
    return found[0]


def _described(entry_point: EntryPoint) -> str:
    distribution = entry_point.dist.name if entry_point.dist else "an unknown distribution"
    return f"{distribution} (for {entry_point.value.replace(':', '.')})"
