"""Rule 8.5: what stands in braces."""

from __future__ import annotations

import getpass

import pytest

from pipedag_airflow.config import PipedagConfig
from pipedag_airflow.errors import ConfigError, ConfigNotFoundError, PlaceholderError


def any_instance(**section) -> PipedagConfig:
    return PipedagConfig({"name": "shop", "instances": {"__any__": section}})


def store(**args) -> PipedagConfig:
    return any_instance(instance_id="dev", table_store={"args": args})


def args_of(config: PipedagConfig, **options) -> dict:
    return config.get(**options).config_dict["table_store"]["args"]


@pytest.fixture(autouse=True)
def user(monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")


def test_environment_variables_are_inserted_everywhere(monkeypatch):
    monkeypatch.setenv("SOME", "value")
    context = any_instance(
        instance_id="x_{$SOME}",
        attrs={"deep": [{"key": "<{$SOME}>"}], "number": 3},
        blob_store={"args": {"bucket": "{$SOME}"}},
        tags=["{$SOME}"],
    ).get()
    assert context.instance_id == "x_value"
    assert context.attrs == {"deep": ({"key": "<value>"},), "number": 3}
    assert context.config_dict["blob_store"]["args"]["bucket"] == "value"
    assert context.config_dict["tags"] == ["value"]


def test_the_name_of_the_configuration_may_come_from_the_environment(monkeypatch):
    config = PipedagConfig({"name": "{$PROJECT}"})
    with pytest.raises(PlaceholderError, match=r"name contains {\$PROJECT}"):
        config.name  # noqa: B018
    monkeypatch.setenv("PROJECT", "shop")
    assert config.name == "shop"


def test_an_unset_variable_is_named_with_path_and_file(write):
    file = write("instances:\n  dev:\n    attrs:\n      list: ['a', '{$NOT_SET}']\n")
    with pytest.raises(PlaceholderError) as caught:
        PipedagConfig(file).get("dev", "f")
    message = str(caught.value)
    assert isinstance(caught.value, AttributeError)
    for part in (str(file), "attrs.list.1", "NOT_SET is not set", "instance dev, flow f"):
        assert part in message


def test_only_the_sections_in_use_need_their_variables():
    config = PipedagConfig(
        {
            "table_store_connections": {"prod": {"args": {"url": "{$PROD_URL}"}}},
            "instances": {
                "dev": {"fail_fast": True},
                "prod": {"table_store": {"table_store_connection": "prod"}, "airflow": {"owner": "{$OWNER}"}},
            },
        }
    )
    assert config.get("dev").fail_fast is True
    with pytest.raises(PlaceholderError, match=r"table_store.args.url contains {\$PROD_URL}"):
        config.get("prod")


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("fail_fast", "true", True),
        ("lease_seconds", "7.5", 7.5),
        ("generations_to_keep", "4", 4),
        ("instance_id", "4711", "4711"),
    ],
)
def test_a_variable_takes_the_type_that_its_key_asks_for(monkeypatch, key, text, value):
    monkeypatch.setenv("SOME", text)
    assert getattr(any_instance(**{key: "{$SOME}"}).get(), key) == value


def test_a_variable_of_the_wrong_type_is_named_but_not_shown(monkeypatch):
    monkeypatch.setenv("SOME", "hush")
    with pytest.raises(ConfigError, match=r"dictionary \(.*\): fail_fast: expected true or false.*{\$SOME}") as caught:
        any_instance(fail_fast="{$SOME}").get()
    assert "hush" not in str(caught.value)


def test_a_value_that_yaml_cannot_read_is_the_wrong_type(monkeypatch):
    monkeypatch.setenv("SOME", "[")
    with pytest.raises(ConfigError, match="lease_seconds: expected"):
        any_instance(lease_seconds="{$SOME}").get()


@pytest.mark.parametrize("text", ["{$}", "{$1A}", "$HOME", "{ name }", "{0}", "{{}}", "{}"])
def test_other_braces_are_left_alone(text):
    assert args_of(store(url=text)) == {"url": text}


def test_names_are_inserted_into_url_prefix_and_suffix():
    args = args_of(
        store(
            url="postgresql://db/{name}_{instance_id}_{username}",
            schema_prefix="{instance_id}_",
            schema_suffix="_{username}",
            comment="{instance_id}",
        )
    )
    assert args == {
        "url": "postgresql://db/shop_dev_ada",
        "schema_prefix": "dev_",
        "schema_suffix": "_ada",
        "comment": "{instance_id}",
    }


@pytest.mark.parametrize("path", ["blob_store", "lock_manager", "table_store.local_table_cache"])
def test_names_are_inserted_into_base_paths(path):
    section: dict = {"args": {"base_path": "/data/{name}/{instance_id}/{username}"}}
    for key in reversed(path.split(".")):
        section = {key: section}
    found = any_instance(instance_id="dev", **section).get().config_dict
    for key in path.split("."):
        found = found[key]
    assert found["args"]["base_path"] == "/data/shop/dev/ada"


@pytest.mark.parametrize("key", ["url", "schema_prefix", "schema_suffix", "base_path"])
def test_an_unknown_name_is_an_error_with_the_known_ones(key):
    with pytest.raises(PlaceholderError) as caught:
        store(**{key: "a_{instance}"}).get()
    assert f"table_store.args.{key} contains {{instance}}" in str(caught.value)
    assert "{instance_id}, {name}, {username}" in str(caught.value)


def test_inserted_values_stay_verbatim(monkeypatch):
    monkeypatch.setenv("PASSWORD", "p@ss/{wo}rd%20")
    assert args_of(store(url="postgresql://u:{$PASSWORD}@db/x"))["url"] == "postgresql://u:p@ss/{wo}rd%20@db/x"


def test_a_url_that_comes_from_the_environment_as_a_whole_may_have_names(monkeypatch):
    monkeypatch.setenv("URL", "postgresql://db/{instance_id}")
    assert args_of(store(url="{$URL}"))["url"] == "postgresql://db/dev"


def test_per_user_makes_the_instance_id_before_it_is_inserted():
    config = store(url="postgresql://db/{instance_id}")
    assert config.get(per_user=True).instance_id == "dev_ada"
    assert args_of(config, per_user=True)["url"] == "postgresql://db/dev_ada"
    assert args_of(config)["url"] == "postgresql://db/dev"


def test_the_template_for_users_is_configurable():
    config = any_instance(instance_id="dev", per_user_template="{username}-{id}-x")
    assert config.get(per_user=True).instance_id == "ada-dev-x"


def test_the_template_for_users_knows_two_names():
    with pytest.raises(PlaceholderError, match=r"per_user_template contains {instance_id}"):
        any_instance(per_user_template="{instance_id}").get(per_user=True)


def test_the_user_is_not_asked_for_unless_needed(monkeypatch):
    def nobody():
        raise OSError("No username set in the environment")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert store(url="x/{instance_id}").get().instance_id == "dev"
    with pytest.raises(PlaceholderError, match="Set the environment variable USER"):
        store(url="x/{username}").get()


def test_a_file_of_url_attributes_fills_the_url_and_leaves_the_arguments(write, monkeypatch):
    monkeypatch.setenv("WHERE", str(write("username: bob\npassword: a{b}c\nport: 5432\n", "secret/login.yaml")))
    args = args_of(
        store(url="postgresql://{username}:{password}@db:{port}/{instance_id}", url_attrs_file="{$WHERE}", x="{port}")
    )
    assert args == {"url": "postgresql://bob:a{b}c@db:5432/dev", "x": "{port}"}


def test_a_url_attribute_that_the_file_does_not_have_may_still_be_a_name(write):
    file = write("password: hush", "login.yaml")
    url = args_of(store(url="x://{username}:{password}@db", url_attrs_file=str(file)))["url"]
    assert url == "x://ada:hush@db"


def test_a_url_attribute_that_nobody_has_is_an_error_without_the_values(write):
    file = write("password: hush", "login.yaml")
    with pytest.raises(PlaceholderError, match=r"{host}") as caught:
        store(url="x://u:{password}@{host}", url_attrs_file=str(file)).get()
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(("value", "error"), [("/not/there.yaml", ConfigNotFoundError), (["a"], ConfigError)])
def test_a_file_of_url_attributes_that_cannot_be_used_is_an_error(value, error):
    with pytest.raises(error):
        store(url="x", url_attrs_file=value).get()
