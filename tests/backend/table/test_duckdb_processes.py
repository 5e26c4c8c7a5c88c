"""DuckDB admits one process at a time: the others wait, and nobody fails."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pipedag_airflow.backend.lock import FairFileLock
from pipedag_airflow.backend.table import SQLTableStore
from pipedag_airflow.errors import LockError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROCESSES, TRANSACTIONS = 4, 25


def open_generations(url: str, holder: str) -> None:
    store = SQLTableStore(url)
    for _ in range(TRANSACTIONS):
        with store.transaction() as transaction:
            transaction.metadata.open_generation("s", "run", holder)


def test_processes_that_write_at_once_all_succeed(tmp_path: Path) -> None:
    url = f"duckdb:///{tmp_path}/x.duckdb"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=open_generations, args=(url, str(number))) for number in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * PROCESSES
    with SQLTableStore(url).transaction() as transaction:
        generations = transaction.metadata.generations(stage="s")
    assert [generation.number for generation in generations] == list(range(1, PROCESSES * TRANSACTIONS + 1))
    assert {generation.holder for generation in generations} == {"0", "1", "2", "3"}


HOLD = "import duckdb, sys; connection = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that has the file open until its input ends, and knows nothing of queues."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "x.duckdb")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def test_a_program_that_has_the_file_open_is_waited_for(
    tmp_path: Path, foreign: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = []

    def instead_of_sleeping(seconds: float) -> None:
        waited.append(seconds)
        foreign.communicate()  # ends its input, and waits until it is gone

    monkeypatch.setattr(time, "sleep", instead_of_sleeping)
    with SQLTableStore(f"duckdb:///{tmp_path}/x.duckdb").transaction() as transaction:
        transaction.metadata.open_generation("s", "run", "holder")
    assert len(waited) == 1


def test_a_program_that_keeps_the_file_open_is_an_error(tmp_path: Path, foreign: subprocess.Popen[str]) -> None:
    store = SQLTableStore(f"duckdb:///{tmp_path}/x.duckdb")
    store.foreign_lock_seconds = 0.0  # type: ignore[attr-defined]
    with pytest.raises(StoreError, match=r"Another program keeps the file open.*close it"), store.transaction():
        pass
    foreign.communicate()
    with store.transaction():
        pass


def is_free(file: Path) -> bool:
    try:
        with FairFileLock(file, timeout=0):
            return True
    except LockError:
        return False


def test_a_file_that_is_kept_open_is_closed_when_the_block_ends_or_it_is_let_go(tmp_path: Path) -> None:
    file = tmp_path / "x.duckdb"
    store = SQLTableStore(f"duckdb:///{file}")
    free = []
    with store.kept_open():
        free.append(is_free(file))
        for _ in range(2):
            with store.kept_open(), store.transaction():
                pass
            free.append(is_free(file))
        store.let_go()
        free.append(is_free(file))
        with store.transaction():
            pass
    assert [*free, is_free(file)] == [True, False, False, True, True]


def test_a_file_that_is_kept_open_is_closed_after_an_error(tmp_path: Path) -> None:
    file = tmp_path / "x.duckdb"
    store = SQLTableStore(f"duckdb:///{file}")
    with pytest.raises(ZeroDivisionError), store.kept_open(), store.transaction():
        _ = 1 / 0
    assert is_free(file)


def test_who_waits_for_a_file_that_is_kept_open_has_it_after_the_transaction(tmp_path: Path) -> None:
    file = tmp_path / "x.duckdb"
    store = SQLTableStore(f"duckdb:///{file}")
    waiter = threading.Thread(target=open_generations, args=(str(store.url), "waiter"))
    with store.kept_open():
        with store.transaction():
            waiter.start()
            while len(list(file.with_name("x.duckdb.queue").glob("*.ticket"))) < 2:
                time.sleep(0.001)
        waiter.join()
        with store.transaction() as transaction:
            assert len(transaction.metadata.generations()) == TRANSACTIONS
