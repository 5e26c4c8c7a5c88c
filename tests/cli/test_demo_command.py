"""`pipedag-airflow demo` on a small flow: what a person sees on the terminal, and what a script sees of it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from pipedag_airflow.cli import main
from pipedag_airflow.cli.watch import RunReport

FLOW = """
import polars as pl
from pipedag_airflow import Blob, Flow, Stage, Table, materialize


@materialize(version="1")
def load():
    return Table(pl.DataFrame({"a": range(1_200), "b": 1}), "orders")


@materialize(version="1", input_type=pl.DataFrame)
def count(table):
    return Table(table.select(pl.len()), "totals"), Blob({"rows": len(table)}, "summary")


with Flow("tiny") as flow:
    with Stage("raw"):
        orders = load()
    with Stage("out"):
        count(orders)
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One demo as a process, and its output by line."""
    folder = tmp_path_factory.mktemp("demo")
    dags, home = folder / "dags", folder / "home"
    dags.mkdir()
    (dags / "tiny.py").write_text(FLOW)
    done = subprocess.run(
        [sys.executable, "-m", "pipedag_airflow.cli", "demo", "--dags", dags, "--flow", "tiny", "--home", home],
        env={key: value for key, value in os.environ.items() if key != "PIPEDAG_CONFIG"},
        capture_output=True,
        text=True,
        check=False,
    )
    return SimpleNamespace(done=done, out=done.stdout, home=home, folder=folder)


def section(text: str, begin: str, end: str) -> str:
    """Return what stands between two texts."""
    return text.partition(begin)[2].partition(end)[0]


@pytest.mark.airflow
class TestDemo:
    def test_it_succeeds_and_writes_nothing_but_what_it_says(self, demo: SimpleNamespace) -> None:
        assert (demo.done.returncode, demo.done.stderr) == (0, "")
        assert sorted(path.name for path in demo.folder.iterdir()) == ["dags", "home"]
        assert sorted(path.name for path in demo.home.iterdir()) == [".pipedag-airflow-demo", "airflow", "data"]

    def test_the_first_run_is_told_task_by_task(self, demo: SimpleNamespace) -> None:
        told = section(demo.out, "First run: ", "First run: success after")
        for stage, task in (("raw", "load"), ("out", "count")):
            for label in ("begin_transaction", task, "commit_transaction"):
                assert re.search(rf"^ *[\d.]+ s    {stage}\.{label} +success  [\d.]+ s$", told, re.MULTILINE)

    def test_what_is_published_is_listed(self, demo: SimpleNamespace) -> None:
        listed = section(demo.out, f"Published in {demo.home / 'data'}:\n", "\nAirflow's UI: ")
        assert listed.strip().splitlines() == [
            "raw (generation 1)",
            "  orders      1,200 rows    2 columns",
            "out (generation 1)",
            "  totals          1 rows    1 columns",
            "  summary (blob)",
        ]

    def test_the_login_is_shown(self, demo: SimpleNamespace) -> None:
        assert re.search(r"Airflow's UI: http://127\.0\.0\.1:\d+  user admin  password \S+\n", demo.out)

    def test_the_second_run_starts_a_process_for_each_begin_and_for_nothing_else(self, demo: SimpleNamespace) -> None:
        told = section(demo.out, "Second run, nothing changed: ", "Second run, nothing changed: success after")
        assert len(re.findall(r"skipped  valid, no process", told)) == 4
        assert set(re.findall(r"(\w+)  (?:running|success)", re.sub(" +", "  ", told))) == {"begin_transaction"}
        assert "Everything was valid: 4 of 6 tasks were skipped" in demo.out
        assert re.search(r"^  task processes started +6 +2$", demo.out, re.MULTILINE)
        assert re.search(r"^  skipped, because valid +0 +4$", demo.out, re.MULTILINE)

    def test_the_last_line_says_how_to_go_on(self, demo: SimpleNamespace) -> None:
        last = demo.out.strip().splitlines()[-1]
        assert f"-m pipedag_airflow.cli airflow --dags {demo.folder / 'dags'} --home {demo.home}" in last


@pytest.mark.parametrize("told", ["Starting Airflow", "Airflow keeps running"])
def test_ctrl_c_leaves_nothing_running(tmp_path: Path, told: str) -> None:
    (tmp_path / "dags").mkdir()
    command = [sys.executable, "-m", "pipedag_airflow.cli", "airflow", "--dags", "dags", "--home", "home"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert any(told in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130
    assert "Interrupted. Nothing is left running." in rest
    # What was being started at that moment ends by itself when it finds that its parent is gone.
    deadline = time.monotonic() + 60
    while left := processes_below(tmp_path):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def processes_below(folder: Path) -> list[int]:
    """The processes at work in a folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process.pid)
    return found


def test_a_folder_that_is_missing_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["demo", "--dags", str(tmp_path / "nowhere"), "--home", str(tmp_path / "home")]
    assert main(arguments) == 1
    assert f"pipedag-airflow: The dags folder {tmp_path / 'nowhere'} does not exist." in capsys.readouterr().err


def test_an_unknown_command_is_told_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["dmo"])
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert [name for name in ("check", "demo", "airflow", "locks", "run", "why") if f"'{name}'" not in told] == []


def task(name: str, state: str, tries: int) -> dict[str, object]:
    return {"task_id": f"s.{name}", "state": state, "try_number": tries}


@pytest.mark.parametrize(
    ("state", "tasks", "all_valid"),
    [
        ("success", [task("begin_transaction", "success", 1), task("t", "skipped", 0)], True),
        ("failed", [task("begin_transaction", "success", 1), task("t", "skipped", 0)], False),
        ("success", [task("begin_transaction", "success", 1), task("t", "success", 1)], False),
        ("success", [task("begin_transaction", "success", 1), task("commit_transaction", "success", 1)], False),
        ("success", [task("begin_transaction", "success", 1), task("t", "skipped", 1)], False),
    ],
)
def test_a_run_in_which_everything_was_valid(state: str, tasks: list[dict[str, object]], all_valid: bool) -> None:
    report = RunReport("dag", "run", state, 1.0, tuple(tasks))
    assert report.all_valid is all_valid
