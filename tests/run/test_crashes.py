"""SIGKILL at any moment: a reader sees the old generation or the new one, and the next run goes on by itself."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pytest

from pipedag_airflow.run.publish import STEPS

CRASH_POINTS = [
    "begin.opened",
    "begin.decided",
    "execute.before_store",
    "execute.stored",
    *(f"publish.{step.__name__}" for step in STEPS),
    "publish.committed",
]
#: After these the new generation is what readers see.
AFTER_PUBLISH = {"publish.committed"}


def start(folder: Path, number: int, crash_point: str = "") -> subprocess.Popen[bytes]:
    command = [sys.executable, str(Path(__file__).with_name("crash_flow.py")), str(number), str(folder)]
    environment = os.environ | {"PIPEDAG_CRASH_POINT": crash_point}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def run(folder: Path, number: int, crash_point: str = "") -> int:
    process = start(folder, number, crash_point)
    _, errors = process.communicate(timeout=120)
    assert process.returncode in (0, -signal.SIGKILL), errors.decode()
    return process.returncode


def look(folder: Path) -> int:
    """Return the number that a reader sees, who knows nothing of us; every table and the metadata must agree on it."""
    with duckdb.connect(str(folder / "pipeline.duckdb"), read_only=True) as connection:
        views = {
            name
            for (name,) in connection.execute(
                "select view_name from duckdb_views() where schema_name = 'stage'"
            ).fetchall()
        }
        ((number,),) = connection.execute("select distinct number from stage.one").fetchall()
        assert views == {"steady", "one", f"two_{number % 2}"}
        numbers = connection.execute(f"select distinct number from stage.two_{number % 2}").fetchall()
        assert numbers == [(number,)]
        assert connection.execute("select count(*) from stage.steady").fetchall() == [(1000,)]
        recorded = connection.execute(
            "select version from pipedag_metadata.task join pipedag_metadata.stage using (stage)"
            " where generation = live and name = 'one'"
        ).fetchall()
        assert recorded == [(str(number),)]
    return number


@pytest.mark.parametrize("crash_point", CRASH_POINTS)
def test_a_kill_at_a_step_leaves_old_or_new_and_the_next_run_converges(tmp_path: Path, crash_point: str) -> None:
    assert run(tmp_path, 1) == 0

    assert run(tmp_path, 2, crash_point) == -signal.SIGKILL
    assert look(tmp_path) == (2 if crash_point in AFTER_PUBLISH else 1)
    assert run(tmp_path, 2) == 0
    assert look(tmp_path) == 2


@pytest.mark.slow
def test_kills_at_random_moments_never_show_a_mixture(tmp_path: Path) -> None:
    assert run(tmp_path, 0) == 0
    anomalies: list[BaseException] = []
    looks = 0
    done = threading.Event()

    def read() -> None:
        nonlocal looks
        while not done.is_set():
            try:
                look(tmp_path)
                looks += 1
            except duckdb.IOException:  # a writer has the file open: that is DuckDB's way to say "wait"
                done.wait(0.005)
            except BaseException as error:
                anomalies.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    dice = random.Random(7)
    kills = 0
    for number in range(1, 13):
        process = start(tmp_path, number)
        try:
            process.wait(dice.uniform(0.5, 3.0))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        process.communicate()
    assert run(tmp_path, 99) == 0
    done.set()
    reader.join()

    assert anomalies == []
    assert look(tmp_path) == 99
    assert kills > 0
    assert looks > 0
