"""Potential energy curves: known errors, minima, the floor of the reference, isolated atoms."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from scipy.optimize import minimize_scalar

from siliforce.data.reference import EnergyCurve, EnergyVolume
from siliforce.errors import DataError
from siliforce.indicators.eos import (
    SCALES,
    _window,
    equation_of_state,
    equations_of_state,
    fit_birch_murnaghan,
)
from siliforce.indicators.pec import minimum, potential_energy_curves, size_inconsistency
from siliforce.simulation.calculator import SiliforceCalculator
from siliforce.units import EV_PER_A3_IN_GPA
from tests.toys import toy_potential
from tests.unit.indicators.test_distributions import samd23_references

X = np.arange(1.6, 8.01, 0.1)


def dimer(distance: float, symbols: str = "Cu2", pbc: bool = False) -> Atoms:
    return Atoms(symbols, [[0, 0, 0], [distance, 0, 0]], cell=[20, 15, 15], pbc=pbc)


def curve_of(calculator: Calculator, name: str = "CuCu", offset: float = 0.0) -> EnergyCurve:
    images = [dimer(x) for x in X]
    energies = []
    for image in images:
        asked = image.copy()
        asked.calc = calculator
        energies.append(asked.get_potential_energy())
    return EnergyCurve(name, "distance", X, np.array(energies) + offset, images)


def energy_at(calculator: Calculator, distance: float) -> float:
    return calculator.get_potential_energy(dimer(distance))


def test_the_same_potential_has_no_error_but_the_offset() -> None:
    """Batched answers against the calculator's, one by one."""
    curve = curve_of(SiliforceCalculator(toy_potential()), offset=0.25)
    (result,) = potential_energy_curves(toy_potential(), [curve])
    assert result.failure == ""
    for name in ("energy_rmse", "energy_mae", "slope_rmse", "energy_rmse_attractive"):
        assert result.value(f"pec_{name}") == pytest.approx(0, abs=1e-6)
    for name in ("energy_rmse_absolute", "energy_mae_absolute", "energy_mae_absolute_attractive"):
        assert result.value(f"pec_{name}") == pytest.approx(0.25, abs=1e-6)
    assert result.value("pec_minimum_position_error") == pytest.approx(0, abs=1e-4)
    assert result.value("pec_minimum_depth_error") == pytest.approx(0, abs=1e-5)


def test_errors_are_those_of_the_formulas() -> None:
    curve = curve_of(EMT(), offset=-curve_of(EMT()).energy[-1])
    (result,) = potential_energy_curves(toy_potential(), [curve])
    energies = np.array(result.curves["energy"])
    relative = (energies - energies[-1]) - (curve.energy - curve.energy[-1])
    assert result.value("pec_energy_rmse") == pytest.approx(np.sqrt((relative**2).mean()))
    below = curve.energy <= 0
    assert 0 < below.sum() < len(X)
    expected = np.abs(relative[below]).mean()
    assert result.value("pec_energy_mae_attractive") == pytest.approx(expected)
    slopes = np.gradient(energies, 0.1) - np.gradient(curve.energy, 0.1)
    assert result.value("pec_slope_mae") == pytest.approx(np.abs(slopes).mean())
    positions = []
    for calculator in (SiliforceCalculator(toy_potential()), EMT()):
        energy = functools.partial(energy_at, calculator)
        positions.append(minimize_scalar(energy, bounds=(1.9, 3.4), method="bounded").x)
    difference = positions[0] - positions[1]
    assert result.value("pec_minimum_position_error") == pytest.approx(difference, abs=0.01)
    paper = potential_energy_curves(EMT(), [curve], "paper")[0]
    assert paper.protocol == "paper"
    assert paper.value("pec_energy_rmse") is None
    offset = curve.energy[-1] - np.array(paper.curves["energy"])[-1]
    assert paper.value("pec_energy_rmse_absolute") == pytest.approx(abs(offset))


def test_nothing_within_the_cutoff_is_the_sum_of_isolated_atoms() -> None:
    potential = toy_potential()
    images = [dimer(x) for x in (7.0, 8.0, 9.0)]
    flat = EnergyCurve("CuCu", "distance", np.array([7.0, 8.0, 9.0]), np.zeros(3), images)
    (result,) = potential_energy_curves(potential, [flat])
    alone = SiliforceCalculator(potential)
    atom = Atoms("Cu", cell=[20, 20, 20], calculator=alone)
    np.testing.assert_allclose(result.curves["energy"], 2 * atom.get_potential_energy(), atol=1e-9)
    assert result.value("pec_energy_rmse") == pytest.approx(0, abs=1e-9)
    assert result.value("pec_minimum_position_error") is None
    metric = result.metric("pec_minimum_position_error")
    assert metric is not None
    assert metric.note == "DFT has no minimum within the curve"


def test_the_paper_has_no_images() -> None:
    """A dimer of 3.5 Å in a cell of 6.5 Å: its image is nearer than the atom itself."""
    image = dimer(3.5, pbc=True)
    image.set_cell([6.5, 20, 20])
    point = EnergyCurve("CuCu", "distance", np.array([3.4, 3.5]), np.zeros(2), [dimer(3.4), image])
    periodic, free = (
        potential_energy_curves(toy_potential(), [point], protocol)[0].curves["energy"][1]
        for protocol in ("siliforce", "paper")
    )
    expected = SiliforceCalculator(toy_potential())
    assert free == pytest.approx(expected.get_potential_energy(dimer(3.5)), abs=1e-6)
    assert periodic == pytest.approx(expected.get_potential_energy(image), abs=1e-6)
    assert abs(periodic - free) > 0.05


class Picky(Calculator):
    """Fails as some universal potentials do on atoms that are far apart."""

    implemented_properties: ClassVar = ["energy"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if self.atoms.get_distance(0, 1) > 5:
            raise ValueError("an isolated atom")
        self.results["energy"] = 0.0


def test_a_calculator_that_cannot_do_it_is_a_failure_not_a_number() -> None:
    curve = curve_of(EMT())
    (result,) = potential_energy_curves(Picky(), [curve])
    assert "of 65 points have no energy: ValueError: an isolated atom" in result.failure
    assert result.value("pec_energy_rmse") is None
    assert result.curves["energy"][0] == 0.0


def test_minimum() -> None:
    x = np.linspace(0, 4, 41)
    found = minimum(x, 2 * (x - 1.234) ** 2 - 3)
    assert found is not None
    assert found[0] == pytest.approx(1.234)
    assert found[1] == pytest.approx(-2 * (4 - 1.234) ** 2)
    assert minimum(x, x) is None
    two = np.cos(2 * np.pi * x / 2) + 0.1 * x
    assert minimum(x, two)[0] == pytest.approx(0.98, abs=0.02)
    assert minimum(x, two, near=3.3)[0] == pytest.approx(2.98, abs=0.02)


def test_no_curves() -> None:
    with pytest.raises(DataError, match="no potential energy curves"):
        potential_energy_curves(EMT(), [])


def test_the_reference_is_not_size_consistent(tmp_path: Path) -> None:
    """Published: HfO at its end lies 1.1 eV below its atoms, SiN 0.4 eV."""
    sin, hfo = samd23_references(tmp_path)
    found = size_inconsistency(hfo.pec)
    assert found["HfO"] == pytest.approx(-1.1, abs=0.05)
    assert found["HfO2"] is None
    assert found["HfHf"] is None
    assert size_inconsistency(sin.pec)["SiN"] == pytest.approx(-0.4, abs=0.05)


# -- equations of state of a whole reference ------------------------------------------------------


@functools.cache
def scans() -> list[EnergyVolume]:
    """Two structures of copper, on scales that differ, by EMT."""
    found = []
    for name, scales, ood in (("small", SCALES[:13], False), ("large", SCALES[2:], True)):
        atoms = Atoms("Cu", cell=np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) * 1.8, pbc=True)
        atoms = atoms if name == "small" else atoms.repeat((2, 1, 1))
        points = []
        for scale in scales:
            image = atoms.copy()
            image.set_cell(atoms.cell * scale, scale_atoms=True)
            image.calc = EMT()
            points.append([scale, image.get_volume(), image.get_potential_energy()])
        found.append(EnergyVolume(name, atoms, np.array(points), ood))
    return found


def test_equations_of_state_of_a_reference() -> None:
    results = equations_of_state(EMT(), scans(), noise=0.5)
    assert [r.split for r in results] == ["id:small", "ood:large"]
    for result, scan in zip(results, scans(), strict=True):
        assert result.value("B0_error") == pytest.approx(0, abs=1e-6)
        assert result.value("V0_error") == pytest.approx(0, abs=1e-6)
        assert result.provenance["B0_tie"]
        assert "0.5 %" in result.metric("B0_error").note
        assert result.curves["scale"] == scan.points[:, 0].tolist()
    toy = toy_potential(distance=2.8)
    for result, scan in zip(equations_of_state(toy, scans(), noise=0.5), scans(), strict=True):
        alone = equation_of_state(toy, scan.atoms, scan.points[:, 0], scan.points)
        assert result.value("B0") == pytest.approx(alone.value("B0"), rel=1e-6)
        assert not result.provenance["B0_tie"]
        assert result.metric("B0_error").note == ""
    with pytest.raises(DataError, match="no equations of state"):
        equations_of_state(EMT(), [])


def test_the_published_fits_are_reproduced(tmp_path: Path) -> None:
    """V0 and B0 that are shipped with the points, each over the window that both have."""
    for reference in samd23_references(tmp_path):
        for scan in reference.eos:
            folder = tmp_path / "datasets" / f"{reference.name}_eval" / "eos" / scan.name
            shipped = json.loads((folder / "eos_res_birchmurnaghan.txt").read_text())
            window = _window(scan.points[:, 0])
            inside = np.isin(scan.points[:, 0], window)
            fit = fit_birch_murnaghan(scan.points[inside, 1], scan.points[inside, 2])
            assert fit.volume == pytest.approx(shipped["v0"], rel=1e-4)
            bulk = fit.bulk_modulus * EV_PER_A3_IN_GPA
            assert bulk == pytest.approx(shipped["B (GPa)"], rel=1e-3)
