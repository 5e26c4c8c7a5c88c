"""The package as users get it: built, installed into an environment of its own, and found by Airflow there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from pipedag_airflow.provider.info import get_provider_info

ROOT = Path(__file__).parent.parent
UV = Path(sys.executable).with_name("uv")

FIRST_FLOW = """
import polars as pl
from pipedag_airflow import Flow, Stage, Table, materialize
from pipedag_airflow.engine import SequentialEngine

@materialize(version="1")
def numbers():
    return Table(pl.DataFrame({"n": [1, 2, 3]}), "numbers")

@materialize(version="1", input_type=pl.DataFrame)
def total(table):
    return table["n"].sum()

with Flow("first") as flow, Stage("stage"):
    result = total(numbers())

assert flow.run().get(result) == 6
"""


def run(*command: object, cwd: Path, **env: str) -> str:
    """Run a program that sees neither this environment's packages nor its Airflow."""
    foreign = ("AIRFLOW_", "_AIRFLOW_", "PYTHON", "PIPEDAG_", "VIRTUAL_ENV")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=inherited | env, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_a_clean_environment_has_a_provider_and_runs_a_first_flow(tmp_path: Path) -> None:
    # First the sdist, then the wheel from it: what the sdist lacks is missing below.
    run(UV, "build", "--out-dir", tmp_path / "dist", ROOT, cwd=tmp_path)
    (wheel,), (sdist,) = (tmp_path / "dist").glob("*.whl"), (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "CHANGELOG.md", "pipedag_airflow/py.typed", "tests/test_packaging.py"} <= names

    run(UV, "venv", "--python", sys.executable, "env", cwd=tmp_path)
    programs = tmp_path / "env" / "bin"
    constraints = ROOT / "constraints.txt"
    wanted = f"{wheel}[duckdb,polars]"
    run(UV, "pip", "install", "--python", programs / "python", "-c", constraints, wanted, cwd=tmp_path)

    place = run(programs / "python", "-c", "import pipedag_airflow as p; print(p.__file__)", cwd=tmp_path)
    assert Path(place.strip()).is_relative_to(tmp_path / "env")
    (tmp_path / "first.py").write_text(FIRST_FLOW)
    run(programs / "python", "-W", "error", "first.py", cwd=tmp_path)
    command = (programs / "airflow", "providers", "get", "pipedag-airflow", "--full", "--output", "json")
    (shown,) = json.loads(run(*command, cwd=tmp_path, AIRFLOW_HOME=str(tmp_path / "home")).splitlines()[-1])
    told = get_provider_info()
    # Airflow takes the full stop off the description, and adds a URL from the package's own data.
    assert {key: shown[key] for key in told} == told | {"description": told["description"].rstrip(".")}
    assert told["versions"] == [wheel.name.split("-")[1]]
