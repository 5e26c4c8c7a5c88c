"""Classes by the short names under which distributions have registered them."""

from __future__ import annotations

import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from pipedag_airflow.backend.lock import DatabaseLockManager, FileLockManager, NoLockManager, ZooKeeperLockManager
from pipedag_airflow.config import PipedagConfig
from pipedag_airflow.config.registry import GROUPS
from pipedag_airflow.errors import ConfigError

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"

ACME_LOCKS = """
from pipedag_airflow.backend.lock import FileLockManager

class AcmeLockManager(FileLockManager):
    pass

NO_CLASS = 1
"""


def lock_manager(name, **args):
    section = {"table_store": {"class": "sql", "args": {"url": "duckdb:////srv/shop.duckdb"}}}
    return PipedagConfig({"instances": {"dev": section | {"lock_manager": {"class": name, "args": args}}}}).get("dev")


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution: a module, and entry points for what is in it."""

    def install(name, **registered):
        site = tmp_path / name
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{name}.py").write_text(ACME_LOCKS)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"{short} = {name}:{attribute}" for short, attribute in registered.items()]
        (info / "entry_points.txt").write_text("\n".join(["[pipedag_airflow.lock_managers]", *lines]))
        monkeypatch.syspath_prepend(str(site))

    return install


@pytest.mark.parametrize(
    ("name", "args", "cls"),
    [
        ("database", {}, DatabaseLockManager),
        ("file", {"base_path": "/srv/locks"}, FileLockManager),
        ("none", {}, NoLockManager),
        ("zookeeper", {"hosts": "zoo1:2181"}, ZooKeeperLockManager),
    ],
)
def test_our_lock_managers_have_short_names(name, args, cls):
    assert type(lock_manager(name, **args).lock_manager) is cls


def test_all_that_is_registered_is_of_a_kind_that_the_configuration_knows():
    """Groups that are no part of the configuration are looked up where they are used: by URL, by type, by Airflow."""
    registered = tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"]
    elsewhere = {"airflow.plugins", "apache_airflow_provider", "pipedag_airflow.dialects", "pipedag_airflow.frames"}
    assert registered.keys() - elsewhere <= set(GROUPS.values())
    for group in registered.keys() - elsewhere:
        assert {point.name: point.value for point in entry_points(group=group)} == registered[group]
        assert all(isinstance(point.load(), type) for point in entry_points(group=group))


def test_a_lock_manager_of_another_distribution_is_found_by_its_name(install):
    install("acme_locks", acme="AcmeLockManager")
    made = lock_manager("acme", base_path="/srv/locks").lock_manager
    assert type(made).__name__ == "AcmeLockManager"
    assert made.base_path == Path("/srv/locks/pipeline")


def test_a_name_that_nobody_has_registered_is_answered_with_the_known_ones(install):
    install("acme_locks", acme="AcmeLockManager")
    known = "pipedag_airflow.lock_managers of entry points: acme, database, file, none, zookeeper"
    with pytest.raises(ConfigError, match=rf"lock_manager\.class is 'acmee', which is neither .*{known}\."):
        lock_manager("acmee").lock_manager  # noqa: B018 (reading it builds it)


def test_a_name_that_two_distributions_have_registered_is_an_error_with_both(install):
    install("acme_locks", acme="AcmeLockManager")
    install("other_locks", acme="AcmeLockManager")
    both = r"acme_locks \(for acme_locks.AcmeLockManager\) and other_locks \(for other_locks.AcmeLockManager\)"
    with pytest.raises(ConfigError, match=f"a name that {both} have registered"):
        lock_manager("acme").lock_manager  # noqa: B018 (reading it builds it)


@pytest.mark.parametrize(
    ("attribute", "problem"),
    [("Missing", "which cannot be imported: AttributeError"), ("NO_CLASS", "int and no class")],
)
def test_what_is_registered_must_be_a_class(install, attribute, problem):
    install("acme_locks", acme=attribute)
    with pytest.raises(ConfigError, match=rf"lock_manager\.class is 'acme', .*{problem}"):
        lock_manager("acme").lock_manager  # noqa: B018 (reading it builds it)
