"""docs/operations.md promises what is tested: each of its rows names a test on Airflow that there is."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def rows() -> list[list[str]]:
    lines = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if row[-1] != "test" and set(row[0]) != {"-"}]


def test_each_row_names_a_test_on_airflow() -> None:
    files = (ROOT / "tests" / "airflow").glob("test_*.py")
    tests = {name for file in files for name in re.findall(r"def (test_\w+)\(", file.read_text(encoding="utf-8"))}
    assert len(rows()) > 20
    for what, follows, test in rows():
        assert follows, what
        assert test.strip("`") in tests, f"{what}: there is no {test}"
