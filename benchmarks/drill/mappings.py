"""A bad mapping: the night stops before it takes anything in, and says which line is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

from drill.faults import Kind, Seen, Setting
from drill.invariants import half_visible
from drill.world import run_checked
from jobs.files import sha256_file
from jobs.home import Home
from jobs.prepare.sources import mapping as mapping_module

GOOD = Path(mapping_module.__file__).parent / "mappings" / "sample.yaml"
NAME = "tidemark.yaml"

# What is replaced in the good mapping, by what, and what the one line must say besides the file.
MISTAKES: dict[str, tuple[str, str, str]] = {
    "misspelt key": ("item_noun:", "item_nown:", "item_nown"),
    "unknown column": ("rating: rating", "rating: stars", "stars"),
    "no such files": ("ratings/{day}.csv", "rating/{day}.csv", "rating/{day}.csv"),
    "no YAML": ("domain: sample", "domain: [sample", "line"),
    "wrong type": ("form: iso", "form: isoo", "isoo"),
    "wrong scale": ("minimum: 1", "minimum: 9", "minimum"),
    "another domain": ("domain: sample", "domain: shop", "shop"),
    "missing part": ("feedback:", "feedbak:", "feedback"),
}


def tree(home: Home) -> dict[str, str]:
    """Every file of tables, reports and the store."""
    rooms = (home.root / name for name in ("tables", "reports", "store"))
    files = (path for room in rooms for path in sorted(room.rglob("*")) if path.is_file())
    return {str(path.relative_to(home.root)): sha256_file(path) for path in files}


def strike(mistake: str, setting: Setting) -> Seen:
    """Ingest by a bad mapping, then by the good one."""
    old, new, word = MISTAKES[mistake]
    seen = Seen(end=f"`{new}` for `{old}`", recovered_by="mend the line, then a retry")
    with setting.home(setting.world.before("ingest")) as home:
        source = home.root.with_name(f"{home.root.name}.raw")
        shutil.rmtree(source, ignore_errors=True)
        shutil.copytree(setting.world.source, source)
        good = GOOD.read_text(encoding="utf-8")
        (source / NAME).write_text(good.replace(old, new, 1), encoding="utf-8")
        before = tree(home)
        words = setting.world.words("ingest", source=source)
        refused = run_checked(setting.nursery, "ingest", words, home)
        seen.refused_in_words("ingest", refused, word)
        left = {name for name in tree(home) if not name.endswith("/lock")} ^ {
            name for name in before if not name.endswith("/lock")
        }
        seen.expect(not left, f"the refused night left {sorted(left)[:3]}")
        seen.problems += half_visible(home)
        (source / NAME).write_text(good, encoding="utf-8")
        again = run_checked(setting.nursery, "ingest", words, home)
        if seen.ended_well("ingest by the good mapping", again):
            setting.as_undisturbed("ingest", home, seen)
        shutil.rmtree(source)
    return seen


BAD_MAPPING = Kind(
    name="bad-mapping",
    expected="one line names file, line and key; nothing was taken in",
    recovery="mend the line (`tidemark check` reads the mapping without running), then a retry",
    times=dict.fromkeys(MISTAKES, 1),
    strike=strike,
)
