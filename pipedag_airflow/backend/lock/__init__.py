"""Lock managers: who may build a stage. And a fair lock for a file that admits one process at a time."""

from __future__ import annotations

from pipedag_airflow.backend.lock.base import LockManager
from pipedag_airflow.backend.lock.fair import FairFileLock
from pipedag_airflow.backend.lock.file import FileLockManager
from pipedag_airflow.backend.lock.lease import Lease, LockState, Owner
from pipedag_airflow.backend.lock.none import NoLockManager

__all__ = ["FairFileLock", "FileLockManager", "Lease", "LockManager", "LockState", "NoLockManager", "Owner"]
