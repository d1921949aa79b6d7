"""The pages of docs/ make a site: built strictly, without a network, with no link into nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from tests.conftest import ROOT

DOCS = ROOT / "docs"
# mkdocs, in a process that can open no connection.
BUILD = """
import sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise OSError(f"no network: {event} {arguments}")
sys.addaudithook(refuse)
from mkdocs.__main__ import cli
cli(["build", "--strict", "--quiet", "--site-dir", sys.argv[1]])
"""


@dataclass
class Page(HTMLParser):
    """What a built page points at, and what can be pointed at in it."""

    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        loaded = given.get("src") or (given.get("href", "") if tag == "link" else "")
        if loaded and given.get("rel") != "canonical":
            self.loaded.append(loaded)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "a strict build warns of nothing"
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    found = {}
    for path in sorted(site.rglob("*.html")):
        page = Page()
        page.feed(path.read_text(encoding="utf-8"))
        found[path] = page
    return found


def leaves(nav: Any) -> Iterator[str]:
    for entry in nav.values() if isinstance(nav, dict) else nav:
        if isinstance(entry, str):
            yield entry
        else:
            yield from leaves(entry)


def target(site: Path, page: Path, link: str) -> Path:
    parts = urlsplit(link)
    path = page if not parts.path else page.parent / unquote(parts.path)
    path = path.resolve()
    assert path.is_relative_to(site.resolve()), f"{page.name}: {link} leads out of the site"
    return path / "index.html" if path.is_dir() else path


def test_every_page_has_one_place_in_the_navigation() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = list(leaves(config["nav"]))
    assert sorted(named) == sorted(path.name for path in DOCS.glob("*.md"))


def test_every_link_and_anchor_of_the_site_leads_somewhere(
    site: Path, pages: dict[Path, Page]
) -> None:
    assert len(pages) > 20
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # served at any depth: its links begin at the root of the host
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            found = target(site, path, link)
            assert found.is_file(), f"{path.relative_to(site)}: {link}"
            if parts.fragment and found.suffix == ".html":
                assert unquote(parts.fragment) in pages[_same(pages, found)].ids | {""}, (
                    f"{path.relative_to(site)}: {link}"
                )


def _same(pages: dict[Path, Page], path: Path) -> Path:
    return next(each for each in pages if each.resolve() == path)


def test_a_reader_without_a_network_sees_the_whole_site(pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        assert [each for each in page.loaded if urlsplit(each).netloc] == [], path


def test_no_list_or_table_was_left_as_text(site: Path) -> None:
    """GitHub forgives a missing blank line before a list, Markdown does not."""
    for path in site.rglob("index.html"):
        html = re.sub(r"<pre>.*?</pre>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for paragraph in re.findall(r"<p>(.*?)</p>", html, re.DOTALL):
            assert not re.search(r"\n\s*([-*] |\d+\. |\| )|```", paragraph), (path, paragraph)


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ +(.+?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_link_of_the_sources_leads_somewhere_on_the_forge_too() -> None:
    for page in [ROOT / "README.md", *DOCS.glob("*.md")]:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            parts = urlsplit(link)
            if parts.scheme:
                continue
            found = page.parent / parts.path if parts.path else page
            assert found.exists(), f"{page.name} -> {link}"
            if parts.fragment and found.suffix == ".md":
                assert parts.fragment in anchors(found), f"{page.name} -> {link}"


def test_the_readme_names_every_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\]\(docs/([\w-]+\.md)[)#]", readme))
    assert named >= {path.name for path in DOCS.glob("*.md")} - {"index.md"}


def test_every_file_that_a_page_names_is_there() -> None:
    rooms = "tests|benchmarks|jobs|sql|dags|docker|docs|embedding_store"
    path = re.compile(rf"(?<![\w/.-])((?:{rooms})/[\w./*-]*\.(?:py|sql|json|yaml|yml|md|html|css))")
    for page in [ROOT / "README.md", *DOCS.glob("*.md")]:
        for name in path.findall(page.read_text(encoding="utf-8")):
            is_result = name.startswith("benchmarks/results/")  # what somebody's run will write
            assert is_result or list(ROOT.glob(name)), f"{page.name} names {name}"
