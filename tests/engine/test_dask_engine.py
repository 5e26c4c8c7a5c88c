"""What is particular about DaskEngine: its arguments, and its processes."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import pytest

from pipedag_airflow import Flow, PipedagConfig, Stage, materialize
from pipedag_airflow.engine import DaskEngine, PrefectTwoEngine, SequentialEngine
from pipedag_airflow.errors import ConfigError, MissingExtraError, RunError
from pipedag_airflow.testing.engine_flows import failing_flow, fails, number

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipedag_airflow import ConfigContext

SCRIPT = """
import dataclasses, os
from pipedag_airflow import Flow, PipedagConfig, Stage, materialize
from pipedag_airflow.engine import DaskEngine

@dataclasses.dataclass
class Found:
    process: int

def main():
    @materialize(version="1")
    def find():
        return Found(os.getpid())

    with Flow("script") as flow, Stage("stage"):
        found = find()
    config = PipedagConfig("pipedag.yaml").get("one")
    for _ in range(2):
        result = flow.run(config=config, orchestration_engine=DaskEngine(num_workers=1))
        assert isinstance(result.get(found), Found), result.get(found)
        print(result.get(found).process != os.getpid(), result.task_states[found].name)

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def config(instances: Callable[[str], ConfigContext]) -> ConfigContext:
    return instances("one")


@materialize
def exits() -> None:
    sys.exit(3)


def leave_mark(folder: Path) -> None:
    (folder / "process").touch()


def test_a_run_in_which_all_is_valid_starts_no_process(config: ConfigContext, tmp_path: Path) -> None:
    failing_flow().run("stage:before", config=config, orchestration_engine=SequentialEngine())
    engine = DaskEngine(initializer=partial(leave_mark, tmp_path))
    assert failing_flow().run("stage:before", config=config, orchestration_engine=engine).successful
    assert not (tmp_path / "process").exists()


def test_after_a_failure_nothing_more_is_started_by_a_run_that_fails_fast(config: ConfigContext) -> None:
    with Flow("failing") as flow, Stage("stage"):
        before = number(1)
        bad, after = fails(2), number(3)
    quiet = config.evolve(fail_fast=True, swallow_exceptions=True)
    result = flow.run(config=quiet, orchestration_engine=DaskEngine(scheduler="threads", num_workers=1))
    assert result.task_values == {before: 1}
    assert (result.task_states[bad].name, result.task_states[after].name) == ("FAILED", "UNKNOWN")


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_a_task_that_exits_has_failed(config: ConfigContext, scheduler: str) -> None:
    with Flow("exits") as flow, Stage("stage"):
        exits()
    result = flow.run(config=config, orchestration_engine=DaskEngine(scheduler=scheduler))
    with pytest.raises(RunError, match=r"'stage\.exits' has no result, because .* sys\.exit\(3\)"):
        raise result.exception


def test_options_of_a_cluster_are_known() -> None:
    assert DaskEngine(resources={"memory": 1}).dask_compute_kwargs == {"resources": {"memory": 1}}


def test_a_flow_of_a_script_runs_in_processes_of_their_own(config: ConfigContext, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split("\n") == ["True COMPLETED", "True CACHE_VALID", ""], done.stderr


def test_an_argument_that_no_scheduler_knows_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"'num_worker'.*Did you mean 'num_workers'"):
        DaskEngine(num_worker=2)


def test_a_database_in_memory_is_refused() -> None:
    config = PipedagConfig(
        {
            "instances": {
                "__any__": {
                    "table_store": {"class": "sql", "args": {"url": "duckdb:///:memory:"}},
                    "lock_manager": {"class": "none"},
                    "blob_store": {"class": "none"},
                }
            }
        }
    ).get()
    with pytest.raises(ConfigError, match=r"DaskEngine cannot work on .*in memory.*SequentialEngine"):
        failing_flow().run(config=config, orchestration_engine=DaskEngine())


def test_pipedag_yaml_names_the_engine_and_its_arguments(settings: dict[str, dict[str, dict[str, object]]]) -> None:
    settings["instances"]["__any__"]["orchestration"] = {
        "class": "pipedag_airflow.engine.DaskEngine",
        "args": {"num_workers": 2},
    }
    engine = PipedagConfig(settings).get("one").create_orchestration_engine()
    assert type(engine) is DaskEngine
    assert engine.dask_compute_kwargs == {"num_workers": 2}


@pytest.mark.parametrize(("name", "engine"), [("dask", DaskEngine), ("prefect", PrefectTwoEngine)])
def test_engines_are_registered_by_a_short_name(name: str, engine: type) -> None:
    [found] = entry_points(group="pipedag_airflow.engines", name=name)
    assert found.load() is engine


@pytest.mark.parametrize(("package", "engine"), [("dask", DaskEngine), ("prefect", PrefectTwoEngine)])
def test_a_package_that_is_not_installed_is_named_with_its_extra(
    package: str, engine: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"pipedag-airflow\[{package}\]"):
        engine()
