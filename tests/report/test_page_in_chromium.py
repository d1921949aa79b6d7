from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from jobs.datasets import REPORT
from tests.conftest import DAY
from tests.report import tiny_night

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def wide_parts(page: Path, width: int, tmp_path: Path) -> str:
    """What of the page reaches beyond a window of `width` pixels, and how wide the page gets."""
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<iframe id=f style='width:{width}px;height:900px;border:0' "
        f"srcdoc='{html.escape(page.read_text(encoding='utf-8'), quote=True)}'></iframe>"
        "<p id=out></p><script>f.onload = () => {"
        " const inside = f.contentDocument, wide = [];"
        " for (const e of inside.querySelectorAll('main *, header *, footer *'))"
        "  if (e.getBoundingClientRect().right > f.clientWidth + 1 && !e.closest('svg'))"
        "   wide.push(e.tagName + ': ' + e.textContent.trim().slice(0, 60));"
        " out.textContent = 'widest ' + inside.documentElement.scrollWidth + ' ' + wide.join('; ')"
        "}</script>",
        encoding="utf-8",
    )
    dom, _ = opened(frame, tmp_path / "profile")
    found = re.search(r'<p id="out">([^<]*)</p>', dom)
    assert found is not None
    return found[1]


def opened(page: Path, profile: Path) -> tuple[str, list[str]]:
    """The page as Chromium has it after loading without a network, and what its console said."""
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr",
        "--virtual-time-budget=2000",
        f"--user-data-dir={profile}",
        "--dump-dom",
    ]
    done = subprocess.run(
        [CHROMIUM, *flags, page.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_a_broken_page_is_noticed(tmp_path):
    page = tmp_path / "broken.html"
    page.write_text("<p>seen<script>nothing.is.defined()</script>")
    dom, console = opened(page, tmp_path / "profile")
    assert "seen" in dom
    assert len(console) == 1


def test_the_report_opens_without_a_network_and_the_console_stays_silent(home, tmp_path):
    _, version = tiny_night.prepare(home, DAY, title=lambda n: f"{tiny_night.EVIL} {n}")
    tiny_night.scored_and_reported(home, DAY, version)
    dom, console = opened(home.output(REPORT, DAY), tmp_path / "profile")
    assert "Better than the strongest control" in dom
    assert "&lt;script&gt;" in dom
    assert console == []
    # From a phone to a desk nothing lies beyond the edge, whatever titles and raw rows hold.
    for width in (320, 390, 800, 1041):
        found = wide_parts(home.output(REPORT, DAY), width, tmp_path)
        assert found.strip() == f"widest {width}"
