"""`pipedag-airflow locks`: who holds which stage, and taking one away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipedag_airflow import PipedagConfig
from pipedag_airflow.backend.lock import Owner
from pipedag_airflow.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def flow_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A flow file, with the embedded configuration, of which another run holds a stage."""
    for variable in ("PIPEDAG_CONFIG", "PIPEDAG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    with PipedagConfig.find(tmp_path).get().create_lock_manager() as locks:
        locks.acquire("raw", Owner.of_run("airflow:shop/manual__1"), seconds=60)
    return tmp_path / "shop.py"


def test_it_lists_the_stages_that_are_held(flow_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = (["locks"], ["locks", "list"], ["locks", "list", str(flow_file)])
    for command in commands:
        assert main(command) == 0
        assert capsys.readouterr().out.startswith("raw: run airflow:shop/manual__1 on host ")


def test_it_takes_a_stage_away_from_a_run(flow_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["locks", "break", "raw", str(flow_file)]) == 0
    assert capsys.readouterr().out.startswith("Stage 'raw' was taken from run airflow:shop/manual__1 on host ")
    assert main(["locks"]) == 0
    assert capsys.readouterr().out == "No stage is held.\n"

    assert main(["locks", "break", "raw"]) == 1
    assert "'raw' is held by nobody" in capsys.readouterr().err


def test_a_configuration_that_cannot_be_used_is_told(flow_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flow_file.with_name("pipedag.yaml").write_text("instances: {__any__: {lock_manager: {class: nowhere.Locks}}}")
    assert main(["locks"]) == 1
    assert "nowhere.Locks" in capsys.readouterr().err
