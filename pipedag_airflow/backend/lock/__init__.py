"""Lock managers: who may build a stage. And a fair lock for a file that admits one process at a time."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipedag_airflow.backend.lock.base import LockManager
from pipedag_airflow.backend.lock.database import DatabaseLockManager
from pipedag_airflow.backend.lock.fair import FairFileLock
from pipedag_airflow.backend.lock.file import FileLockManager
from pipedag_airflow.backend.lock.lease import Lease, LockState, Owner, Place
from pipedag_airflow.backend.lock.none import NoLockManager
from pipedag_airflow.errors import MissingExtraError

if TYPE_CHECKING:
    from pipedag_airflow.backend.lock.zookeeper import ZooKeeperLockManager

__all__ = [
    "DatabaseLockManager",
    "FairFileLock",
    "FileLockManager",
    "Lease",
    "LockManager",
    "LockState",
    "NoLockManager",
    "Owner",
    "Place",
    "ZooKeeperLockManager",
]


def __getattr__(name: str) -> Any:
    if name != "ZooKeeperLockManager":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return import_module(f"{__name__}.zookeeper").ZooKeeperLockManager
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "kazoo":
            raise
        raise MissingExtraError(
            "ZooKeeperLockManager needs kazoo, which is not installed: pip install 'pipedag-airflow[zookeeper]'"
        ) from error
