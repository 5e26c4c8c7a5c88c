"""A configuration as an argument of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pipedag_airflow import ConfigContext, Flow, PipedagConfig, Stage, materialize
from pipedag_airflow.core.values import dump_identity
from pipedag_airflow.errors import UnsupportedValueError

if TYPE_CHECKING:
    from conftest import Project


def data_of(
    limit: int = 3, password: str = "s3cret", instance_id: str = "other", url: str = "other.db"
) -> dict[str, Any]:
    section = {
        "instance_id": instance_id,
        "attrs": {"limit": limit, "password": password},
        "table_store": {"args": {"url": f"postgresql://me:{password}@host/{url}"}},
    }
    return {"name": "shop", "instances": {"__any__": section}}


def flow_of(project: Project, config: ConfigContext | PipedagConfig) -> Flow:
    @materialize(version="1")
    def limit_of(config: ConfigContext | PipedagConfig) -> int:
        project.call("limit_of")
        context = config.get() if isinstance(config, PipedagConfig) else config
        return int(context.attrs.limit)

    with Flow("configured") as flow, Stage("one"):
        limit_of(config)
    return flow


@pytest.mark.parametrize("make", [PipedagConfig, lambda data: PipedagConfig(data).get()], ids=["config", "context"])
def test_a_task_runs_again_when_the_configuration_that_it_gets_changes(project: Project, make: Any) -> None:
    flow = flow_of(project, make(data_of()))
    result = project.run(flow)
    assert project.called == ["limit_of"]
    assert result.get(flow["one"]["limit_of"]) == 3

    assert project.executed(flow_of(project, make(data_of(password="changed")))) == []
    assert project.executed(flow_of(project, make(data_of(limit=4)))) == ["limit_of"]
    metadata = project.query("select string_agg(inputs, '') from pipedag_metadata.task")[0][0]
    assert "s3cret" not in metadata
    assert "Con" in metadata


def test_where_an_instance_is_stored_is_no_part_of_it_but_its_id_is() -> None:
    def identity(**changes: Any) -> str:
        return dump_identity(PipedagConfig(data_of(**changes)).get())

    assert identity(url="new.db") == identity()
    assert identity(instance_id="third") != identity()


@pytest.mark.parametrize("make", [PipedagConfig, lambda data: PipedagConfig(data).get()], ids=["config", "context"])
def test_a_configuration_is_no_result(project: Project, make: Any) -> None:
    @materialize
    def config() -> Any:
        return {"config": make(data_of())}

    with Flow("returned") as flow, Stage("one"):
        config()

    with pytest.raises(UnsupportedValueError, match=r"'one\.config'.*\['config'\] is a \w+Con\w+, .*not its result"):
        project.run(flow)
