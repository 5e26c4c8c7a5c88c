"""`pipedag-airflow history`, `rollback` and `gc`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import yaml

from pipedag_airflow import Flow, PipedagConfig, Stage, Table, materialize
from pipedag_airflow.backend.lock import Owner
from pipedag_airflow.cli import main

if TYPE_CHECKING:
    from pathlib import Path


def run(version: str) -> None:
    """Publish a stage of one table."""

    @materialize(version=version)
    def orders() -> Table[Any]:
        return Table(pl.DataFrame({"version": [version]}), "orders")

    with Flow("shop") as flow, Stage("raw"):
        orders()
    assert flow.run(config=PipedagConfig.find().get()).successful


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the embedded configuration, in which a stage was published twice."""
    for variable in ("PIPEDAG_CONFIG", "PIPEDAG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    run("1")
    run("2")
    return tmp_path


def test_a_stage_is_rolled_back_as_its_history_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", "raw", str(folder / "shop.py")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["2", "live"],
        ["orders", "1"],
        ["1", "restorable"],
        ["orders", "1"],
    ]

    assert main(["rollback", "raw", "--to", "7"]) == 1
    assert capsys.readouterr().err.endswith("Restorable are: 1. Readers see what they saw before.\n")
    assert main(["rollback", "raw"]) == 0
    assert capsys.readouterr().out == (
        "Stage 'raw': readers see generation 1 again, as generation 3, and generation 2 no longer. "
        "Tables that changed: orders.\n"
    )
    assert main(["why", "raw.orders"]) == 0
    assert "reason: rolled_back: as in generation 1" in capsys.readouterr().out
    assert main(["rollback", "raw", "--to", "2"]) == 0
    assert main(["history", "raw"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("4  live  ")

    assert main(["history", "ray"]) == 1
    assert "Did you mean 'raw'?" in capsys.readouterr().err


def test_gc_changes_nothing_before_it_is_told_to(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gc"]) == 0
    assert capsys.readouterr().out == "There is nothing to remove.\n"

    anything = PipedagConfig.find().config_dict["instances"]["__any__"] | {"generations_to_keep": 1}
    (folder / "pipedag.yaml").write_text(yaml.safe_dump({"instances": {"__any__": anything}}))
    for _ in range(2):
        assert main(["gc"]) == 0
        listed, advice = capsys.readouterr().out.rsplit("\n", 2)[:2]
        assert listed.startswith("raw: generation 1 (published, run local:")
        assert advice == "Nothing was removed. `pipedag-airflow gc --apply` removes what is listed."

    assert main(["gc", "--apply"]) == 0
    assert capsys.readouterr().out == f"{listed}\n"
    assert main(["gc", "--apply"]) == 0
    assert capsys.readouterr().out == "There is nothing to remove.\n"


def test_what_a_run_holds_is_left_to_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with PipedagConfig.find(folder).get().create_lock_manager() as locks:
        locks.acquire("raw", Owner.of_run("airflow:shop/nightly"), seconds=60)

    assert main(["rollback", "raw"]) == 1
    assert "run airflow:shop/nightly on host" in capsys.readouterr().err
    assert main(["gc", "--apply"]) == 0
    assert capsys.readouterr().out.startswith("raw: left alone. ")
