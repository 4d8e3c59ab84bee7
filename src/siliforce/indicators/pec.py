"""Potential energy curves of dimers and small clusters against DFT.

The DFT curves are not size-consistent (at its largest distance a dimer lies off the energy of its
separated atoms, by 1.1 eV for HfO in SAMD23), so no potential with a finite cutoff can match all of
them: errors are given relative to each curve's last point, and absolute, with that floor beside.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from siliforce.data.reference import EnergyCurve
from siliforce.errors import DataError
from siliforce.indicators.base import Metric, Result, model_name, stamp
from siliforce.indicators.distributions import Protocol
from siliforce.indicators.singlepoints import energies_of
from siliforce.potential import Potential


def potential_energy_curves(
    source: Potential | Calculator,
    curves: Sequence[EnergyCurve],
    protocol: Protocol = "siliforce",
) -> list[Result]:
    """All curves of a reference, all their points in one batch.

    With `d` the difference of energies (model minus DFT) after each curve's last point has been
    subtracted from it: `pec_energy_rmse`, `pec_energy_mae` (eV); `pec_slope_rmse` is of the slopes
    by finite differences (eV per Å or degree). The same with `_attractive` is over the points
    with a DFT energy of at most 0 alone, and with `_absolute` nothing has been subtracted.
    `pec_minimum_position_error` (Å or degree) and `pec_minimum_depth_error` (eV, below the last
    point) compare the minimum of the model that is nearest to that of DFT.

    Args:
        source: a potential or any ASE calculator.
        curves: of a reference.
        protocol: `siliforce` keeps the cell of the DFT calculation and its periodic images;
            `paper` has none, and gives absolute errors and slopes only.

    Returns:
        One result per curve; an ASE calculator that cannot do some structure has a failure.

    Raises:
        DataError: no curves, or elements that the potential does not know.
    """
    if not curves:
        raise DataError("there are no potential energy curves; does the reference hold any?")
    images = [_prepared(image, protocol) for curve in curves for image in curve.images]
    energies, problem = np.full(len(images), np.nan), ""
    if isinstance(source, Potential):
        energies = energies_of(source, images)
    else:
        for index, image in enumerate(images):
            try:
                energies[index] = energies_of(source, [image])[0]
            except Exception as error:
                # Other people's calculators raise anything on two atoms in a vacuum.
                problem = f"{type(error).__name__}: {error}"
    floors = size_inconsistency(curves)
    results, start = [], 0
    for curve in curves:
        own = energies[start : start + len(curve.x)]
        start += len(curve.x)
        results.append(_result(source, curve, own, protocol, floors[curve.name], problem))
    return results


def size_inconsistency(curves: Sequence[EnergyCurve]) -> dict[str, float | None]:
    """DFT energy of each dimer of two elements at its last point, minus that of its atoms, eV.

    The energy of an atom is half that of the dimer of its element at the last point; None where
    that is not known, and for what is no dimer of two elements.
    """
    atoms = {
        str(c.images[0].symbols[0]): 0.5 * c.energy[-1]
        for c in curves
        if _is_dimer(c) and len(set(c.images[0].symbols)) == 1
    }
    found: dict[str, float | None] = {}
    for curve in curves:
        symbols = list(curve.images[0].symbols)
        known = _is_dimer(curve) and len(set(symbols)) == 2 and set(symbols) <= set(atoms)
        separated = sum(atoms[s] for s in symbols) if known else 0.0
        found[curve.name] = float(curve.energy[-1] - separated) if known else None
    return found


def _is_dimer(curve: EnergyCurve) -> bool:
    return curve.coordinate == "distance" and len(curve.images[0]) == 2


def _prepared(image: Atoms, protocol: Protocol) -> Atoms:
    image = image.copy()
    if protocol == "paper":
        image.pbc = False
    return image


def _result(
    source: Potential | Calculator,
    curve: EnergyCurve,
    energies: np.ndarray,
    protocol: Protocol,
    floor: float | None,
    problem: str,
) -> Result:
    hardware, provenance = stamp(source)
    lacking = int((~np.isfinite(energies)).sum())
    failure = f"{lacking} of {len(energies)} points have no energy: {problem}" if lacking else ""
    metrics = _errors(curve, energies, failure)
    if protocol == "paper":
        metrics = [m for m in metrics if "_absolute" in m.name or "_slope" in m.name]
    else:
        metrics += _minimum_errors(curve, energies, failure)
        if floor is not None:
            about = "of the reference: its last point less that of the separated atoms"
            metrics.append(Metric(name="pec_floor", value=abs(floor), unit="eV", note=about))
    return Result(
        indicator="pec",
        model=model_name(source),
        dataset=curve.name,
        split=curve.name,
        protocol=protocol,
        metrics=metrics,
        curves={
            "coordinate": curve.coordinate,
            "unit": curve.unit,
            "x": curve.x,
            "energy": energies,
            "reference": curve.energy,
        },
        failure=failure,
        hardware=hardware,
        provenance=provenance | {"n_atoms": len(curve.images[0]), "n_points": len(curve.x)},
    )


def _errors(curve: EnergyCurve, energies: np.ndarray, failure: str) -> list[Metric]:
    truth = curve.energy
    differences = {
        "pec_energy": (energies - energies[-1]) - (truth - truth[-1]),
        "pec_slope": np.gradient(energies, curve.x) - np.gradient(truth, curve.x),
        "pec_absolute": energies - truth,
    }
    metrics = []
    for name, values in differences.items():
        unit = f"eV/{curve.unit}" if name == "pec_slope" else "eV"
        for part, chosen in (("", truth == truth), ("_attractive", truth <= 0)):
            suffix = ("_absolute" if name == "pec_absolute" else "") + part
            stem = "pec_energy" if name == "pec_absolute" else name
            for kind, value in _sizes(values[chosen]).items():
                metrics.append(
                    Metric(
                        name=f"{stem}_{kind}{suffix}",
                        value=value,
                        unit=unit,
                        better="lower",
                        note=failure or ("" if chosen.any() else "no DFT energy is below zero"),
                    )
                )
    return metrics


def _sizes(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {"rmse": np.nan, "mae": np.nan}
    return {"rmse": float(np.sqrt(np.mean(values**2))), "mae": float(np.abs(values).mean())}


def _minimum_errors(curve: EnergyCurve, energies: np.ndarray, failure: str) -> list[Metric]:
    truth = minimum(curve.x, curve.energy)
    own = None if truth is None else minimum(curve.x, energies, near=truth[0])
    why = failure or ("DFT has no minimum within the curve" if truth is None else "no minimum")
    known = truth is not None and own is not None
    position = own[0] - truth[0] if own and truth else None
    depth = own[1] - truth[1] if own and truth else None
    return [
        Metric(name=name, value=value, unit=unit, note="" if known else why)
        for name, value, unit in (
            ("pec_minimum_position_error", position, curve.unit),
            ("pec_minimum_depth_error", depth, "eV"),
        )
    ]


def minimum(
    x: np.ndarray, energies: np.ndarray, near: float | None = None
) -> tuple[float, float] | None:
    """Position of a local minimum, and its energy relative to the last point, eV.

    From the parabola through a point that lies below its neighbours and these; the deepest such
    minimum, or the one nearest to `near`; None without any.
    """
    inside = np.arange(1, len(x) - 1)
    low = (energies[inside] <= energies[inside - 1]) & (energies[inside] < energies[inside + 1])
    found = []
    for i in inside[low]:
        around = slice(i - 1, i + 2)
        parabola = np.polyfit(x[around] - x[i], energies[around] - energies[-1], 2)
        shift = -parabola[1] / (2 * parabola[0])
        found.append((float(x[i] + shift), float(np.polyval(parabola, shift))))
    if not found:
        return None
    return min(found, key=lambda m: m[1] if near is None else abs(m[0] - near))
