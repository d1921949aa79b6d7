"""A gate that refuses: the version is there by its number, and production stays where it was."""

from __future__ import annotations

from datetime import timedelta

from drill.faults import Kind, Seen, Setting
from drill.invariants import (
    differences,
    half_visible,
    outputs,
    production,
    store_problems,
    versions_of,
)
from drill.world import SECOND, run_checked
from jobs.launch import MODULES

# A bound that no healthy night meets, and the gate that it makes refuse.
BOUNDS: dict[str, dict[str, object]] = {
    "auc": {"min_auc": 0.99},
    "auc_change": {"max_auc_loss": -0.9},
    "recall": {"min_recall": 1.5},
    "coverage": {"min_coverage": 1.5},
    "norms": {"max_norm_ratio": 0.5},
    "collapse": {"max_mean_cosine": -1.5},
    "zero": {"max_zero_share": -1.0},
}


def strike(gate: str, setting: Setting) -> Seen:
    """Publish under a bound that refuses; then under the usual ones."""
    seen = Seen(end=f"publish under {BOUNDS[gate]}")
    world, nursery = setting.world, setting.nursery
    with setting.home(world.before("publish")) as home:
        with setting.reader(home, seen):
            refused = nursery.run(
                MODULES["publish"], world.words("publish", **BOUNDS[gate]), home.root
            )
            seen.ended_well("the publish that is refused", refused)
            said = refused.answer
            seen.expect(said.get("promoted") is False, f"publish said {said}")
            seen.expect(gate in str(said.get("why")), f"publish did not name {gate}: {said}")
            seen.expect(production(home) == 1, f"production is {production(home)}")
            seen.problems += store_problems(home)
        tomorrow = ["--day", str(SECOND + timedelta(days=1))]
        next_night = nursery.run(MODULES["previous"], tomorrow, home.root)
        seen.expect(
            next_night.answer.get("version") == 1, "the next night goes on from the refused"
        )
        again = run_checked(nursery, "publish", world.words("publish"), home)
        seen.ended_well("publish under the usual bounds", again)
        found, wanted = outputs(home, "publish", SECOND), outputs(world.done, "publish", SECOND)
        seen.problems += differences(found, wanted, aside={"publications"})  # it holds the number
        seen.recovered_by = "publish again under the usual bounds"
        seen.expect(production(home) == 3, f"production is {production(home)} after the retry")
        seen.expect(versions_of(home) == [1, 2, 3], f"versions {versions_of(home)}")
        seen.problems += half_visible(home) + store_problems(home, nursery)
    return seen


GATE_REFUSES = Kind(
    name="gate-refuses",
    expected="published by number, not promoted, and it says which gate; production stays",
    recovery="mend what the gate found and run the day again, or "
    "`embedding-store promote N production --despite-gates`",
    times=dict.fromkeys(BOUNDS, 1),
    strike=strike,
)
