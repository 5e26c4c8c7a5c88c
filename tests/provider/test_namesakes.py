"""Two flows of one name in two files: Airflow itself would let one of them win, and change between them."""

from __future__ import annotations

import zipfile
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import DagFolder

HEAD = "from pipedag_airflow import Flow, Stage, materialize\n\n"
SHOP = HEAD + "with Flow('shop') as flow, Stage('stage'):\n    pass\n"


def errors(dags: DagFolder, *files: str) -> dict[str, str]:
    """Parse files each by itself, as Airflow does, and return what is wrong with them."""
    return {name: text for file in files for name, text in dags.parse(file).import_errors.items()}


def test_both_files_are_import_errors_that_name_the_flow_the_files_and_the_mend(dags: DagFolder) -> None:
    dags.write(shop=SHOP, shop_copy=SHOP, other=SHOP.replace("shop", "other"))
    found = errors(dags, "shop.py", "shop_copy.py", "other.py")
    assert set(found) == {"shop.py", "shop_copy.py"}
    for text in found.values():
        for part in ("pipedag_airflow.errors.DuplicateNameError: ", "'shop'", "a name of its own", ".airflowignore"):
            assert part in text
        assert f"The files {dags.path / 'shop.py'} and {dags.path / 'shop_copy.py'} each have" in text
    assert set(dags.parse("other.py").dags) == {"other"}


def test_a_folder_that_one_process_parses_has_the_same_errors(dags: DagFolder) -> None:
    dags.write(shop=SHOP, shop_copy=SHOP, other=SHOP.replace("shop", "other"))
    bag = dags.parse()
    assert (set(bag.import_errors), set(bag.dags)) == ({"shop.py", "shop_copy.py"}, {"other"})


def test_a_new_name_mends_it(dags: DagFolder) -> None:
    dags.write(shop=SHOP, shop_copy=SHOP)
    assert errors(dags, "shop.py")
    dags.write(shop_copy=SHOP.replace("shop", "shop_2"))
    assert errors(dags, "shop.py", "shop_copy.py") == {}


@pytest.mark.parametrize(
    "other",
    [
        HEAD + "with Flow(name='shop'), Stage('stage'):\n    pass\n",
        "import pipedag_airflow as pd\nwith pd.Flow('shop'), pd.Stage('stage'):\n    pass\n",
        HEAD + "def helper():\n    pass\n\nif True:\n    with Flow('shop'):\n        pass\n",
        HEAD + "with Flow('shop'):\n    pass\nflow = 'airflow dag'\nraise ValueError\n",
        HEAD + "with Flow('other'):\n    pass\nwith Flow('shop'):\n    pass\n",
    ],
    ids=["keyword", "module", "condition", "broken", "second"],
)
def test_what_the_other_file_may_look_like(dags: DagFolder, other: str) -> None:
    dags.write(shop=SHOP, zz=other)
    assert "zz.py" in errors(dags, "shop.py")["shop.py"]


@pytest.mark.parametrize(
    "other",
    [
        HEAD + "if __name__ == '__main__':\n    with Flow('shop'):\n        pass\n",
        HEAD + "def test_of_the_shop():\n    with Flow('shop'):\n        pass\n",
        HEAD + 'EXAMPLE = """with Flow(\'shop\'):"""\n',
        HEAD + "# with Flow('shop'):\n",
        HEAD + "with Flow('another'), Stage('shop'):\n    pass\n",
        HEAD + "with Flow('shop') as flow:\n    pass\nflow.to_dag(dag_id='shop_2')\n",
        "from prefect import Flow\nwith Flow('shop'):  # an airflow dag\n    pass\n",
        "this is no Python, but says pipedag_airflow and Flow('shop')\n",
        HEAD + "PATTERN = '\\d'\nwith Flow('another'):\n    'shop'\n",
    ],
    ids=["script", "function", "string", "comment", "stage", "other_id", "other_package", "no_python", "warns"],
)
def test_what_is_no_second_flow(dags: DagFolder, other: str) -> None:
    dags.write(shop=SHOP, zz=other)
    bag = dags.parse("shop.py")
    assert (set(bag.dags), bag.import_errors, bag.captured_warnings) == ({"shop"}, {}, {})


def test_a_flow_without_a_name_has_the_default_one(dags: DagFolder) -> None:
    unnamed = SHOP.replace("'shop'", "")
    dags.write(one=unnamed, two=unnamed)
    assert set(errors(dags, "one.py", "two.py")) == {"one.py", "two.py"}


def test_a_computed_name_is_found_when_its_own_file_is_parsed(dags: DagFolder) -> None:
    dags.write(shop=SHOP, computed=SHOP.replace("'shop'", "'sho' + 'p'"))
    assert set(errors(dags, "shop.py", "computed.py")) == {"computed.py"}


def test_to_dag_cannot_take_the_name_of_another_file_s_flow(dags: DagFolder) -> None:
    dags.write(shop=SHOP, taker=SHOP.replace("shop", "taker") + "flow.to_dag(dag_id='shop')\n")
    assert set(errors(dags, "shop.py", "taker.py")) == {"taker.py"}


def test_files_whose_dags_have_ids_of_their_own_may_use_one_name(dags: DagFolder) -> None:
    dags.write(a=SHOP + "flow.to_dag(dag_id='shop_a')\n", b=SHOP + "flow.to_dag(dag_id='shop_b')\n")
    assert set(dags.parse("a.py").dags) == {"shop_a"}
    assert set(dags.parse("b.py").dags) == {"shop_b"}


def test_a_file_that_airflow_ignores_does_not_count(dags: DagFolder) -> None:
    dags.write(shop=SHOP, shop_copy=SHOP)
    (dags.path / ".airflowignore").write_text("shop_copy.py\n")
    assert errors(dags, "shop.py") == {}


def test_one_file_that_is_reached_in_two_ways_is_one_file(dags: DagFolder) -> None:
    dags.write(shop=SHOP)
    (dags.path / "link.py").symlink_to(dags.path / "shop.py")
    assert errors(dags, "shop.py", "link.py") == {}


def test_a_file_in_an_archive(dags: DagFolder) -> None:
    dags.write(shop=SHOP)
    with zipfile.ZipFile(dags.path / "flows.zip", "w") as archive:
        archive.writestr("archived_shop.py", SHOP)
    for text in (errors(dags, "shop.py")["shop.py"], *errors(dags, "flows.zip").values()):
        assert str(dags.path / "flows.zip" / "archived_shop.py") in text
        assert str(dags.path / "shop.py") in text


def test_the_process_of_a_task_is_not_bothered(dags: DagFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was started from the right file: what Airflow calls there, with no more around it than it needs."""
    from airflow.sdk.execution_time import task_runner

    task = HEAD + "@materialize(version='1')\ndef one():\n    return 1\n\n"
    dags.write(shop=task + SHOP.replace("pass", "one()"), shop_copy=SHOP)
    bundle = SimpleNamespace(path=dags.path, initialize=lambda: None)
    manager = SimpleNamespace(get_bundle=lambda **_: bundle)
    monkeypatch.setattr(task_runner, "DagBundlesManager", lambda: manager)
    monkeypatch.setattr(task_runner, "_verify_bundle_access", lambda *_: None)
    started: Any = SimpleNamespace(
        bundle_info=SimpleNamespace(name="test", version=None),
        dag_rel_path="shop.py",
        ti=SimpleNamespace(dag_id="shop", task_id="stage.one", model_dump=lambda **_: {}),
        ti_context=SimpleNamespace(max_tries=0),
        start_date=None,
        sentry_integration="",
    )
    log: Any = SimpleNamespace(info=lambda *_, **__: None)
    assert task_runner.parse(started, log).task.task_id == "stage.one"
