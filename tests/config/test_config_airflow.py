"""The section ``airflow``: read by the process that parses DAG files, which knows no password."""

from __future__ import annotations

from datetime import date

import pytest

from pipedag_airflow.config import PipedagConfig
from pipedag_airflow.errors import ConfigError, InstanceNotFoundError, PlaceholderError


@pytest.fixture
def config() -> PipedagConfig:
    return PipedagConfig(
        {
            "table_store_connections": {"pg": {"args": {"url": "{$NOT_SET}"}}},
            "instances": {
                "__any__": {
                    "table_store": {"table_store_connection": "pg"},
                    "airflow": {"schedule": "@daily", "tags": ["any"], "default_args": {"email": "a"}, "owner": "x"},
                },
                "prod": {"airflow": {"schedule": "@hourly", "retries": 3}},
            },
            "flows": {
                "shop": {"airflow": {"instance": "prod", "tags": ["shop"], "default_args": {"depends_on_past": True}}},
                "late": {"airflow": {"owner": None, "catchup": "{$CATCHUP}", "max_active_runs": "{$RUNS}"}},
            },
        }
    )


def test_the_settings_of_a_flow_are_merged_like_everything_else(config):
    assert config.airflow_settings("other") == {
        "schedule": "@daily",
        "tags": ["any"],
        "default_args": {"email": "a"},
        "owner": "x",
    }


def test_the_instance_that_the_settings_name_contributes_too(config):
    assert config.airflow_settings("shop") == {
        "instance": "prod",
        "schedule": "@hourly",
        "retries": 3,
        "tags": ["shop"],
        "default_args": {"email": "a", "depends_on_past": True},
        "owner": "x",
    }


def test_only_the_variables_of_the_settings_are_needed(config, monkeypatch):
    monkeypatch.setenv("CATCHUP", "false")
    monkeypatch.setenv("RUNS", "2")
    settings = config.airflow_settings("late")
    assert settings["catchup"] is False
    assert settings["max_active_runs"] == 2
    assert "owner" not in settings


def test_a_variable_that_the_settings_need_is_named(config):
    with pytest.raises(PlaceholderError, match=r"airflow.catchup contains {\$CATCHUP}"):
        config.airflow_settings("late")


def test_a_variable_of_the_wrong_type_is_named(config, monkeypatch):
    monkeypatch.setenv("CATCHUP", "perhaps")
    monkeypatch.setenv("RUNS", "2")
    with pytest.raises(ConfigError, match=r"airflow.catchup: expected true or false"):
        config.airflow_settings("late")


def test_an_instance_that_does_not_exist_is_an_error():
    config = PipedagConfig({"instances": {"prod": {}}, "flows": {"f": {"airflow": {"instance": "prd"}}}})
    with pytest.raises(InstanceNotFoundError, match="'prod'"):
        config.airflow_settings("f")


def test_a_setting_that_the_instance_overrides_needs_no_variable():
    config = PipedagConfig(
        {
            "instances": {"__any__": {"airflow": {"owner": "{$NOT_SET}", "instance": "prod"}}, "prod": {}},
            "flows": {"f": {"instances": {"prod": {"airflow": {"owner": "ops"}}}}},
        }
    )
    assert config.airflow_settings("f") == {"instance": "prod", "owner": "ops"}


def test_the_instance_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("STAGE", "prod")
    config = PipedagConfig(
        {"instances": {"prod": {"airflow": {"pool": "p"}}}, "flows": {"f": {"airflow": {"instance": "{$STAGE}"}}}}
    )
    assert config.airflow_settings("f") == {"instance": "prod", "pool": "p"}


def test_a_context_carries_the_settings_unexpanded():
    config = PipedagConfig({"instances": {"__any__": {"airflow": {"owner": "{$NOT_SET}"}}}})
    context = config.get()
    assert context.airflow.owner == "{$NOT_SET}"
    assert "airflow" not in context.config_dict


def test_dates_are_what_yaml_makes_of_them(load):
    config = load("instances: {__any__: {airflow: {start_date: 2024-01-31, schedule: {cron: '0 5 * * *'}}}}")
    assert config.airflow_settings("f") == {"start_date": date(2024, 1, 31), "schedule": {"cron": "0 5 * * *"}}
