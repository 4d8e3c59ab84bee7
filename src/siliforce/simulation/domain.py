"""Where a potential may be used: what its card says of the data, held against a structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from siliforce.graph import Graph
from siliforce.potential import Card

DENSITY_MARGIN = 0.10
"""A density this much (relative) beyond the training range counts as far outside."""
DISTANCE_MARGIN = 0.10
"""A pair this much (relative) closer than any in the training data counts as far outside."""

SPREAD_FACTOR = 10.0
"""An ensemble whose spread of the force on some atom exceeds so many times the mean absolute
force error on validation does not know what it is doing."""
SPREAD_UNKNOWN = 1.0
"""The limit where no error is stated, eV/Å."""


class OutsideRangeWarning(UserWarning):
    """The potential is used on something that its training data do not cover."""


def pair_name(first: int, second: int) -> str:
    """Name of a pair of elements, `Si-Si`, the lighter one first."""
    low, high = sorted((int(first), int(second)))
    return f"{chemical_symbols[low]}-{chemical_symbols[high]}"


def closest_pairs(graph: Graph) -> dict[str, float]:
    """Shortest distance of every pair of elements within the graph, Å."""
    lengths = graph.edge_lengths.double().cpu().numpy()
    ends = np.stack([graph.numbers[graph.center].cpu(), graph.numbers[graph.neighbor].cpu()])
    low, high = ends.min(axis=0), ends.max(axis=0)
    keys = low * 1000 + high
    found = {}
    for key in np.unique(keys):
        found[pair_name(key // 1000, key % 1000)] = float(lengths[keys == key].min())
    return found


def outside_range(card: Card, atoms: Atoms, graph: Graph) -> list[str]:
    """Reasons why a structure lies far outside the data of a potential; empty if it does not.

    Args:
        card: of the potential; what it does not state is not checked.
        atoms: the structure.
        graph: its pairs, within the cutoff or more.
    """
    reasons = []
    if card.atoms_per_volume and atoms.pbc.all():
        low, high = card.atoms_per_volume
        density = len(atoms) / atoms.get_volume()
        if not low * (1 - DENSITY_MARGIN) <= density <= high * (1 + DENSITY_MARGIN):
            reasons.append(
                f"{density:.4f} atoms/Å³, the training data span {low:.4f} to {high:.4f}"
            )
    if card.min_distance:
        for pair, distance in closest_pairs(graph).items():
            reverse = "-".join(reversed(pair.split("-")))
            known = card.min_distance.get(pair, card.min_distance.get(reverse))
            if known is None:
                reasons.append(f"the training data hold no {pair} pair")
            elif distance < known * (1 - DISTANCE_MARGIN):
                reasons.append(
                    f"{pair} at {distance:.2f} Å, the training data begin at {known:.2f} Å"
                )
    return reasons


def temperature_outside(card: Card, temperature: float) -> str | None:
    """Why a temperature (K) lies above the training data's range, or None.

    Colder than the data is no reason: the structures then lie inside what was trained on.
    """
    if card.temperature is None or temperature <= card.temperature[1]:
        return None
    return f"{temperature:.0f} K, the training data reach {card.temperature[1]:.0f} K"


def spread_limit(card: Card) -> float:
    """From where on an ensemble's spread (largest over the atoms) is alarming, eV/Å."""
    error = card.errors.get("valid_forces_mae_mev")
    return SPREAD_FACTOR * 1e-3 * float(error) if error else SPREAD_UNKNOWN


def alarm_text(
    limit: float, runs: Sequence[int], columns: Mapping[str, Sequence[float] | np.ndarray]
) -> str:
    """What lies outside of the training data at a logged step, in words; empty if nothing does.

    Args:
        limit: of the spread, eV/Å.
        runs: their numbers.
        columns: of the log by name, one value per run; `spread` and `novelty` are looked at.
    """
    reasons = []
    spread = np.asarray(columns.get("spread", [0.0]))
    if spread.max(initial=0.0) > limit:
        worst = int(spread.argmax())
        reasons.append(
            f"run {runs[worst]}: the members disagree by {spread[worst]:.2f} eV/Å on a force"
        )
    novelty = np.asarray(columns.get("novelty", [0.0]))
    if novelty.max(initial=0.0) > 1:
        worst = int(novelty.argmax())
        reasons.append(
            f"run {runs[worst]}: an environment {novelty[worst]:.1f} times as far from the "
            "training set's mean as any in it"
        )
    return "; ".join(reasons)
