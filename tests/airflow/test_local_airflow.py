"""A local Airflow starts, runs what is dropped in its folder, keeps to itself, and leaves nothing behind."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from looking import eventually

from pipedag_airflow.cli.home import DemoHome, DemoHomeError
from pipedag_airflow.testing.airflow import (
    AirflowRequestError,
    DagImportError,
    LocalAirflow,
    LocalAirflowError,
)

if TYPE_CHECKING:
    from conftest import FlowAirflow

pytestmark = pytest.mark.airflow

DAG_FILE = """
from airflow.sdk import DAG, task

with DAG("{dag_id}", schedule=None, params={{"seconds": 0}}):

    @task
    def work(params):
        import time

        print("working")
        time.sleep(params["seconds"])

    @task
    def fail():
        raise ValueError("on purpose")

    {wiring}
"""


def write_dag(airflow: LocalAirflow, dag_id: str, wiring: str = "work()") -> None:
    (airflow.dags_folder / f"{dag_id}.py").write_text(DAG_FILE.format(dag_id=dag_id, wiring=wiring))


def run_dag(airflow: LocalAirflow, dag_id: str) -> tuple[str, dict[str, str | None]]:
    airflow.client.unpause(dag_id)
    run_id = airflow.client.trigger(dag_id)
    airflow.client.wait_run(dag_id, run_id)
    return run_id, airflow.client.states(dag_id, run_id)


def processes_of(home: Path) -> list[str]:
    """The processes that were started with this home, or know its path as an argument."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and any(
                str(home).encode() in (process / name).read_bytes() for name in ("environ", "cmdline")
            ):
                found.append(process.name)
        except OSError:
            continue  # it ended while we looked
    return found


def test_a_file_dropped_in_the_folder_runs(airflow: FlowAirflow) -> None:
    write_dag(airflow, "dropped")
    airflow.client.wait_dag("dropped")
    run_id, states = run_dag(airflow, "dropped")
    assert states == {"work": "success"}
    assert "working" in airflow.client.log("dropped", run_id, "work")


def test_a_changed_file_is_read_again(airflow: FlowAirflow) -> None:
    write_dag(airflow, "changing")
    airflow.client.wait_dag("changing")
    now = datetime.now(UTC)
    write_dag(airflow, "changing", wiring="fail() >> work()")
    airflow.client.wait_dag("changing", parsed_after=now)
    run_id, states = run_dag(airflow, "changing")
    assert states == {"fail": "failed", "work": "upstream_failed"}
    assert "ValueError: on purpose" in airflow.client.log("changing", run_id, "fail")
    assert "fail() >> work()" in airflow.client.dag_source("changing")


def test_a_broken_file_is_an_import_error_and_the_other_dags_stay(airflow: FlowAirflow) -> None:
    write_dag(airflow, "intact")
    airflow.client.wait_dag("intact")
    broken = airflow.dags_folder / "broken.py"
    broken.write_text("# an airflow dag\nimport there_is_no_such_module\n")
    with pytest.raises(DagImportError, match="No module named 'there_is_no_such_module'"):
        airflow.client.wait_dag("broken")
    assert "intact" in {dag["dag_id"] for dag in airflow.client.dags()}
    broken.unlink()
    eventually(lambda: not airflow.client.import_errors())


def test_a_refused_request_says_what_airflow_answered(airflow: FlowAirflow) -> None:
    with pytest.raises(AirflowRequestError, match=r"POST /api/v2/dags/unknown/dagRuns: HTTP 404: .*unknown") as caught:
        airflow.client.trigger("unknown")
    assert caught.value.status == 404


def test_a_dag_that_does_not_appear_is_named_with_those_that_did(airflow: FlowAirflow) -> None:
    write_dag(airflow, "present")
    airflow.client.wait_dag("present")
    with pytest.raises(TimeoutError, match=r"'absent'.*present"):
        airflow.client.wait_dag("absent", timeout=0)


def test_marking_and_clearing(airflow: FlowAirflow) -> None:
    write_dag(airflow, "marked_by_hand", wiring="fail() >> work()")
    airflow.client.wait_dag("marked_by_hand")
    run_id, _ = run_dag(airflow, "marked_by_hand")
    airflow.client.set_task_state("marked_by_hand", run_id, "fail", "success")
    assert airflow.client.clear("marked_by_hand", run_id, ["work"]) == ["work"]
    assert airflow.client.wait_run("marked_by_hand", run_id)["state"] == "success"
    airflow.client.set_run_state("marked_by_hand", run_id, "failed")
    assert airflow.client.run("marked_by_hand", run_id)["state"] == "failed"


def test_stopping_with_a_task_in_its_middle_leaves_no_process(tmp_path: Path) -> None:
    with LocalAirflow(tmp_path / "home") as own:
        write_dag(own, "endless")
        own.client.wait_dag("endless")
        own.client.unpause("endless")
        run_id = own.client.trigger("endless", {"seconds": 3600})
        eventually(lambda: own.client.states("endless", run_id) == {"work": "running"})
        assert set(own.pids()) == {"api-server", "scheduler", "dag-processor", "triggerer"}
        assert processes_of(own.home)
    assert not own.running
    assert processes_of(own.home) == []


def test_a_start_that_fails_shows_the_log_and_leaves_no_process(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        own = LocalAirflow(tmp_path / "home", port=taken.getsockname()[1])
        with pytest.raises(LocalAirflowError, match=r"(?s)its api-server ended with exit code.*already in use"):
            own.start()
    assert processes_of(own.home) == []


def test_airflow_ends_when_the_process_that_started_it_is_killed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    script = "import sys; from pipedag_airflow.testing.airflow import LocalAirflow; LocalAirflow(sys.argv[1]).start()"
    with subprocess.Popen([sys.executable, "-c", script, str(home)]) as owner:
        eventually((home / "logs" / "components.json").exists)
        owner.kill()
    eventually(lambda: processes_of(home) == [])


def test_the_settings_of_another_airflow_stay_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", "/elsewhere")
    monkeypatch.setenv("AIRFLOW_CONFIG", "/elsewhere/airflow.cfg")
    monkeypatch.setenv("AIRFLOW__CORE__SECURITY", "kerberos")
    monkeypatch.setenv("AIRFLOW_CONN_PROD", "postgresql://prod")
    own = LocalAirflow(tmp_path, env={"AIRFLOW_CONN_TEST": "sqlite://"})
    environ = own.environ()
    assert environ["AIRFLOW_HOME"] == str(tmp_path)
    assert environ["AIRFLOW_CONN_TEST"] == "sqlite://"
    assert not {"AIRFLOW_CONFIG", "AIRFLOW__CORE__SECURITY", "AIRFLOW_CONN_PROD"} & environ.keys()


def test_secrets_are_random_kept_and_private(tmp_path: Path) -> None:
    first, again, other = (LocalAirflow(tmp_path / name) for name in ("one", "one", "other"))
    assert first.password == again.password != other.password
    assert stat.S_IMODE((first.home / "secrets.json").stat().st_mode) == 0o600


def test_a_dags_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="nowhere"):
        LocalAirflow(tmp_path / "home", dags_folder=tmp_path / "nowhere")


def test_the_client_loads_no_airflow() -> None:
    script = "import sys, pipedag_airflow.testing.airflow, pipedag_airflow.cli; assert 'airflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_demo_home_never_empties_a_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DemoHomeError, match="other files"), DemoHome(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_demo_home_is_held_by_one_process_at_a_time(tmp_path: Path) -> None:
    with DemoHome(tmp_path / "home"), pytest.raises(DemoHomeError, match="Another"), DemoHome(tmp_path / "home"):
        pass
    with DemoHome(tmp_path / "home") as home:
        (home.data / "old.duckdb").touch()
        home.empty()
        assert list(home.data.iterdir()) == []
