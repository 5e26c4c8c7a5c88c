"""SIGKILL at any moment: a reader sees the old generation or the new one, and the next run goes on by itself."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from pipedag_airflow.run import rollback
from pipedag_airflow.run.publish import STEPS

if TYPE_CHECKING:
    from conftest import Project

pytestmark = pytest.mark.databases("duckdb", "postgres")

CRASH_POINTS = [
    "begin.opened",
    "begin.decided",
    "execute.materialized",
    "execute.before_store",
    "execute.stored",
    *(f"publish.{step.__name__}" for step in STEPS),
    "publish.committed",
]
#: After these the new generation is what readers see.
AFTER_PUBLISH = {"publish.committed"}


def start(
    project: Project, number: int, crash_point: str = "", script: str = "crash_flow.py"
) -> subprocess.Popen[bytes]:
    file = project.folder / "pipedag.yaml"
    file.write_text(yaml.safe_dump({"instances": {"__any__": project.settings}}))
    command = [sys.executable, str(Path(__file__).with_name(script)), str(number), str(project.folder)]
    environment = os.environ | {"PIPEDAG_CONFIG": str(file), "PIPEDAG_CRASH_POINT": crash_point}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def run(project: Project, number: int, crash_point: str = "", script: str = "crash_flow.py") -> int:
    process = start(project, number, crash_point, script)
    _, errors = process.communicate(timeout=120)
    assert process.returncode in (0, -signal.SIGKILL), errors.decode()
    return process.returncode


def look(project: Project) -> int:
    """Return the number that a reader sees, who knows nothing of us; every table and the metadata must agree on it."""
    with project.database.reader() as query:
        # What is read first stays as it is until the reader's transaction ends, and the others with it.
        ((number,),) = query("select distinct number from stage.one")
        visible = {name for schema, name in query(project.database.tables) if schema == "stage"}
        assert visible == {"steady", "one", f"two_{number % 2}"}
        assert query(f"select distinct number from stage.two_{number % 2}") == [(number,)]
        assert query("select count(*) from stage.steady") == [(1000,)]
        recorded = query(
            "select version from pipedag_metadata.task join pipedag_metadata.stage using (stage)"
            " where generation = live and name = 'one'"
        )
        assert recorded == [(str(number),)]
    return number


@pytest.mark.parametrize("crash_point", CRASH_POINTS)
def test_a_kill_at_a_step_leaves_old_or_new_and_the_next_run_converges(project: Project, crash_point: str) -> None:
    assert run(project, 1) == 0

    assert run(project, 2, crash_point) == -signal.SIGKILL
    assert look(project) == (2 if crash_point in AFTER_PUBLISH else 1)
    assert run(project, 2) == 0
    assert look(project) == 2


def test_a_kill_at_a_step_of_a_rollback_leaves_old_or_new_and_keeps_nobody_out(project: Project) -> None:
    for number in (1, 2):
        assert run(project, number) == 0

    for step in ("open", *(step.__name__ for step in rollback.STEPS)):
        assert run(project, 1, f"rollback.{step}", "crash_rollback.py") == -signal.SIGKILL
        assert look(project) == 2
    assert run(project, 1, "rollback.committed", "crash_rollback.py") == -signal.SIGKILL
    assert look(project) == 1
    assert run(project, 2, script="crash_rollback.py") == 0
    assert look(project) == 2


@pytest.mark.slow
def test_kills_at_random_moments_never_show_a_mixture(project: Project) -> None:
    assert run(project, 0) == 0
    anomalies: list[BaseException] = []
    looks = 0
    done = threading.Event()

    def read() -> None:
        nonlocal looks
        while not done.is_set():
            try:
                look(project)
                looks += 1
            except project.database.busy:
                done.wait(0.005)
            except BaseException as error:
                anomalies.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    dice = random.Random(7)
    kills = 0
    for number in range(1, 13):
        process = start(project, number)
        try:
            process.wait(dice.uniform(0.5, 3.0))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        process.communicate()
    assert run(project, 99) == 0
    done.set()
    reader.join()

    assert anomalies == []
    assert look(project) == 99
    assert kills > 0
    assert looks > 0
