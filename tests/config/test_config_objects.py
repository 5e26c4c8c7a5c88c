"""Building stores, lock managers and engines from ``class`` and ``args``."""

from __future__ import annotations

import traceback
from threading import Barrier, Thread

import pytest

from pipedag_airflow.backend.table.cache import TableCache
from pipedag_airflow.config import PipedagConfig
from pipedag_airflow.errors import ConfigError

URL = "postgresql://bob:hu%24h@db.example:5432/shop"


class Plain:
    def __init__(self, size: int = 1, *, colour: str = "red"):
        self.size = size
        self.colour = colour


class FromConfig:
    def __init__(self, context, args):
        self.context = context
        self.args = args

    @classmethod
    def from_config(cls, context, **args):
        return cls(context, args)


class Strict:
    @classmethod
    def from_config(cls, context, *, depth=1):
        raise AssertionError("never called with an unknown argument")


class WithLocks:
    @classmethod
    def from_config(cls, context):
        made = cls()
        made.locks = context.lock_manager
        return made


class Broken:
    def __init__(self, url="", message="", cause=""):
        try:
            raise KeyError(cause)
        except KeyError as error:
            raise RuntimeError(message.format(url=url)) from error


def function():
    return Plain()


def context_with(**section):
    return PipedagConfig({"instances": {"dev": section}}).get("dev")


def named(cls: type | str, **args) -> dict:
    name = cls if isinstance(cls, str) else f"{__name__}.{cls.__name__}"
    return {"class": name, "args": args}


def test_a_plain_class_is_called_with_its_arguments():
    store = context_with(table_store=named(Plain, size=3, colour="blue")).table_store
    assert (type(store), store.size, store.colour) == (Plain, 3, "blue")


def test_a_class_that_can_read_the_configuration_gets_it():
    context = context_with(blob_store=named(FromConfig, base_path="/b"))
    assert context.blob_store.context is context
    assert context.blob_store.args == {"base_path": "/b"}


def test_a_class_may_be_given_as_such():
    assert type(context_with(blob_store={"class": Plain}).blob_store) is Plain


def test_a_class_without_a_readable_signature_is_simply_called():
    assert context_with(blob_store=named("builtins.dict", x=1)).blob_store == {"x": 1}


def test_getting_a_context_imports_and_builds_nothing():
    context_with(table_store=named("no.such.module.Store"), lock_manager=named(Broken))


@pytest.mark.parametrize("name", ["table_store", "blob_store", "lock_manager"])
def test_an_object_is_built_once(name):
    context = context_with(**{name: named(Plain)})
    assert getattr(context, name) is getattr(context, name)


def test_new_lock_managers_and_engines_are_made_on_every_call():
    context = context_with(lock_manager=named(Plain), orchestration=named(Plain, size=7))
    assert context.create_lock_manager() is not context.create_lock_manager()
    assert context.create_lock_manager() is not context.lock_manager
    assert context.create_orchestration_engine() is not context.create_orchestration_engine()
    assert context.create_orchestration_engine().size == 7


def test_one_object_may_use_another_while_it_is_built():
    context = context_with(table_store=named(WithLocks), lock_manager=named(Plain))
    assert context.table_store.locks is context.lock_manager


def test_threads_that_ask_at_once_get_one_object():
    context = context_with(table_store=named(Plain))
    barrier, found = Barrier(8), []

    def ask():
        barrier.wait()
        found.append(context.table_store)

    threads = [Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(store) for store in found}) == 1


def test_a_store_builds_its_own_parts():
    cache = named(FromConfig, base_path="/cache") | {"store_input": False}
    context = context_with(table_store={**named(Plain), "local_table_cache": cache})
    assert context.create_object("table_store.local_table_cache").args == {"base_path": "/cache"}


class Cache(TableCache):
    """A table cache that keeps nothing."""

    def __init__(self, size=1, **options):
        super().__init__(**options)
        self.size = size

    def read(self, location):
        return None

    def write(self, location, table):
        pass

    def check(self):
        return "nothing to try"


def test_the_options_of_a_local_table_cache_stand_beside_its_arguments():
    section = {"class": Cache, "args": {"size": 7}, "store_input": False, "store_output": True}
    context = context_with(table_store={**named(Plain), "local_table_cache": section})
    cache = context.local_table_cache
    assert (cache.size, cache.store_input, cache.store_output, cache.use_stored_input_as_cache) == (
        7,
        False,
        True,
        True,
    )
    assert context.local_table_cache is cache
    assert context.evolve(fail_fast=True).local_table_cache is cache


@pytest.mark.parametrize("section", [{}, {"local_table_cache": {}}])
def test_without_a_section_there_is_no_local_table_cache(section):
    assert context_with(table_store=named(Plain) | section).local_table_cache is None


def test_an_unknown_argument_of_a_local_table_cache_is_named():
    section = {"class": "parquet", "args": {"base_path": "/cache", "size": 1}}
    context = context_with(table_store={**named(Plain), "local_table_cache": section})
    with pytest.raises(ConfigError, match=r"local_table_cache: .*'size'"):
        context.local_table_cache  # noqa: B018


def failure(context, name="table_store") -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        getattr(context, name)
    return caught.value


@pytest.mark.parametrize("section", [{}, {"table_store": {"args": {"x": 1}}}])
def test_a_missing_class_is_named(section):
    message = str(failure(context_with(**section)))
    assert "dictionary (instance 'dev'): table_store.class is missing" in message


def test_a_missing_engine_is_named():
    with pytest.raises(ConfigError, match=r"orchestration.class is missing"):
        context_with().create_orchestration_engine()


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("no_such_package.Store", "ModuleNotFoundError"),
        (f"{__name__}.Missing", "AttributeError"),
        ("Store", "neither a dotted path"),
        (f"{__name__}.function", "function and no class"),
    ],
)
def test_a_class_that_cannot_be_imported_is_named_with_its_place(path, problem):
    message = str(failure(context_with(table_store=named(path))))
    assert f"table_store.class is {path!r}" in message
    assert problem in message


@pytest.mark.parametrize(
    ("section", "place"),
    [
        ({"table_store": named("pydiverse.pipedag.backend.table.SQLTableStore")}, "table_store.class"),
        ({"lock_manager": named("pydiverse.pipedag.backend.table.SQLTableStore")}, "lock_manager.class"),
        (
            {"table_store": {"local_table_cache": named("pydiverse.pipedag.backend.table.SQLTableStore")}},
            "table_store.local_table_cache.class",
        ),
    ],
)
def test_class_paths_of_the_reference_are_answered_with_ours(section, place):
    with pytest.raises(ConfigError) as caught:
        context_with(**section)
    assert f"{place} is 'pydiverse.pipedag.backend.table.SQLTableStore'" in str(caught.value)
    assert "Write 'pipedag_airflow.backend.table.SQLTableStore'" in str(caught.value)


def test_an_argument_whose_name_is_no_text_is_refused():
    section = {"table_store": {"class": Plain, "args": {1: 2}}}
    assert "table_store.args.1 is no argument of" in str(failure(context_with(**section)))


@pytest.mark.parametrize(("cls", "nearest"), [(Plain, "colour"), (Strict, "depth")])
def test_an_unknown_argument_is_answered_with_the_nearest_one(cls, nearest):
    message = str(failure(context_with(table_store=named(cls, **{nearest[:-1]: 1}))))
    assert f"table_store.args.{nearest[:-1]} is no argument of" in message
    assert f"did you mean {nearest!r}" in message


def test_a_failure_is_chained_and_says_what_failed_where():
    error = failure(context_with(table_store=named(Broken, message="disk is full")))
    message = str(error)
    assert "table_store: " in message
    assert "Broken cannot be built: RuntimeError: disk is full" in message
    assert isinstance(error.__cause__, RuntimeError)


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("cannot connect to {url}", ""),
        ("password 'hu$h' is wrong", ""),
        ("login bob:hu%24h refused", ""),
        ('role "bob" does not exist', ""),
        ("harmless", f"{URL}"),
    ],
)
def test_no_failure_prints_the_login_of_the_url(message, cause):
    error = failure(context_with(table_store=named(Broken, url=URL, message=message, cause=cause)))
    shown = "".join(traceback.format_exception(error))
    for secret in ("hu%24h", "hu$h", "bob"):
        assert secret not in shown
    assert "Broken cannot be built: RuntimeError" in shown


@pytest.mark.parametrize(
    "section",
    [
        {"table_store": named(Broken, url=URL) | {"class": URL}},
        {"table_store": named(Broken, conn_id=URL) | {"class": "pipedag_airflow.backend.table.SQLTableStore"}},
        {"attrs": "hu%24h"},
        {"table_store": {"hook_args": "hu%24h"}},
    ],
    ids=["class", "conn_id", "attrs", "hook_args"],
)
def test_a_secret_in_the_wrong_place_is_not_shown(section):
    with pytest.raises(ConfigError) as caught:
        context_with(**section).table_store  # noqa: B018 (reading it builds it)
    assert "hu%24h" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("args", "secret"),
    [
        ({"url": "x://db?user=u&password=hush"}, "hush"),
        ({"url": "x://u:hu/sh@db"}, "hu/sh"),
        ({"url": "x://u:hu@sh@db"}, "hu@sh"),
        ({"url": "x://u:hush@db?mail=a@b"}, "hush"),
        ({"signing_key": "hush"}, "hush"),
        ({"hosts": ["x://u:hush@db"]}, "hush"),
        ({"tokens": ["hush"]}, "hush"),
        ({"auth_data": [["digest", "bob:hush"]]}, "hush"),
        ({"dsn": "host=db user=bob password=hush"}, "hush"),
        ({"dsn": "password = 'hu sh' host=db"}, "hu sh"),
        ({"odbc": "DRIVER={x};UID=u;PWD={hu;sh}"}, "hu;sh"),
        ({"url": "x:///?odbc_connect=DRIVER%3D%7Bx%7D%3BPWD%3Dhu%24h%3BUID%3Du"}, "hu$h"),
    ],
)
def test_passwords_are_recognised_wherever_people_put_them(args, secret):
    section = {"blob_store": {"args": args}, "table_store": named(Broken, message=f"it was {secret}!")}
    assert "it was ***!" in str(failure(context_with(**section)))
