"""`pipedag-airflow run`: a flow file, or a part of it, run on the terminal."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipedag_airflow.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

FLOWS = """
from pipedag_airflow import Flow, Stage, materialize


@materialize(version="1")
def number(x):
    return x


@materialize(version="1", tags="broken")
def divided(x):
    return x / 0


with Flow("shop") as flow:
    with Stage("raw"):
        one = number(1)
    with Stage("out"):
        number(one)
        divided(one)

with Flow("empty") as other:
    pass
"""


LEAKY = """
import logging

from pipedag_airflow import ConfigContext, Flow, Stage, materialize


@materialize(version="1")
def talkative():
    password = ConfigContext.get().attrs.password
    print("I have printed", password)
    logging.getLogger(__name__).info("I have logged %s", password)
    raise ValueError("Nobody can log in with " + password)


with Flow("leaky") as flow, Stage("leaks"):
    talkative()
"""

LEAKY_YAML = """
instances:
  __any__:
    instance_id: leaky
    stage_commit_technique: read_views
    attrs: {{password: "{{$CANARY}}"}}
    table_store:
      class: pipedag_airflow.backend.table.SQLTableStore
      args: {{url: "duckdb:///{folder}/leaky.duckdb"}}
    blob_store:
      class: pipedag_airflow.backend.blob.NoBlobStore
    lock_manager:
      class: pipedag_airflow.backend.lock.NoLockManager
    orchestration:
      class: pipedag_airflow.engine.SequentialEngine
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A file with two flows; their data are in a folder beside it."""
    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    monkeypatch.setenv("PIPEDAG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "shop_of_the_run_command.py").write_text(FLOWS)
    yield str(tmp_path / "shop_of_the_run_command.py")
    sys.modules.pop("shop_of_the_run_command", None)


def test_it_runs_the_part_that_is_selected_and_tells_what_became_of_it(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", file, "--flow", "shop"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "raw: published as generation 1",
        "  raw.number   completed    first_run",
        "out: not published; what ran is in generation 1",
        "  out.number   completed    first_run",
        "  out.divided  failed",
        "not successful",
    ]

    assert main(["run", file, "--flow", "shop", "--select", "stage:raw", "stage:out", "--exclude", "tag:broken"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "raw: unchanged",
        "  raw.number  cache_valid  valid",
        "out: not published; what ran is in generation 2",
        "  out.number  cache_valid  valid",
        "successful",
    ]


def test_it_tells_no_secret_of_the_configuration(
    file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "c4n4ry/:@ %x"
    monkeypatch.setenv("CANARY", secret)
    Path(file).write_text(LEAKY)
    (Path(file).parent / "pipedag.yaml").write_text(LEAKY_YAML.format(folder=Path(file).parent))
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's, which are before the streams of a process

    assert main(["run", file]) == 1
    out, err = capsys.readouterr()
    assert "I have printed ***" in out
    assert "I have logged ***" in err
    assert "ValueError: Nobody can log in with ***" in err
    assert "raise ValueError" in err
    assert secret not in out + err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], r"has several flows: name one with --flow. Its flows: empty, shop."),
        (["--flow", "shops"], "has no flow 'shops'. Its flows: empty, shop."),
        (["--flow", "shop", "--select", "raw.numbr"], "Did you mean 'raw.number'?"),
    ],
)
def test_what_cannot_be_run_is_told_in_a_line(
    file: str, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(["run", file, *arguments]) == 1
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said


def test_a_flow_that_the_file_imports_is_not_its_own(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    importing = Path(file).with_name("importing_of_the_run_command.py")
    importing.write_text(f"from {Path(file).stem} import flow\n")
    assert main(["run", str(importing)]) == 1
    assert "has no flow. Its flows: none." in capsys.readouterr().err
    sys.modules.pop(importing.stem)


def test_a_file_that_is_not_there_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "no_such_file.py"]) == 1
    assert "no_such_file.py is no Python file that could hold a flow." in capsys.readouterr().err
