"""Rule 9.1: the link to a picture, and that there is none unless a server is configured."""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64decode

import pytest

from pipedag_airflow import Flow, Stage, materialize
from pipedag_airflow.errors import ConfigError


@materialize(version="1")
def task(argument):
    return argument


@pytest.fixture
def flow(tmp_path, monkeypatch):
    """A flow whose folder has no configuration, and neither has the working directory or the home."""
    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with Flow("shop") as flow, Stage("stage"):
        task("hunter2")
    flow.file = tmp_path / "flow.py"
    return flow


def graph_in(url, server):
    assert url.startswith(f"{server}/graphviz/svg/")
    return zlib.decompress(urlsafe_b64decode(url.removeprefix(f"{server}/graphviz/svg/"))).decode()


@pytest.mark.parametrize("written", ["https://kroki.example", "https://kroki.example/"])
def test_the_link_holds_the_graph(flow, config, written):
    with config(kroki_url=written):
        url = flow.visualize_url()
    assert graph_in(url, "https://kroki.example") == flow.visualize_pydot().to_string()


def test_the_graph_is_packed_as_tightly_as_zlib_can(flow, config):
    with config(kroki_url="https://kroki.example"):
        packed = urlsafe_b64decode(flow.visualize_url().rpartition("/")[2])
    assert packed == zlib.compress(flow.visualize_pydot().to_string().encode(), 9)


def test_a_result_names_the_server_that_its_run_was_configured_with(flow, config):
    result = flow.run(config=config(kroki_url="https://of.the.run"))
    with config(kroki_url="https://of.the.context"):
        assert graph_in(result.visualize_url(), "https://of.the.run") == result.visualize_pydot().to_string()
        assert flow.visualize_url(result) == result.visualize_url()
        assert flow.visualize_url().startswith("https://of.the.context/")


def test_the_server_is_found_in_the_file_beside_the_flow(flow, tmp_path):
    (tmp_path / "pipedag.yaml").write_text(
        "instances: {__any__: {kroki_url: 'https://everybody'}}\nflows: {shop: {kroki_url: 'https://of.the.shop'}}"
    )
    assert flow.visualize_url().startswith("https://of.the.shop/")


def test_without_a_server_there_is_no_link(flow):
    with pytest.raises(
        ConfigError, match=r"(?s)'shop'.*embedded default.*Set kroki_url.*https://kroki\.io.*contacts no"
    ):
        flow.visualize_url()


def test_values_of_arguments_are_not_in_the_link(flow, config):
    server = "https://kroki.example"
    flow.run(config=config())
    with Flow("shop") as changed, Stage("stage"):
        task("hunter3")
    graph = graph_in(changed.run(config=config(kroki_url=server)).visualize_url(), server)
    assert "completed: input changed" in graph
    assert "hunter" not in graph
