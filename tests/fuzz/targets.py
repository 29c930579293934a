"""Every reader that is fuzzed, by name."""

from __future__ import annotations

from tests.fuzz import checkpoints, evaluations, recipes, speech
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (*recipes.TARGETS, *checkpoints.TARGETS, *evaluations.TARGETS, *speech.TARGETS)
}
