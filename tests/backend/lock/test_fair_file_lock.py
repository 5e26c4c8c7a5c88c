from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import pytest

from pipedag_airflow.backend.lock import FairFileLock
from pipedag_airflow.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.process import BaseProcess

SPAWN = multiprocessing.get_context("spawn")
PATIENCE = 60.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.005)


def tickets(path: Path) -> list[str]:
    folder = Path(f"{path}.queue")
    return sorted(item.name for item in folder.glob("*.ticket")) if folder.exists() else []


def hold_until_killed(path: Path, held: object) -> None:
    lock = FairFileLock(path, timeout=PATIENCE)  # kept: an object that is dropped gives its turn back
    lock.acquire()
    held.set()  # type: ignore[attr-defined]
    threading.Event().wait()


def write_name(path: Path, name: str) -> None:
    with FairFileLock(path, timeout=PATIENCE), path.open("a") as file:
        file.write(name + "\n")


def count(path: Path, times: int) -> None:
    lock = FairFileLock(path, timeout=PATIENCE)
    for _ in range(times):
        with lock:
            before = int(path.read_text())
            time.sleep(0.001)  # not to synchronise: it widens the gap in which a second holder would be seen
            path.write_text(str(before + 1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "Größe λ with blanks"
    folder.mkdir()
    return folder / "data base.duckdb"


@pytest.fixture
def start() -> Iterator[Callable[..., BaseProcess]]:
    started = []

    def start(target: Callable[..., object], *args: object) -> BaseProcess:
        process = SPAWN.Process(target=target, args=args, daemon=True)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join(PATIENCE)


def holder(start: Callable[..., BaseProcess], path: Path) -> BaseProcess:
    held = SPAWN.Event()
    process = start(hold_until_killed, path, held)
    assert held.wait(PATIENCE)
    return process


def test_one_process_at_a_time(path: Path, start: Callable[..., BaseProcess]) -> None:
    path.write_text("0")
    processes = [start(count, path, 20) for _ in range(5)]
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    assert path.read_text() == "100"
    assert [item.name for item in Path(f"{path}.queue").iterdir()] == ["mutex"]


def test_first_come_first_served(path: Path, start: Callable[..., BaseProcess]) -> None:
    with FairFileLock(path, timeout=PATIENCE):
        processes = []
        for number in range(6):
            processes.append(start(write_name, path, f"w{number}"))
            until(lambda: len(tickets(path)) == len(processes) + 1)
    for process in processes:
        process.join(PATIENCE)
    assert path.read_text().split() == [f"w{number}" for number in range(6)]
    assert tickets(path) == []


def test_a_killed_holder_is_skipped(path: Path, start: Callable[..., BaseProcess]) -> None:
    process = holder(start, path)
    process.kill()
    process.join(PATIENCE)
    with FairFileLock(path, timeout=PATIENCE):
        assert len(tickets(path)) == 1
    assert tickets(path) == []


def test_a_killed_waiter_is_skipped_and_those_behind_it_still_wait(
    path: Path, start: Callable[..., BaseProcess]
) -> None:
    first = FairFileLock(path, timeout=PATIENCE)
    first.acquire()
    waiter = start(write_name, path, "killed")
    until(lambda: len(tickets(path)) == 2)
    start(write_name, path, "last")
    until(lambda: len(tickets(path)) == 3)
    waiter.kill()
    waiter.join(PATIENCE)
    until(lambda: len(tickets(path)) == 2)  # the last one cleared it away while it went on waiting for the first
    assert not path.exists()
    first.release()
    until(lambda: path.exists() and path.read_text() == "last\n")


def test_processes_killed_at_random_lose_nothing_but_their_turn(path: Path, start: Callable[..., BaseProcess]) -> None:
    victims = [holder(start, path)] + [start(write_name, path, "x") for _ in range(3)]
    until(lambda: len(tickets(path)) == 4)
    for process in reversed(victims):
        process.kill()
    for process in victims:
        process.join(PATIENCE)
    with FairFileLock(path, timeout=PATIENCE):
        pass
    assert tickets(path) == []


def test_too_late_names_the_path_the_holder_and_what_to_do(path: Path, start: Callable[..., BaseProcess]) -> None:
    process = holder(start, path)
    with pytest.raises(LockError) as caught:
        FairFileLock(path, timeout=0.05).acquire()
    message = str(caught.value)
    for part in (str(path), f"process {process.pid} on host", "0.05 s", "end that process", ".queue"):
        assert part in message
    if int(filelock.__version__.partition(".")[0]) >= 4:  # older ones empty the file that tells
        assert " since 2" in message
    assert len(tickets(path)) == 1


def test_too_late_in_one_process_says_so(path: Path) -> None:
    lock = FairFileLock(path, timeout=0.05)
    with lock:
        assert lock.held
        with pytest.raises(LockError, match="this very process"):
            lock.acquire()
        assert lock.held
    assert not lock.held


def test_threads_exclude_each_other(path: Path) -> None:
    path.write_text("0")
    threads = [threading.Thread(target=count, args=(path, 20)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert path.read_text() == "80"


def test_threads_may_share_an_object(path: Path) -> None:
    lock = FairFileLock(path, timeout=PATIENCE)
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(20):
            with lock:
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert most == [1] * 80


def test_it_is_freed_by_an_exception_and_released_only_once(path: Path) -> None:
    lock = FairFileLock(path, timeout=0)
    with pytest.raises(ZeroDivisionError), lock:
        1 / 0  # noqa: B018
    lock.release()
    with lock:
        pass


def test_an_interrupted_waiter_leaves_the_queue(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    with FairFileLock(path, timeout=PATIENCE):
        with monkeypatch.context() as patch:
            patch.setattr("pipedag_airflow.backend.lock.fair.time.sleep", interrupt)
            with pytest.raises(KeyboardInterrupt):
                FairFileLock(path, timeout=PATIENCE).acquire()
        assert len(tickets(path)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_cannot_end_its_parents_turn(path: Path) -> None:
    script = """
import os, sys
from pipedag_airflow.backend.lock import FairFileLock
from pipedag_airflow.errors import LockError
lock = FairFileLock(sys.argv[1], timeout=0.05)
with lock:
    child = os.fork()
    if child == 0:
        assert not lock.held
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    try:
        FairFileLock(sys.argv[1], timeout=0.05).acquire()
    except LockError:
        print("still ours")
"""
    assert subprocess.check_output([sys.executable, "-c", script, str(path)], text=True) == "still ours\n"


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LockError, match=str(tmp_path / "file" / "db.queue")):
        FairFileLock(tmp_path / "file" / "db", timeout=1).acquire()


BECOMES_NOBODY = """
import os, sys
from pathlib import Path
from pipedag_airflow.backend.lock import FairFileLock
path = Path(sys.argv[1])
with FairFileLock(path, timeout=60):
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        print("queued", flush=True)
        with FairFileLock(path, timeout=60):
            path.write_text("written by another user")
        os._exit(0)
    while len(list(Path(f"{path}.queue").glob("*.ticket"))) < 2:
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
    assert not path.exists()
assert os.waitpid(child, 0) == (child, 0)
assert path.stat().st_uid == 65534
with FairFileLock(path, timeout=60):
    pass
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to become another user")
def test_another_user_of_the_folder_can_queue_behind_root() -> None:
    folder = Path(tempfile.mkdtemp())  # not tmp_path, whose parents are closed to others
    try:
        folder.chmod(0o777)
        subprocess.run([sys.executable, "-c", BECOMES_NOBODY, str(folder / "db")], check=True, timeout=PATIENCE)
    finally:
        shutil.rmtree(folder)
