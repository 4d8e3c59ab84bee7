"""Three plain sentences: what a potential may be used for, what not, and what to label next.

Everything that is said follows by the rules below from the data and the results of a run; what
was not measured is not claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

from siliforce.indicators.base import Result
from siliforce.report.load import Run
from siliforce.report.numbers import listed, shown, spread

GOOD = (12.0, 5.0)
"""Force error in % of the typical force, and energy error in meV/atom: fit for production."""
FAIR = (30.0, 15.0)
"""Fit for exploring; beyond it, fit for trying out the workflow only."""
UNEVEN = 1.3
"""A category whose relative force error exceeds the average by this factor asks for more data."""
MIN_ATOMS, MIN_FRAMES = 20, 3
"""With fewer test atoms or frames than these nothing is said about an element or a category."""
WIDE_GAP = 1.5
"""An OOD set whose force error exceeds the test set's by this factor is out of reach."""
UNDERFITTED = 1.15
"""Test error over training error below which more data cannot help much."""
STILL_FALLING = 0.05
"""Fall of the validation error over the last fifth of the training that asks for more training."""
BAD_BULK_MODULUS = 10.0
"""Error in % beyond which elastic properties are not to be trusted."""


@dataclass(frozen=True)
class Verdict:
    """The three sentences about one run, and how good it is: `good`, `fair`, `poor`, `unknown`."""

    name: str
    grade: str
    use: str
    avoid: str
    label: str


def judge(run: Run) -> Verdict:
    """The verdict on one run."""
    grade = grade_of(run)
    return Verdict(run.name, grade, _use(run, grade), _avoid(run), _label_next(run))


def grade_of(run: Run) -> str:
    """By the errors on held-out frames: both of a grade's limits must be kept."""
    result = run.held_out
    if result is None:
        return "unknown"
    energy = result.value("energy_rmse_shifted")
    forces = result.value("forces_relative")
    if forces is None and energy is None:
        return "unknown"
    for grade, (most_forces, most_energy) in (("good", GOOD), ("fair", FAIR)):
        if (forces or 0.0) <= most_forces and (energy or 0.0) <= most_energy:
            return grade
    return "poor"


def compare(runs: Sequence[Run]) -> str:
    """Which of several models is best on the same frames, if the sample can tell."""
    scored = [(run, r) for run in runs if (r := run.held_out) and r.metric("forces_rmse")]
    scored = [(run, r) for run, r in scored if r.value("forces_rmse") is not None]
    if len(scored) < 2:
        return ""
    if len({(r.dataset, r.split) for _, r in scored}) > 1:
        return "The models were tested on different frames, so their errors cannot be compared."
    scored.sort(key=lambda pair: pair[1].value("forces_rmse") or 0.0)
    (first, best), (second, other) = scored[:2]
    one, two = best.metric("forces_rmse"), other.metric("forces_rmse")
    assert one is not None
    assert two is not None
    numbers = f"force RMSE {shown(one.value)} against {shown(two.value)} {one.unit}"
    if one.high is not None and two.low is not None and one.high >= two.low:
        return (
            f"{first.name} and {second.name} cannot be told apart on these frames ({numbers}, "
            "within the sampling noise)."
        )
    certain = "" if one.high is not None else "; the frames are too few for an interval"
    return (
        f"{first.name} is more accurate than {second.name} on the same frames ({numbers}{certain})."
    )


# -- what it may be used for --------------------------------------------------------------------


def _use(run: Run, grade: str) -> str:
    if grade == "unknown":
        return (
            f"Nothing can be recommended for {run.name} yet: its errors on frames that it was not "
            f"trained on have not been measured (siliforce evaluate {run.path})."
        )
    purpose = {
        "good": "may be used for energies, forces and molecular dynamics",
        "fair": "may be used to explore and to choose frames for labelling, its results to be "
        "confirmed by DFT",
        "poor": "should not be used for anything but trying out the workflow",
    }[grade]
    return f"{_where(run)}{run.name} {purpose}: {_accuracy(run)}{_dynamics_held(run)}."


def _where(run: Run) -> str:
    """The range of the data, as far as the card states it."""
    card = run.card
    if card is None:
        return ""
    parts = []
    if card.elements:
        parts.append(f"of {listed(card.elements)}")
    ranges = []
    if card.atoms_per_volume:
        low, high = card.atoms_per_volume
        ranges.append(f"at {spread(1 / high, 1 / low)} Å³ per atom")
    if card.temperature:
        ranges.append(f"up to {shown(round(card.temperature[1]))} K")
    if ranges:
        parts.append(" and ".join(ranges))
    return f"On structures {' '.join(parts)}, like those in its training data, " if parts else ""


def _accuracy(run: Run) -> str:
    result = run.held_out
    assert result is not None
    found = []
    forces, relative = result.value("forces_rmse"), result.value("forces_relative")
    if forces is not None:
        share = f" ({shown(relative, 2)} % of the typical force)" if relative is not None else ""
        found.append(f"{shown(forces)} meV/Å in the forces{share}")
    energy = result.value("energy_rmse")
    if energy is not None:
        found.append(f"{shown(energy)} meV/atom in the energy")
    frames = result.provenance.get("n_frames", 0)
    kind = "test" if result.split == "test" else "validation"
    return f"it errs by {listed(found)} (RMSE on {frames} {kind} frames)"


def _dynamics_held(run: Run) -> str:
    runs = run.of("dynamics")
    held = [r for r in runs if not r.failure and not r.provenance.get("frames_outside")]
    if not held or len(held) < len(runs):
        return ""
    longest = max(held, key=lambda r: r.value("survived") or 0.0)
    at = longest.provenance.get("config", {}).get("temperature")
    time = shown(longest.value("survived"), 2)
    return f"; {time} ps of dynamics at {shown(at)} K ran to the end"


# -- what not -----------------------------------------------------------------------------------


def _avoid(run: Run) -> str:
    reasons = [*_failed(run), *_beyond(run), *_untested(run), *_stress(run)]
    return f"Do not use {run.name} for {'; nor for '.join(reasons)}."


def _failed(run: Run) -> list[str]:
    found = []
    for result in run.of("dynamics"):
        if result.failure:
            found.append(f"dynamics of {result.dataset} ({result.failure})")
        elif result.provenance.get("frames_outside"):
            why = "; ".join(result.provenance.get("outside_training_data", []))
            found.append(f"dynamics of {result.dataset} (it left the range of the data: {why})")
    for result in run.of("eos"):
        wrong = result.value("B0_error")
        if wrong is not None and abs(wrong) > BAD_BULK_MODULUS:
            found.append(
                f"elastic properties of {result.dataset} (its bulk modulus is off by "
                f"{shown(wrong, 2)} %)"
            )
    inside = run.errors("test")
    for result in run.ood:
        ratio = _ratio(result, inside)
        if ratio is not None and ratio > WIDE_GAP:
            name = result.split.removeprefix("ood").lstrip(":") or "the OOD set"
            found.append(f"structures like {name} (force error {shown(ratio, 2)} times larger)")
    return found


def _ratio(outside: Result, inside: Result | None) -> float | None:
    one = outside.value("forces_rmse")
    other = inside.value("forces_rmse") if inside else None
    return one / other if one is not None and other else None


def _beyond(run: Run) -> list[str]:
    """Elements, pairs, densities and temperatures outside the data."""
    card = run.card
    if card is None:
        return ["anything beyond its training data, whose range is not recorded"]
    found = [f"elements other than {listed(card.elements)}"] if card.elements else []
    unseen = unseen_pairs(card.elements, card.min_distance)
    if unseen:
        found.append(
            f"{listed(unseen, 4)} as neighbours, pairs that the data do not hold"
            if len(unseen) > 1
            else f"{unseen[0]} as neighbours, a pair that the data do not hold"
        )
    limits = []
    if card.atoms_per_volume:
        low, high = card.atoms_per_volume
        limits.append(f"volumes outside {spread(1 / high, 1 / low)} Å³ per atom")
    if card.temperature:
        limits.append(f"temperatures above {shown(round(card.temperature[1]))} K")
    if limits:
        found.append(listed(limits))
    found.append("phases and defects that its data do not hold")
    return found


def _untested(run: Run) -> list[str]:
    few = scarce_elements(run)
    if not few:
        return []
    counts = listed([f"{element} {n}" for element, n in few.items()])
    return [f"conclusions about elements of which the test frames hold too few atoms ({counts})"]


def scarce_elements(run: Run) -> dict[str, int]:
    """Elements of which the held-out frames hold hardly any atom, and how many they hold."""
    result = run.held_out
    if result is None or run.card is None:
        return {}
    atoms = {row["label"]: row["n_atoms"] for row in result.tables.get("by_element", [])}
    return {e: atoms.get(e, 0) for e in run.card.elements if atoms.get(e, 0) < MIN_ATOMS}


def unseen_pairs(elements: Sequence[str], min_distance: dict[str, float]) -> list[str]:
    """Pairs of known elements that are never neighbours in the data; empty if none is stated."""
    if not min_distance:
        return []
    seen = {frozenset(pair.split("-")) for pair in min_distance}
    pairs = combinations_with_replacement(elements, 2)
    return [f"{a}-{b}" for a, b in pairs if frozenset((a, b)) not in seen]


def _stress(run: Run) -> list[str]:
    if run.direct:
        return [
            "long runs at constant energy, since its forces are predicted and conserve none",
            "pressures, elastic constants or relaxing cells, since it predicts no stress",
        ]
    result = run.held_out
    if result is not None and result.value("stress_rmse") is None:
        return ["pressures and elastic constants without a check, since its stress was not tested"]
    return []


# -- what to label next -------------------------------------------------------------------------

NAMES = {
    "by_formula": "frames of composition {}",
    "by_config_type": "frames of type {}",
    "by_temperature": "frames at {} K",
    "by_element": "environments of {}",
}


def _label_next(run: Run) -> str:
    result = run.held_out
    if result is None:
        return "Before labelling more, measure the errors on held-out frames."
    underfitted = _underfitted(run, result)
    if underfitted:
        return underfitted
    outside = [(r, ratio) for r in run.ood if (ratio := _ratio(r, run.errors("test")))]
    far = max(outside, key=lambda pair: pair[1], default=None)
    if far is not None and far[1] > WIDE_GAP:
        name = far[0].split.removeprefix("ood").lstrip(":") or "the OOD set"
        return f"Label frames of {name} next: the error there is {shown(far[1], 2)} times larger."
    failed = next((r for r in run.of("dynamics") if r.failure), None)
    if failed is not None:
        return f"Label frames from the end of the dynamics of {failed.dataset} that failed."
    worst = worst_category(result)
    advice = _more_training(run)
    if worst is not None:
        what, row, ratio = worst
        sample = row.get("n_frames")
        seen = f" ({sample} test frames)" if sample is not None else ""
        return (
            f"Label more {what} next: relative to the typical force, the error there is "
            f"{shown(ratio, 2)} times the average{seen}.{advice}"
        )
    few = listed(list(scarce_elements(run)))
    if few:
        return (
            f"Label more frames with {few} next: too few of these atoms are in the test frames to "
            f"know their errors.{advice}"
        )
    return (
        "No category stands out, so label where the potential is to be used next: other densities, "
        f"higher temperatures, or structures that the data lack.{advice}"
    )


def _underfitted(run: Run, held_out: Result) -> str:
    """Advice for a model that is not even good on its training frames."""
    train = run.errors("train")
    ratio = _ratio(held_out, train)
    if train is None or ratio is None or ratio > UNDERFITTED or grade_of(run) == "good":
        return ""
    return (
        "Train longer, or a larger model, before labelling more: the force error on the training "
        f"frames ({shown(train.value('forces_rmse'))} meV/Å) is nearly that on new frames."
    )


def worst_category(result: Result) -> tuple[str, dict[str, Any], float] | None:
    """The category whose relative force error stands out most, or None if errors are even.

    Errors are compared relative to the typical force, else the hottest frames always stand out.
    """
    average = result.value("forces_relative")
    if not average:
        return None
    found = []
    for table, phrase in NAMES.items():
        rows = [r for r in result.tables.get(table, []) if r["label"] and r.get("forces_relative")]
        if len(rows) > 1:
            sampled = [
                r
                for r in rows
                if r["n_atoms"] >= MIN_ATOMS and r.get("n_frames", MIN_FRAMES) >= MIN_FRAMES
            ]
            found += [
                (phrase.format(r["label"]), r, r["forces_relative"] / average) for r in sampled
            ]
    worst = max(found, key=lambda entry: entry[2], default=None)
    return worst if worst is not None and worst[2] > UNEVEN else None


def _more_training(run: Run) -> str:
    """Whether the validation error was still falling when training ended."""
    fall = falling(run)
    if fall is None or fall < STILL_FALLING:
        return ""
    return (
        f" Training longer may help as much: the validation error fell by {shown(100 * fall, 2)} % "
        "over its last fifth."
    )


def falling(run: Run) -> float | None:
    """Relative fall of the best validation error of forces over the last fifth of training."""
    errors = [r.get("valid_forces_mae_mev") for r in run.progress]
    known = [e for e in errors if e is not None]
    if len(known) < 10:
        return None
    before = min(known[: -(len(known) // 5)])
    return max(0.0, 1 - min(known) / before) if before > 0 else None
