"""The documents: their Python snippets run, and their relative links lead to files that exist."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
GOLDEN = REPOSITORY / "tests" / "golden"
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def snippets() -> list[tuple[str, int, str]]:
    """Page, line and text of each Python snippet."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found += [(page.name, text.count("\n", 0, match.start()) + 1, match[1]) for match in SNIPPET.finditer(text)]
    return found


def broken_links(page: Path) -> list[str]:
    """Relative links of a page that lead to no file."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [link for link in LINK.findall(text) if not re.match(r"[a-z]+:|#", link)]
    return [link for link in links if not (page.parent / link.partition("#")[0]).exists()]


@pytest.mark.parametrize(("page", "line", "code"), [pytest.param(*found, id=f"{found[0]}:{found[1]}") for found in snippets()])
def test_snippets_run(page: str, line: int, code: str, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(GOLDEN / "capture.lmvic", tmp_path / "scene.lmvic")
    shutil.copytree(room, tmp_path / "SCENE")
    monkeypatch.setenv("LMVIC_WEIGHTS", str(GOLDEN))
    monkeypatch.chdir(tmp_path)
    exec(compile("\n" * line + code, page, "exec"), {"__name__": "snippet"})


def test_the_interface_page_has_snippets() -> None:
    assert sum(page == "api.md" for page, *_ in snippets()) >= 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_files(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[here](page.md#part) [gone](gone.md) ![picture](gone.png) [web](https://example.org) [up](#up)\n")
    assert broken_links(page) == ["gone.md", "gone.png"]
