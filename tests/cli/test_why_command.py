"""`pipedag-airflow why`: the reason of a decision, told on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipedag_airflow import Flow, PipedagConfig, Stage, materialize
from pipedag_airflow.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def flow_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a flow has run twice, with the embedded database beside it."""
    for variable in ("PIPEDAG_CONFIG", "PIPEDAG_HOME"):
        monkeypatch.delenv(variable, raising=False)

    @materialize(version="1")
    def orders(limit: int) -> int:
        return limit

    for _ in range(2):
        with Flow("shop") as flow, Stage("raw"):
            orders(3)
        flow.run(config=PipedagConfig.find(tmp_path).get(flow="shop"))
    return tmp_path / "shop.py"


def test_it_tells_why_a_task_ran_and_since_when_it_is_valid(
    flow_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["why", "raw.orders", str(flow_file)]) == 0

    told = capsys.readouterr().out.splitlines()
    assert told[0] == "raw.orders: valid"
    assert told[1].startswith("  nothing has changed in 1 run since; the last was run local:")
    assert "(generation 1, published, " in told[2]
    assert told[3:] == ["  reason: first_run", "  version: 1", "  input limit: 3"]


def test_a_wrong_name_is_told_with_the_nearest(flow_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", "raw.order", str(flow_file)]) == 1
    assert "Did you mean 'raw.orders'? Known tasks: raw.orders." in capsys.readouterr().err
