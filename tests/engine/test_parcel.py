"""What goes to another process: little, no secret, and nothing else than what the run has."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from pipedag_airflow import Flow, PipedagConfig, Stage
from pipedag_airflow.backend.lock import Owner
from pipedag_airflow.engine.parcel import packed, unpacked
from pipedag_airflow.errors import ConfigError, FlowError
from pipedag_airflow.run.session import RunSession
from pipedag_airflow.testing.engine_flows import number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType

    from pipedag_airflow import ConfigContext

PASSWORD = "correct-horse-battery"
MODULE = """
from pipedag_airflow import Flow, Stage, materialize

@materialize
def task(value):
    return value

with Flow("flow_of_a_module") as flow, Stage("stage"):
    values = [1]
    result = task(values)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module with a flow."""
    (tmp_path / "module_of_a_flow.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield import_module("module_of_a_flow")
    sys.modules.pop("module_of_a_flow", None)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    url = f"postgresql://user:{PASSWORD}@localhost/db"
    common = {
        "table_store": {"class": "sql", "args": {"url": url}},
        "lock_manager": {"class": "none"},
        "blob_store": {"class": "none"},
        "fail_fast": True,
    }
    return {"instances": {"__any__": common, "one": {"instance_id": "one"}}}


@pytest.fixture
def config(instances: Callable[[str], ConfigContext]) -> ConfigContext:
    return instances("one")


def session(flow: Flow, config: ConfigContext) -> RunSession:
    return RunSession(flow, config, Owner.this_process("run"), engine="test")


def one_task() -> Flow:
    with Flow("made_in_a_function") as flow, Stage("stage"):
        number(1)
    return flow


def test_a_flow_of_a_module_and_a_configuration_of_a_file_go_by_name(module: ModuleType, config: ConfigContext) -> None:
    parcel = packed(session(module.flow, config))
    assert len(parcel) < 1500
    assert PASSWORD.encode() not in parcel
    found = unpacked(parcel)
    assert found.flow is module.flow
    assert found.config == config
    assert found.owner == Owner.this_process("run")


def test_a_flow_that_was_made_in_a_function_goes_as_it_is(config: ConfigContext) -> None:
    flow = one_task()
    parcel = packed(session(flow, config))
    assert len(parcel) < 5000
    assert PASSWORD.encode() not in parcel
    found = unpacked(parcel).flow
    assert found.plan().fingerprint == flow.plan().fingerprint
    assert found.tasks["stage.number"].unbound is number


def test_a_flow_goes_with_the_arguments_that_the_run_has(module: ModuleType, config: ConfigContext) -> None:
    module.values.append(2)
    found = unpacked(packed(session(module.flow, config))).flow
    assert found is not module.flow
    assert found.tasks["stage.task"].bound.arguments["value"] == [1, 2]


def test_a_long_chain_can_be_sent(config: ConfigContext) -> None:
    with Flow("chain") as flow:
        for stage in range(4):
            with Stage(f"s{stage}"):
                last: Any = None
                for _ in range(500):
                    last = number(1, after=last)
    assert len(unpacked(packed(session(flow, config))).flow.tasks) == 2000


def test_what_a_run_changes_of_its_configuration_goes_with_it(config: ConfigContext) -> None:
    changed = config.evolve(fail_fast=False, wait_seconds=3.0)
    found = unpacked(packed(session(one_task(), changed))).config
    assert found == changed


def test_a_configuration_of_a_dictionary_goes_if_it_holds_no_password(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"holds a password.*pipedag\.yaml.*SequentialEngine") as caught:
        packed(session(one_task(), PipedagConfig(settings).get("one")))
    assert PASSWORD not in str(caught.value)
    settings["instances"]["__any__"]["table_store"]["args"]["url"] = "duckdb:///file.duckdb"
    config = PipedagConfig(settings).get("one")
    assert unpacked(packed(session(one_task(), config))).config == config


def test_a_configuration_that_is_an_argument_goes_by_name_too(config: ConfigContext) -> None:
    with Flow("asks") as flow, Stage("stage"):
        number(config)
    parcel = packed(session(flow, config))
    assert PASSWORD.encode() not in parcel
    assert unpacked(parcel).flow.tasks["stage.number"].bound.arguments["value"] == config


def test_a_worker_without_the_code_of_the_flow_says_so(
    module: ModuleType, config: ConfigContext, tmp_path: Path
) -> None:
    parcel = packed(session(module.flow, config))
    del sys.modules["module_of_a_flow"]
    (tmp_path / "module_of_a_flow.py").unlink()
    with pytest.raises(FlowError, match=r"'flow' of module 'module_of_a_flow'.*PYTHONPATH"):
        unpacked(parcel)
