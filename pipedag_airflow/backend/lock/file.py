"""Leases in files, for runs that share a folder."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import unquote

import filelock

from pipedag_airflow.backend.lock.codec import decode, encode
from pipedag_airflow.backend.lock.files import (
    InstanceContext,
    construct,
    file_name,
    instance_folder,
    replace_file,
    shared_mode,
)
from pipedag_airflow.backend.lock.records import RecordLockManager
from pipedag_airflow.backend.lock.stage_record import StageRecord
from pipedag_airflow.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["FileLockManager"]

T = TypeVar("T")

_SUFFIX = ".lease"
# Records are changed in milliseconds. Who waits this long looks at a process that hangs inside such a change.
_MUTEX_SECONDS = 30.0


class FileLockManager(RecordLockManager):
    """Keeps one small JSON file per stage, changed under a short lock of the operating system.

    All processes must see the same folder, on one host or on a network file system with working locks, and their clocks
    should agree to a few seconds.

    Args:
        base_path: The folder. Made when it is missing. From pipedag.yaml the instance id is appended to it.
        ticket_seconds: How long a refused caller keeps its place without asking again.
        clock: The present time in seconds since 1970.
    """

    def __init__(
        self, base_path: str | Path, *, ticket_seconds: float = 10.0, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(clock=clock, ticket_seconds=ticket_seconds)
        # Absolute now: a task may change the working folder later.
        self.base_path = Path(base_path).expanduser().absolute()

    @classmethod
    def from_config(cls, context: InstanceContext, **args: Any) -> Self:
        """Make the lock manager that pipedag.yaml describes.

        Args:
            context: The configuration of the instance; its id is appended to ``base_path``.
            **args: ``lock_manager.args``.

        Returns:
            The manager.
        """
        if "base_path" in args:
            args["base_path"] = Path(args["base_path"]) / instance_folder(context.instance_id)
        return construct(cls, "lock_manager", args)

    def _path(self, stage: str) -> Path:
        return self.base_path / (file_name(stage) + _SUFFIX)

    def _stages(self) -> list[str]:
        stages = []
        for path in sorted(self.base_path.glob("*" + _SUFFIX)):
            try:
                record = self._load(path)
            except LockError:
                stages.append(unquote(path.name.removesuffix(_SUFFIX)))  # whoever reads it gets the error
                continue
            if record is not None:
                stages.append(record.stage)  # not from the file's name, which may be shortened
        return stages

    def _read(self, stage: str) -> StageRecord:
        path = self._path(stage)
        record = self._load(path)
        if record is None:
            return StageRecord(stage)
        if record.stage != stage:
            msg = (
                f"{path} is the lease of stage {record.stage!r}, not of {stage!r}. Two names that differ only in case "
                f"share a file on this file system; rename one of the stages."
            )
            raise LockError(msg)
        return record

    def _load(self, path: Path) -> StageRecord | None:
        try:
            return decode(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except OSError as error:
            msg = f"The lease file {path} cannot be read: {error}. Give this user access to the folder of the locks."
            raise LockError(msg) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            msg = (
                f"{path} is not a lease record ({type(error).__name__}: {error}). We replace these files in one step, "
                f"so something else damaged it. Make sure that no run of this instance is active and delete it."
            )
            raise LockError(msg) from error

    def _change(self, stage: str, change: Callable[[StageRecord], tuple[StageRecord, T]]) -> T:
        with self._exclusive(stage):
            old = self._read(stage)
            new, result = change(old)
            if new != old:
                self._write(stage, new)
            return result

    def _write(self, stage: str, record: StageRecord) -> None:
        path = self._path(stage)
        try:
            replace_file(path, (json.dumps(encode(record), indent=1) + "\n").encode("ascii"))
        except OSError as error:
            msg = f"The lease of stage {stage!r} cannot be written to {path}: {error}. The old one still counts."
            raise LockError(msg) from error

    @contextmanager
    def _exclusive(self, stage: str) -> Iterator[None]:
        path = self.base_path / (file_name(stage) + ".lock")
        try:
            self.base_path.mkdir(parents=True, exist_ok=True)
            # A new object each time: threads of one process then exclude each other like processes do.
            mode = shared_mode(self.base_path)
            lock = filelock.FileLock(path, timeout=_MUTEX_SECONDS, mode=mode, poll_interval=0.005)
            lock.acquire()
        except filelock.Timeout as error:
            msg = (
                f"The lease of stage {stage!r} cannot be changed: another process has had {path} locked for more than "
                f"{_MUTEX_SECONDS:g} s, normally it takes milliseconds. Find it with `fuser {path}` or "
                f"`lslocks`, and end it if it hangs."
            )
            raise LockError(msg) from error
        except OSError as error:
            msg = (
                f"The lease of stage {stage!r} cannot be changed: {path} cannot be locked: {error}. Give this user "
                f"write access to {self.base_path}, or set lock_manager.args.base_path to another folder."
            )
            raise LockError(msg) from error
        try:
            yield
        finally:
            lock.release()
