"""What the tests of lock managers work with: a clock that tests move, managers in other processes, fixtures."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from pipedag_airflow.backend.lock import LockManager, Owner
from pipedag_airflow.backend.lock.process import process_started
from pipedag_airflow.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

__all__ = ["PATIENCE", "Clock", "LockManagerFixtures", "Remote", "heartbeat", "run_lock_commands", "until"]

#: Seconds; only how long a broken manager takes to fail.
PATIENCE = 60.0


class Clock:
    """A clock that tests move.

    Args:
        now: The present time; by default later than the start of any server.
    """

    def __init__(self, now: float = 4_000_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Give the present time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Args:
            seconds: How much.
        """
        self.now += seconds


def run_lock_commands(make_manager: Callable[..., LockManager], pipe: Connection) -> None:
    """Use a lock manager in another process, as the test says.

    Args:
        make_manager: Makes the manager.
        pipe: Gives tuples of a method's name and its arguments; takes the result, or the error's class and text.
    """
    manager = make_manager()
    while True:
        name, args, options = pipe.recv()
        try:
            pipe.send((None, getattr(manager, name)(*args, **options)))
        except LockError as error:
            pipe.send((type(error), str(error)))


class Remote:
    """A lock manager in another process.

    Args:
        make_manager: Makes the manager there.
    """

    def __init__(self, make_manager: Callable[..., LockManager]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=run_lock_commands, args=(make_manager, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def send(self, name: str, *args: Any, **options: Any) -> None:
        """Call a method there, without waiting for its result."""
        self._pipe.send((name, args, options))

    def result(self) -> Any:
        """Return the result of the oldest call whose result was not taken, or raise its error."""
        assert self._pipe.poll(PATIENCE), "the other process does not answer"
        kind, value = self._pipe.recv()
        if kind is not None:
            raise kind(value)
        return value

    def call(self, name: str, *args: Any, **options: Any) -> Any:
        """Call a method there."""
        self.send(name, *args, **options)
        return self.result()

    def owner(self, run_id: str) -> Owner:
        """The session form, as the other process would give it."""
        assert self.process.pid is not None
        mine = Owner.this_process(run_id)
        return Owner(run_id, mine.host, self.process.pid, process_started(self.process.pid), mine.pid_space)

    def kill(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.join(PATIENCE)
        self._pipe.close()


class LockManagerFixtures:
    """The fixtures of a suite of lock managers."""

    injectable_clock: ClassVar[bool] = True
    """Whether ``make_manager`` takes ``clock=``. Otherwise the tests that let time pass are skipped."""

    separate_processes: ClassVar[bool] = True
    """Whether ``make_manager`` can be pickled and gives managers of the same leases in other processes."""

    sees_sessions: ClassVar[bool] = False
    """Whether the manager knows by itself that a process on another host lives, so that time does not decide."""

    @pytest.fixture
    def make_manager(self) -> Callable[..., LockManager]:
        """Give a callable that makes a manager; all managers of one test share their leases. To be overridden."""
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> Clock:
        """The clock of the test's managers."""
        return Clock()

    @pytest.fixture
    def manager(self, make_manager: Callable[..., LockManager], clock: Clock) -> Iterator[LockManager]:
        """A manager."""
        manager = make_manager(clock=clock) if self.injectable_clock else make_manager()
        yield manager
        manager.dispose()

    @pytest.fixture
    def other(self, make_manager: Callable[..., LockManager], clock: Clock) -> Iterator[LockManager]:
        """Another manager of the same leases, as another process would have it."""
        manager = make_manager(clock=clock) if self.injectable_clock else make_manager()
        yield manager
        manager.dispose()

    @pytest.fixture
    def remotes(self, make_manager: Callable[..., LockManager]) -> Iterator[Callable[[], Remote]]:
        """Give a callable that starts a process with a manager of the same leases."""
        if not self.separate_processes:
            pytest.skip("the manager says that its leases live in one process")
        started: list[Remote] = []

        def start() -> Remote:
            started.append(Remote(make_manager))
            return started[-1]

        yield start
        for remote in started:
            with contextlib.suppress(OSError):
                remote.kill()

    @pytest.fixture
    def real_time(self, make_manager: Callable[..., LockManager]) -> Iterator[LockManager]:
        """A manager with its own clock, as those of other processes have."""
        manager = make_manager()
        yield manager
        manager.dispose()

    def needs_guards(self, manager: LockManager) -> None:
        """Skip the test if the manager guards nothing."""
        if not manager.guards:
            pytest.skip("the manager says that it guards nothing")

    def needs_clock(self, manager: LockManager) -> None:
        """Skip the test if it cannot let time pass for the manager."""
        self.needs_guards(manager)
        if not self.injectable_clock:
            pytest.skip("the manager's clock cannot be moved")


def heartbeat(manager: LockManager) -> float:
    """Return when the holder of the stage "s" was last heard of."""
    lease = manager.holder("s")
    assert lease is not None
    return lease.heartbeat


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    tick = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if condition():
            return
        tick.wait(0.01)
    pytest.fail("the condition never came true")
