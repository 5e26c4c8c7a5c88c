"""What Airflow is told about the package, and which files it is told to look into."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import airflow
import jsonschema
import pytest

from pipedag_airflow.provider.discovery import might_contain_dag
from pipedag_airflow.provider.info import get_provider_info


def test_the_provider_information_is_valid() -> None:
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(get_provider_info(), schema)


def test_airflow_lists_the_provider(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW_", "_AIRFLOW_"))}
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "providers", "list", "--output", "json"],
        env=environment | {"AIRFLOW_HOME": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    listed = {provider["package_name"]: provider for provider in json.loads(done.stdout.splitlines()[-1])}
    ours = get_provider_info()
    assert listed["pipedag-airflow"]["version"] == ours["versions"][0]
    assert listed["pipedag-airflow"]["description"].rstrip(".") in ours["description"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from pipedag_airflow import Flow", True),
        ("import os\n\n    import pipedag_airflow as pd\n", True),
        ("from pydiverse.pipedag import Flow", False),
        ("from mypipedag import flow", True),
        ("# an Airflow DAG", True),
        ("x = 'import pipedag'", False),
        ("import numpy", False),
        ("", False),
    ],
)
def test_files_that_may_hold_a_dag(tmp_path: Path, text: str, expected: bool) -> None:
    file = tmp_path / "file.py"
    file.write_text(text, encoding="utf-8")
    assert might_contain_dag(str(file)) is expected
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("inside.py", text)
    with zipfile.ZipFile(tmp_path / "archive.zip") as archive:
        assert might_contain_dag("inside.py", archive) is expected


def test_airflow_asks_us_when_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "wrapped.py").write_text("from company_pipedag import flow\n", encoding="utf-8")
    script = "import sys; from airflow.utils.file import might_contain_dag; print(might_contain_dag(sys.argv[1], True))"
    answers = [
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "wrapped.py")],
            env=os.environ | environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()[-1]
        for environment in (
            {},
            {"AIRFLOW__CORE__MIGHT_CONTAIN_DAG_CALLABLE": "pipedag_airflow.provider.discovery.might_contain_dag"},
        )
    ]
    assert answers == ["False", "True"]
