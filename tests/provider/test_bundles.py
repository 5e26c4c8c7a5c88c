"""A bundle whose versions are the states of a folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipedag_airflow.errors import ConfigError
from pipedag_airflow.provider.bundles import SnapshotDagBundle

if TYPE_CHECKING:
    from collections.abc import Callable

    Bundle = Callable[..., SnapshotDagBundle]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "flows"
    (folder / "helpers").mkdir(parents=True)
    (folder / "shop.py").write_text("old")
    (folder / "helpers" / "prices.sql").write_text("select 1")
    return folder


@pytest.fixture
def bundle(source: Path, tmp_path: Path) -> Bundle:
    """Make the bundle of the folder as a process does that begins."""

    def make(version: str | None = None, storage: str = "storage") -> SnapshotDagBundle:
        made = SnapshotDagBundle(name="flows", path=str(source), version=version)
        made.versions_dir = tmp_path / storage
        made.initialize()
        return made

    return make


def version_of(bundle: SnapshotDagBundle) -> str:
    version: Any = bundle.get_current_version()
    return str(getattr(version, "version", version))


def test_a_run_keeps_its_files_when_they_change(bundle: Bundle, source: Path) -> None:
    begun = version_of(bundle())
    (source / "shop.py").write_text("new")
    assert (bundle(begun).path / "shop.py").read_text() == "old"
    assert (bundle(begun).path / "helpers" / "prices.sql").read_text() == "select 1"
    assert (bundle().path / "shop.py").read_text() == "new"


def test_a_processor_that_looks_again_sees_what_is_new(bundle: Bundle, source: Path) -> None:
    processor = bundle()
    before = version_of(processor)
    processor.refresh()
    assert version_of(processor) == before
    (source / "helpers" / "prices.sql").write_text("select 2")
    processor.refresh()
    assert version_of(processor) != before
    assert (processor.path / "helpers" / "prices.sql").read_text() == "select 2"


@pytest.mark.parametrize("hidden", [".git/HEAD", "__pycache__/shop.pyc", ".pipedag/pipeline.duckdb"])
def test_data_and_what_is_made_of_modules_are_no_part_of_a_version(bundle: Bundle, source: Path, hidden: str) -> None:
    before = version_of(bundle())
    (source / hidden).parent.mkdir()
    (source / hidden).write_text("x")
    (source / "more.py").write_text("x")
    changed = bundle()
    assert version_of(changed) != before
    assert sorted(path.name for path in changed.path.iterdir()) == ["helpers", "more.py", "shop.py"]
    (source / hidden).write_text("y")
    assert version_of(bundle()) == version_of(changed)


def test_a_file_that_is_renamed_is_another_version(bundle: Bundle, source: Path) -> None:
    before = version_of(bundle())
    (source / "shop.py").rename(source / "store.py")
    assert version_of(bundle()) != before


def test_a_worker_without_the_copy_makes_it_as_long_as_the_folder_is_the_same(bundle: Bundle, source: Path) -> None:
    version = version_of(bundle())
    assert (bundle(version, storage="worker").path / "shop.py").read_text() == "old"
    (source / "shop.py").write_text("new")
    with pytest.raises(ConfigError, match=f"version {version} is not in .*other, and .*flows holds another one by now"):
        bundle(version, storage="other")


def test_a_copy_that_another_process_made_meanwhile_is_taken(
    bundle: Bundle, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, rename = version_of(bundle()), Path.rename

    def too_late(copy: Path, target: Path) -> Path:
        shutil.copytree(source, target)
        return rename(copy, target)

    monkeypatch.setattr(Path, "rename", too_late)
    assert version_of(bundle(storage="other")) == version
    assert [path.name for path in (tmp_path / "other").iterdir()] == [version]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'flows': there is no folder .*nowhere"):
        SnapshotDagBundle(name="flows", path=str(tmp_path / "nowhere")).initialize()


def test_a_given_version_is_not_refreshed(bundle: Bundle) -> None:
    with pytest.raises(RuntimeError, match="which does not change"):
        bundle(version_of(bundle())).refresh()
