"""Equation of state: energy against volume, equilibrium volume V0 and bulk modulus B0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from siliforce.data.reference import EnergyVolume
from siliforce.errors import DataError
from siliforce.indicators.base import Metric, Result, model_name, stamp
from siliforce.indicators.singlepoints import energies_of
from siliforce.potential import Potential
from siliforce.units import EV_PER_A3_IN_GPA

SCALES = np.round(np.arange(0.97, 1.0501, 0.005), 4)
"""Linear scale of cell and positions."""
TOLERANCE = 1e-6


@dataclass(frozen=True)
class BirchMurnaghan:
    """A fitted equation of state.

    Attributes:
        volume: V0, Å³.
        bulk_modulus: B0, eV/Å³.
        derivative: B0', dimensionless.
        energy: at the minimum, eV.
        residual: root mean square of the fit, eV.
        polynomial: in V^(-2/3).
    """

    volume: float
    bulk_modulus: float
    derivative: float
    energy: float
    residual: float
    polynomial: np.polynomial.Polynomial

    def __call__(self, volumes: np.ndarray) -> np.ndarray:
        """Energies at these volumes, eV."""
        return self.polynomial(np.asarray(volumes) ** (-2 / 3))


def fit_birch_murnaghan(volumes: np.ndarray, energies: np.ndarray) -> BirchMurnaghan:
    """Third-order Birch-Murnaghan equation of state.

    It is a cubic in x = V^(-2/3), so the fit is linear and has one answer.

    Args:
        volumes: Å³, at least five.
        energies: eV.

    Raises:
        DataError: too few points, or no minimum within them.

    Reference:
        Birch, Phys. Rev. 71, 809 (1947).
    """
    volumes, energies = np.asarray(volumes, float), np.asarray(energies, float)
    if len(volumes) < 5 or not np.isfinite(energies).all():
        raise DataError(f"an equation of state needs at least 5 finite points, not {len(volumes)}")
    x = volumes ** (-2 / 3)
    poly = np.polynomial.Polynomial.fit(x, energies, 3)
    slope, curve = poly.deriv(), poly.deriv(2)
    roots = np.asarray(slope.roots())
    real = [float(r.real) for r in roots if abs(r.imag) < 1e-12]
    inside = [r for r in real if x.min() <= r <= x.max() and curve(r) > 0]
    if not inside:
        raise DataError(
            f"the energy has no minimum between {volumes.min():.2f} and {volumes.max():.2f} Å³; "
            "relax the structure first or widen the range of scales"
        )
    x0 = inside[0]
    second, third = float(curve(x0)), float(poly.deriv(3)(x0))
    # With E'(x0) = 0: B0 = V E_VV = (4/9) x^(7/2) E_xx, and B0' from d(B)/dP.
    bulk = 4 / 9 * x0**3.5 * second
    derivative = 4 + 2 / 3 * x0 * third / second
    residual = float(np.sqrt(np.mean((poly(x) - energies) ** 2)))
    return BirchMurnaghan(x0**-1.5, bulk, derivative, float(poly(x0)), residual, poly)


def equation_of_state(
    source: Potential | Calculator,
    atoms: Atoms,
    scales: Sequence[float] | np.ndarray = SCALES,
    reference: np.ndarray | None = None,
    name: str = "",
) -> Result:
    """Scale cell and atoms isotropically, without relaxation, and fit E(V).

    Args:
        source: a potential (all volumes in one batch) or any ASE calculator.
        atoms: periodic in three directions; scale 1.
        scales: of lengths.
        reference: points of DFT, (n, 3): scale, volume (Å³), energy (eV), of the same structure.
            Model and reference are then both fitted on the scales that both have.
        name: of the structure; its formula if empty.

    Raises:
        DataError: not periodic, unknown elements, or a reference that shares too few scales.
    """
    images = _images(atoms, np.asarray(scales, float))
    return _result(source, images, scales, energies_of(source, images), reference, name)


def equations_of_state(
    source: Potential | Calculator,
    scans: Sequence[EnergyVolume],
    noise: float | None = None,
) -> list[Result]:
    """Every structure of a reference, all volumes of all of them in one batch.

    The scales are those of `SCALES` that a structure's reference has too, or all that it has
    where that leaves fewer than five.

    Args:
        source: a potential or any ASE calculator.
        scans: of a reference.
        noise: of its bulk modulus, %: errors below it are ties.

    Raises:
        DataError: no structures, or as `equation_of_state`.
    """
    if not scans:
        raise DataError("there are no equations of state; does the reference hold any?")
    windows = [_window(scan.points[:, 0]) for scan in scans]
    sets = [_images(s.atoms, w) for s, w in zip(scans, windows, strict=True)]
    energies = energies_of(source, [image for images in sets for image in images])
    results, start = [], 0
    for scan, scales, images in zip(scans, windows, sets, strict=True):
        own = energies[start : start + len(images)]
        start += len(images)
        result = _result(source, images, scales, own, scan.points, scan.name)
        result.split = scan.split
        _add_tie(result, noise)
        results.append(result)
    return results


def _window(available: np.ndarray) -> np.ndarray:
    near = np.abs(available[:, None] - SCALES).min(axis=1) < TOLERANCE
    return available[near] if near.sum() >= 5 else available


def _add_tie(result: Result, noise: float | None) -> None:
    """Say where a difference of B0 is no more than the noise of the reference."""
    error = result.metric("B0_error")
    if noise is None or error is None or error.value is None:
        return
    result.provenance["B0_noise"] = noise
    tie = abs(error.value) <= noise
    result.provenance["B0_tie"] = tie
    if tie:
        error.note = f"within the noise of the reference ({noise:g} %)"


def _images(atoms: Atoms, scales: np.ndarray) -> list[Atoms]:
    if not atoms.pbc.all():
        raise DataError(
            f"an equation of state needs three periodic directions, not {atoms.pbc.tolist()}"
        )
    return [_scaled(atoms, scale) for scale in scales]


def _result(
    source: Potential | Calculator,
    images: list[Atoms],
    scales: Sequence[float] | np.ndarray,
    energies: np.ndarray,
    reference: np.ndarray | None,
    name: str,
) -> Result:
    volumes = np.array([image.get_volume() for image in images])
    atoms, scales = images[0], np.asarray(scales, float)
    hardware, provenance = stamp(source)
    name = name or atoms.get_chemical_formula()
    result = Result(
        indicator="eos",
        model=model_name(source),
        dataset=name,
        split=name,
        hardware=hardware,
        provenance=provenance | {"n_atoms": len(atoms), "fit": "Birch-Murnaghan, third order"},
        curves={
            "scale": scales.tolist(),
            "volume": volumes.tolist(),
            "energy": energies.tolist(),
            "n_atoms": len(atoms),
        },
    )
    shared = np.ones(len(scales), dtype=bool)
    if reference is not None:
        shared = _add_reference(result, np.asarray(reference, float), scales)
    _add_fit(result, volumes[shared], energies[shared], len(atoms))
    _add_range_note(result, source, images)
    return result


def read_reference(path: str | Path) -> np.ndarray:
    """DFT points from a text file, (n, 3): scale, volume (Å³), energy (eV).

    Raises:
        DataError: not such a file.
    """
    try:
        points = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no columns of numbers ({error})") from error
    if points.shape[1] != 3:
        raise DataError(
            f"{path}: {points.shape[1]} columns; three are needed: scale, volume (Å³), energy (eV)"
        )
    return points


def _scaled(atoms: Atoms, scale: float) -> Atoms:
    image = atoms.copy()
    image.calc = None
    image.set_cell(atoms.cell * scale, scale_atoms=True)
    return image


def _add_reference(result: Result, reference: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Fit the reference on the common scales; returns which of the model's scales those are."""
    if reference.ndim != 2 or reference.shape[1] != 3:
        raise DataError(f"reference points are scale, volume, energy; got {reference.shape}")
    result.curves["reference"] = {
        "scale": reference[:, 0].tolist(),
        "volume": reference[:, 1].tolist(),
        "energy": reference[:, 2].tolist(),
    }
    common = np.abs(reference[:, 0][:, None] - scales).min(axis=1) < TOLERANCE
    shared = np.abs(scales[:, None] - reference[:, 0]).min(axis=1) < TOLERANCE
    if common.sum() < 5:
        raise DataError(
            f"the reference has {common.sum()} of the scales asked for; five are needed. It holds "
            f"{', '.join(f'{s:g}' for s in reference[:, 0])}"
        )
    try:
        fit = fit_birch_murnaghan(reference[common, 1], reference[common, 2])
        bulk = fit.bulk_modulus * EV_PER_A3_IN_GPA
        result.curves["reference_fit"] = {"V0": fit.volume, "B0": bulk}
    except DataError as problem:
        result.provenance["reference_fit"] = str(problem)
    result.provenance["window"] = [float(scales[shared].min()), float(scales[shared].max())]
    return shared


def _add_fit(result: Result, volumes: np.ndarray, energies: np.ndarray, n_atoms: int) -> None:
    try:
        fit = fit_birch_murnaghan(volumes, energies)
    except DataError as error:
        result.failure = str(error)
        result.metrics = [
            Metric(name=name, value=None, unit=unit, note=str(error))
            for name, unit in (("V0", "Å³"), ("B0", "GPa"))
        ]
        return
    bulk = fit.bulk_modulus * EV_PER_A3_IN_GPA
    result.metrics = [
        Metric(name="V0", value=fit.volume, unit="Å³"),
        Metric(name="V0_per_atom", value=fit.volume / n_atoms, unit="Å³/atom"),
        Metric(name="B0", value=bulk, unit="GPa"),
        Metric(name="B0_derivative", value=fit.derivative, unit="1"),
        Metric(name="fit_residual", value=1e3 * fit.residual / n_atoms, unit="meV/atom"),
    ]
    dense = np.linspace(volumes.min(), volumes.max(), 60)
    result.curves["fit"] = {"volume": dense.tolist(), "energy": fit(dense).tolist()}
    truth: dict[str, Any] = result.curves.get("reference_fit", {})
    for name, value in (("V0", fit.volume), ("B0", bulk)):
        if name in truth:
            percent = 100 * (value / truth[name] - 1)
            result.metrics.append(Metric(name=f"{name}_error", value=percent, unit="%"))


def _add_range_note(result: Result, source: Any, images: list[Atoms]) -> None:
    """Say which scales leave the range of the training data."""
    members = getattr(source, "potentials", None)
    potential = source if isinstance(source, Potential) else (members or [None])[0]
    if potential is None or potential.card.atoms_per_volume is None:
        return
    outside = []
    low, high = potential.card.atoms_per_volume
    for scale, image in zip(result.curves["scale"], images, strict=True):
        if not low <= len(image) / image.get_volume() <= high:
            outside.append(scale)
    result.provenance["scales_outside_training_density"] = outside
