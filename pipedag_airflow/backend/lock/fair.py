"""A first come, first served lock between processes.

An embedded database (DuckDB) admits one writing process at a time and tells the others "could not set lock". Whoever
retries soonest wins, and somebody may starve. Here everybody takes a ticket and waits for the tickets before it.

A ticket is a proof of life: a file that its owner keeps locked in the operating system. When the owner
dies, however it dies, the kernel drops that lock, and those behind see it at their next look. So there are no time
limits to tune and nothing to clear after a crash.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, unquote

import attrs
import filelock

from pipedag_airflow.backend.lock.files import shared_mode
from pipedag_airflow.errors import LockError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["FairFileLock"]

_TICKET = re.compile(r"(?P<number>\d{12})-(?P<pid>\d+)-(?P<host>.+)\.ticket")
# The first looks come quickly, because a database is often open for milliseconds only.
_FIRST_PAUSE = 0.001


@attrs.frozen
class _Ticket:
    """One place in the queue. What names its owner stands in the file's name, which appears in one step."""

    path: Path
    number: int
    pid: int
    host: str

    @classmethod
    def parse(cls, path: Path) -> _Ticket | None:
        match = _TICKET.fullmatch(path.name)
        if match is None:
            return None
        return cls(path, int(match["number"]), int(match["pid"]), unquote(match["host"]))

    @classmethod
    def of_us(cls, folder: Path, number: int) -> _Ticket:
        host = socket.gethostname()
        pid = os.getpid()
        return cls(folder / f"{number:012d}-{pid}-{quote(host, safe='')[:100]}.ticket", number, pid, host)


@attrs.frozen
class _Held:
    ticket: _Ticket
    lock: filelock.BaseFileLock
    pid: int


class FairFileLock:
    """A lock between processes, and threads, that is given in the order of asking.

    It works on local file systems and on network file systems with coherent locks. Threads may share an object or use
    one each; asking again while holding it waits for oneself, until the timeout. After a fork the parent holds it. An
    object that is dropped gives its turn back.

    Args:
        path: What is guarded, for example the database file. The queue is the folder ``<path>.queue`` beside it.
        timeout: How many seconds to wait for one's turn.
        poll: How often to look whether it has come, in seconds.
    """

    def __init__(self, path: str | Path, *, timeout: float, poll: float = 0.02) -> None:
        self.path = Path(path).absolute()
        self.timeout = timeout
        self.poll = poll
        self._folder = self.path.with_name(self.path.name + ".queue")
        self._held: _Held | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock in this process."""
        return self._held is not None and self._held.pid == os.getpid()

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits behind us; also somebody who died while waiting, until the next one clears that."""
        held = self._held
        return held is not None and any(ticket.number > held.ticket.number for ticket in self._tickets())

    def acquire(self) -> None:
        """Wait for one's turn.

        Raises:
            LockError: When it has not come in time, or the queue cannot be used.
        """
        deadline = time.monotonic() + self.timeout
        try:
            place = self._take_place(deadline)
            try:
                self._wait(place.ticket, deadline)
                _note_start(place.ticket)
            except BaseException:  # also Ctrl-C: nobody may wait for somebody who left
                _leave(place)
                raise
        except OSError as error:
            msg = (
                f"The queue {self._folder}, which guards {self.path}, cannot be used: {error}. Give this user write "
                f"access to that folder; when no process uses {self.path.name}, it can also be deleted."
            )
            raise LockError(msg) from error
        self._held = place

    def release(self) -> None:
        """Let the next one go. Nothing happens when it is not held, or by another process."""
        # A forked child has a copy of this object; it must not end the parent's turn, also not by dropping the lock
        # inside, which older versions of filelock would give back then.
        if self._held is not None and self._held.pid == os.getpid():
            held, self._held = self._held, None
            _leave(held)

    def _take_place(self, deadline: float) -> _Held:
        self._make_folder()
        mode = shared_mode(self._folder)
        mutex = filelock.FileLock(self._folder / "mutex", mode=mode, poll_interval=_FIRST_PAUSE, thread_local=False)
        try:
            mutex.acquire(timeout=max(0.0, deadline - time.monotonic()))
        except filelock.Timeout as error:
            raise LockError(self._too_late(f"even {mutex.lock_file} stays locked")) from error
        try:
            # Numbers may start again when the queue is empty: whoever waits is in the list, so a new number is always
            # larger than all that anybody waits for.
            number = max((ticket.number for ticket in self._tickets()), default=0) + 1
            ticket = _Ticket.of_us(self._folder, number)
            lock = _lock_of(ticket, mode)
            lock.acquire(blocking=False)  # nobody looks at numbers above their own, so it is free
            return _Held(ticket, lock, ticket.pid)
        finally:
            mutex.release()

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True)
        except FileExistsError:
            return
        parent = self._folder.parent
        if shared_mode(parent) != 0o600:
            # Who may use the database may queue for it; the umask of the first process must not decide that.
            with contextlib.suppress(OSError):
                self._folder.chmod(parent.stat().st_mode & 0o2777)

    def _tickets(self) -> list[_Ticket]:
        found = (_Ticket.parse(path) for path in self._folder.iterdir())
        return sorted((ticket for ticket in found if ticket is not None), key=lambda ticket: ticket.number)

    def _wait(self, ours: _Ticket, deadline: float) -> None:
        ahead = self._ahead_of(ours)
        pause = min(_FIRST_PAUSE, self.poll)
        while ahead:
            if _is_over(ahead[-1]):
                # Those before it may still be alive: it may have been killed while it waited.
                ahead.pop()
                continue
            if time.monotonic() >= deadline:
                raise LockError(self._too_late(_describe(ahead)))
            time.sleep(max(0.0, min(pause, deadline - time.monotonic())))
            pause = min(pause * 2, self.poll)

    def _ahead_of(self, ours: _Ticket) -> list[_Ticket]:
        return [ticket for ticket in self._tickets() if ticket.number < ours.number]

    def _too_late(self, who: str) -> str:
        return (
            f"{self.path} was not free within {self.timeout:g} s: {who}. Wait and try again, allow a longer timeout, "
            f"or end that process if it hangs; the others then go on by themselves. The queue is {self._folder}."
        )

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _lock_of(ticket: _Ticket, mode: int) -> filelock.BaseFileLock:
    # Not thread_local: a lock taken in one thread may be given back in another.
    return filelock.FileLock(ticket.path, mode=mode, thread_local=False)


def _is_over(ticket: _Ticket) -> bool:
    """Whether the owner of a ticket left or died; then the file goes, too."""
    if not ticket.path.exists():  # the usual end; asking the lock would make the file anew
        return True
    lock = _lock_of(ticket, shared_mode(ticket.path.parent))
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return False  # its owner lives, or somebody else is clearing it this moment
    _leave(_Held(ticket, lock, os.getpid()))
    return True


def _leave(place: _Held) -> None:
    # Unlinked before unlocked, so that nobody can lock the file of a ticket that is over and take it for a dead one's.
    with contextlib.suppress(OSError):
        place.ticket.path.unlink()
    place.lock.release()
    if os.name == "nt":  # an open file cannot be unlinked there
        with contextlib.suppress(OSError):
            place.ticket.path.unlink()


def _note_start(ticket: _Ticket) -> None:
    # For the message of those who wait in vain; nobody's correctness depends on it. Versions of filelock before 4 empty
    # a file when they try to lock it, and then the message does without the time.
    with contextlib.suppress(OSError):
        ticket.path.write_text(repr(time.time()), encoding="ascii")


def _describe(ahead: list[_Ticket]) -> str:
    # The first one is the holder, unless it died this moment.
    ahead = [ticket for ticket in ahead if not _is_over(ticket)] or ahead
    holder = ahead[0]
    try:
        text = holder.path.read_text(encoding="ascii")
        since = f" since {_utc(float(text))}"
    except (OSError, ValueError):
        since = ""
    us = ", which is this very process" if (holder.pid, holder.host) == (os.getpid(), socket.gethostname()) else ""
    waiting = f"; {len(ahead) - 1} more wait before us" if len(ahead) > 1 else ""
    return f"it is held by the process {holder.pid} on host {holder.host}{since}{us}{waiting}"


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
