"""Many processes publish at once, each key sent by two of them; 32 x 25 x 20 in benchmarks/."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "store_publishers.py"


def test_every_key_gets_one_version_in_one_chain_however_many_publish_at_once(tmp_path):
    out = tmp_path / "result.json"
    size = ["--processes", "12", "--keys", "4", "--rounds", "2"]
    subprocess.run(
        [sys.executable, str(SCRIPT), *size, "--folder", str(tmp_path), "--out", str(out)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    result = json.loads(out.read_text(encoding="utf-8"))
    assert (result["rounds"], result["violations"]) == (2, 0)
    assert result["versions_of_a_round"] == 48
