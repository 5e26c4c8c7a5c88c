from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipedag_airflow.testing.airflow import LocalAirflow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class FlowAirflow(LocalAirflow):
    """A local Airflow whose flows keep their data in a folder next to its home."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.data.mkdir()
        super().__init__(folder / "airflow", env={"PIPEDAG_HOME": str(self.data)})


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlowAirflow]:
    """The one Airflow of the test session: put a flow file in `airflow.dags_folder`, under a name that no test has."""
    with FlowAirflow(tmp_path_factory.mktemp("airflow")) as airflow:
        yield airflow
