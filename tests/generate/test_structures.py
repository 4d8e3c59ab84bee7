"""Structures are what they are called."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from ase.build import bulk
from ase.neighborlist import neighbor_list

from siliforce.errors import ConfigError, DataError
from siliforce.generate import structures
from siliforce.generate.alloys import alloyed, pair_excess, shell_pairs
from siliforce.generate.crystals import CRYSTALS, crystal

ATOMS = {
    "m-HfO2": 12, "t-HfO2": 6, "c-HfO2": 12, "oI-HfO2": 24, "oII-HfO2": 12,
    "alpha-Si3N4": 28, "beta-Si3N4": 14, "gamma-Si3N4": 14,
}  # fmt: skip
COORDINATION = {"m-HfO2": 7, "t-HfO2": 8, "c-HfO2": 8, "oI-HfO2": 7, "oII-HfO2": 9,
                "alpha-Si3N4": 4, "beta-Si3N4": 4, "gamma-Si3N4": 16 / 3}  # fmt: skip


@pytest.mark.parametrize("name", CRYSTALS)
def test_crystals_have_their_atoms_and_neighbours(name: str) -> None:
    atoms = crystal(name)
    assert len(atoms) == ATOMS[name]
    cation = 72 if "Hf" in name else 14
    reach = 2.6 if "Hf" in name else 2.2
    i, j = neighbor_list("ij", atoms, reach)
    bonds = (atoms.numbers[i] == cation) & (atoms.numbers[j] != cation)
    assert bonds.sum() / (atoms.numbers == cation).sum() == pytest.approx(COORDINATION[name])
    assert structures.closest_approach(atoms) > 0.8


def test_crystal_density_is_right() -> None:
    mass = structures.AMU_PER_A3_IN_G_CM3
    for name, density in {"m-HfO2": 10.1, "beta-Si3N4": 3.2, "gamma-Si3N4": 4.0}.items():
        atoms = crystal(name)
        assert atoms.get_masses().sum() / atoms.get_volume() * mass == pytest.approx(
            density, rel=0.02
        )


def test_unknown_crystal_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="m-HfO2"):
        crystal("HfO2")


def test_random_packing_keeps_distance_and_density() -> None:
    rng = np.random.default_rng(0)
    atoms = structures.random_packing("Hf8O16", 8.0, rng)
    assert structures.closest_approach(atoms) >= 0.75 - 1e-9
    density = atoms.get_masses().sum() / atoms.get_volume() * structures.AMU_PER_A3_IN_G_CM3
    assert density == pytest.approx(8.0)
    with pytest.raises(DataError, match="lower the density"):
        structures.random_packing("Hf8O16", 30.0, rng)


def test_defects_change_what_they_say_and_nothing_else() -> None:
    rng = np.random.default_rng(1)
    host = crystal("Si", (2, 2, 2))
    before = host.positions.copy()
    assert len(structures.with_vacancies(host, {"Si": 2}, rng)) == 62
    assert len(structures.with_interstitial(host, "Si", rng)) == 65
    alloy = structures.substituted(host, "Si", "Ge", rng)
    assert (alloy.numbers == 32).sum() == 1
    moved = np.linalg.norm(alloy.positions - before, axis=1) > 1e-9
    assert moved.sum() == 4  # the bonded neighbours
    np.testing.assert_array_equal(host.positions, before)
    with pytest.raises(DataError, match="3 Ge atoms asked for"):
        structures.with_vacancies(host, {"Ge": 3}, rng)


def test_surfaces_wires_and_clusters_have_vacuum() -> None:
    slab = structures.slab(crystal("Si"), (1, 0, 0), layers=2, vacuum=5.0)
    assert np.ptp(slab.positions[:, 2]) < slab.cell.lengths()[2] - 9.9
    wire = structures.wire(crystal("beta-Si3N4"), vacuum=5.0)
    assert wire.cell.lengths()[2] == pytest.approx(crystal("beta-Si3N4").cell.lengths()[2])
    ball = structures.cluster(crystal("Si"), 4.0)
    assert len(ball) == 17  # the atom, 4 neighbours, 12 second neighbours
    assert structures.closest_approach(ball) == pytest.approx(5.469 * 3**0.5 / 4 / (2 * 1.11))


@pytest.mark.parametrize(("miller", "bonds"), [((1, 1, 1), 3), ((1, 0, 0), 2), ((1, 1, 0), 3)])
def test_surfaces_break_as_few_bonds_as_they_can(miller: tuple[int, int, int], bonds: int) -> None:
    slab = structures.slab(crystal("Si"), miller, layers=3, repeat=(2, 1))
    once = structures.slab(crystal("Si"), miller, layers=3)
    assert len(slab) == 2 * len(once)
    assert slab.cell.lengths()[0] == pytest.approx(2 * once.cell.lengths()[0])
    distances = slab.get_all_distances(mic=True)
    counts = ((distances > 0.1) & (distances < 2.5)).sum(axis=1)
    assert counts.min() == bonds
    assert counts.max() == 4


def test_bent_molecule_stays_in_its_range() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        water = structures.bent_molecule(("O", "H", "H"), (0.97, 0.25), (104.3, 30.0), rng)
        r1, r2 = water.get_distance(0, 1), water.get_distance(0, 2)
        assert min(r1, r2) >= 0.72
        assert max(r1, r2) <= 1.22
        assert water.get_angle(1, 0, 2) == pytest.approx(water.info["angle"])


def test_strain_is_linear_or_a_tensor() -> None:
    host = crystal("c-HfO2")
    assert structures.strained(host, 0.03).get_volume() == pytest.approx(
        host.get_volume() * 1.03**3
    )
    tensor = np.array([[0.02, 0.03, -0.01], [0.03, -0.04, 0.0], [-0.01, 0.0, 0.05]])
    sheared = structures.strained(host, tensor)
    np.testing.assert_allclose(
        sheared.get_scaled_positions(), host.get_scaled_positions(), atol=1e-12
    )


def test_alloys_have_their_composition_and_are_drawn_again_from_a_seed() -> None:
    host = bulk("Si", cubic=True).repeat(2)
    make = partial(alloyed, host, "Si", {"Ge": 16, "C": 3})
    one, again = make(np.random.default_rng(1)), make(np.random.default_rng(1))
    other = make(np.random.default_rng(2))
    assert one.get_chemical_formula() == "C3Ge16Si45"
    np.testing.assert_array_equal(one.numbers, again.numbers)
    assert (one.numbers != other.numbers).any()
    assert (host.numbers == 14).all()
    with pytest.raises(DataError, match="65 Ge on 64 Si"):
        alloyed(host, "Si", {"Ge": 65}, np.random.default_rng(0))


def test_quasirandom_alloys_have_the_pairs_of_a_random_alloy() -> None:
    host = bulk("Si", cubic=True).repeat(2)
    pairs = shell_pairs(host, 3)
    assert [p.sum(axis=1).tolist() for p in pairs] == [[4.0] * 64, [12.0] * 64, [12.0] * 64]
    rng = np.random.default_rng(0)
    quasi = alloyed(host, "Si", {"Ge": 32}, rng, quasirandom=True)
    assert pair_excess(quasi.numbers, pairs) < 1e-12  # as many pairs as in the average
    drawn = [pair_excess(alloyed(host, "Si", {"Ge": 32}, rng).numbers, pairs) for _ in range(20)]
    assert min(drawn) > 0.01


def test_quasirandom_on_one_sublattice_only() -> None:
    host = bulk("GaAs", crystalstructure="zincblende", a=5.65, cubic=True).repeat(2)
    quasi = alloyed(host, "Ga", {"Al": 8}, np.random.default_rng(0), quasirandom=True)
    assert quasi.get_chemical_formula() == "Al8As32Ga24"
    assert (quasi.numbers[host.numbers == 33] == 33).all()
    sites = host.numbers == 31
    pairs = shell_pairs(host[sites], 3)
    assert pairs[0].sum(axis=1).tolist() == [12.0] * 32
    rng = np.random.default_rng(1)
    plain = [alloyed(host, "Ga", {"Al": 8}, rng).numbers[sites] for _ in range(20)]
    assert pair_excess(quasi.numbers[sites], pairs) < min(pair_excess(n, pairs) for n in plain)
