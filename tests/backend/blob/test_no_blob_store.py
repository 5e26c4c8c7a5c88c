from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from pipedag_airflow.backend.blob import BlobStore, NoBlobStore
from pipedag_airflow.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

USES: dict[str, Callable[[BlobStore], object]] = {
    "write": lambda store: store.write(1, stage="s", name="b", generation=1),
    "read": lambda store: store.read("s/b.g1.pkl"),
    "exists": lambda store: store.exists("s/b.g1.pkl"),
    "link": lambda store: store.link(stage="s", name="b", location="s/b.g1.pkl"),
    "unlink": lambda store: store.unlink(stage="s", name="b"),
    "drop": lambda store: store.drop("s/b.g1.pkl"),
}


@pytest.mark.parametrize("use", USES)
def test_every_use_says_what_to_configure(use: str) -> None:
    store = NoBlobStore.from_config(SimpleNamespace(instance_id="i"))
    with pytest.raises(StoreError, match=r"blob_store\.class") as caught:
        USES[use](store)
    assert "'b'" in str(caught.value) or "s/b.g1.pkl" in str(caught.value)
