"""Is a process of this machine still the one that it was?

A process id alone does not tell: the kernel gives it out again. On Linux the time at which the process started,
counted by the kernel since the boot, makes it unique; elsewhere only the id is compared.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

__all__ = ["pid_space", "process_is_gone", "process_started"]


class _Stat(NamedTuple):
    state: str
    started: float


def _read_stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None  # no /proc here, or it hides the processes of other users
    # The command stands in parentheses and may hold spaces and parentheses itself; the fields after the last one
    # begin with field 3 of proc(5), so the start time, field 22, is number 19 of them.
    fields = text.rpartition(")")[2].split()
    return _Stat(fields[0], float(fields[19])) if len(fields) > 19 else None


def process_started(pid: int) -> float | None:
    """When a process of this machine started, in clock ticks since the boot.

    Args:
        pid: The process id.

    Returns:
        Field 22 of ``/proc/<pid>/stat``; ``None`` where there is no such file.
    """
    stat = _read_stat(pid)
    return stat.started if stat else None


def pid_space() -> str | None:
    """Name the space in which the process ids of this process count.

    Two containers may share a host name and a folder and yet not see each other's processes; then "no such process"
    says nothing.

    Returns:
        The PID namespace on Linux; ``None`` elsewhere.
    """
    try:
        return Path("/proc/self/ns/pid").readlink().name
    except OSError:
        return None


def process_is_gone(pid: int, started: float | None) -> bool:
    """Whether a process of this machine and PID space is certainly over.

    Args:
        pid: The process id.
        started: What ``process_started`` gave while it lived, if known.

    Returns:
        ``True`` only when it is certain: no such process, a zombie, or another process with the same id.
    """
    if os.name == "nt" or pid <= 0:
        return False  # Windows reads signal 0 as Ctrl-C; there is no harmless question to ask
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it lives, and belongs to another user
    stat = _read_stat(pid)
    if stat is None:
        return False
    # A zombie has ended; only its parent has not asked for the exit code yet.
    return stat.state in {"Z", "X"} or (started is not None and stat.started != started)
