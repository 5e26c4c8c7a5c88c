"""docs/types.md says what the cases say to which the tests hold each database."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_of_types_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_types", DOCS / "make_types.py")
    assert spec is not None
    assert spec.loader is not None
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    page = (DOCS / "types.md").read_text(encoding="utf-8")
    assert page == command.page(), "python docs/make_types.py writes it anew"
