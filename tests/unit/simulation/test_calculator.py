"""The ASE calculator: right numbers, one neighbour list for many steps, clear refusals."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

from siliforce.errors import ConfigError, DataError, ModelFileError
from siliforce.graph import System, Topology, collate
from siliforce.models import MODELS
from siliforce.potential import Card
from siliforce.simulation.calculator import SiliforceCalculator
from siliforce.simulation.domain import OutsideRangeWarning, temperature_outside
from siliforce.simulation.neighbors import SkinList, narrowed
from tests.toys import TOYS, DirectMorse, toy_potential


def rattled(seed: int = 0) -> Atoms:
    atoms = bulk("Cu", "fcc", a=3.7).repeat((2, 2, 1))
    atoms.set_cell(
        atoms.cell.array + np.array([[0, 0, 0], [0.2, 0, 0], [0, 0.3, 0.1]]), scale_atoms=True
    )
    atoms.rattle(0.1, seed=seed)
    return atoms


def test_forces_and_stress_are_derivatives_of_the_energy():
    atoms = rattled()
    atoms.calc = SiliforceCalculator(toy_potential(), device="cpu")
    numerical = calculate_numerical_forces(atoms, eps=1e-4)
    np.testing.assert_allclose(atoms.get_forces(), numerical, atol=1e-6)
    np.testing.assert_allclose(
        atoms.get_stress(), calculate_numerical_stress(atoms, eps=1e-5), atol=1e-7
    )
    assert np.abs(atoms.get_stress()).max() > 1e-3
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy())
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()


def test_walk_with_reused_pairs_equals_fresh_search():
    potential = toy_potential()
    walker, rng = rattled(), np.random.default_rng(1)
    walker.calc = SiliforceCalculator(potential, device="cpu", skin=0.6)
    for _ in range(25):
        walker.positions += rng.normal(0, 0.02, walker.positions.shape)
        fresh = walker.copy()
        fresh.calc = SiliforceCalculator(potential, device="cpu", skin=0.0)
        assert walker.get_potential_energy() == pytest.approx(
            fresh.get_potential_energy(), abs=1e-10
        )
        np.testing.assert_allclose(walker.get_forces(), fresh.get_forces(), atol=1e-10)
    assert 1 < walker.calc.neighbors.searches < 20


def test_change_of_cell_or_elements_searches_again():
    atoms = rattled()
    skin = SkinList(5.0, 0.5, torch.device("cpu"))
    skin.update(atoms)
    skin.update(atoms)
    assert skin.searches == 1
    atoms.set_cell(atoms.cell * 1.2)
    skin.update(atoms)
    assert skin.searches == 2
    atoms.numbers[0] = 28
    assert int(skin.update(atoms).numbers[0]) == 28
    assert skin.searches == 3


def test_pairs_outlive_a_cell_that_breathes_but_not_one_that_shrinks():
    atoms, rng = rattled(), np.random.default_rng(0)
    skin = SkinList(5.0, 0.5, torch.device("cpu"))
    skin.update(atoms)
    for step in range(12):
        strain = np.eye(3) + rng.normal(0, 0.004, (3, 3)) - 0.01 * step * np.eye(3)
        moved = atoms.copy()
        moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        moved.positions += rng.normal(0, 0.01, moved.positions.shape)
        found = narrowed(skin.update(moved), 5.0, Topology(), torch.float64)
        fresh = SkinList(5.0, 0.0, torch.device("cpu")).update(moved)
        assert found.n_edges == fresh.n_edges
        torch.testing.assert_close(
            found.edge_vectors.norm(dim=1).sort().values, fresh.edge_lengths.sort().values
        )
        if step == 2:
            assert skin.searches == 1
    assert skin.searches > 1


@pytest.mark.parametrize(
    "needs",
    [
        Topology(),
        Topology(triplets="ordered", reverse_edges=True),
        Topology(triplets="unordered", closed_triplets=True, pairs=True),
        Topology(max_neighbors=7),
    ],
)
def test_narrowed_graph_is_the_graph_that_collate_builds(needs):
    atoms = rattled()
    wide = SkinList(4.5, 0.7, torch.device("cpu")).update(atoms)
    found = narrowed(wide, 4.5, needs, torch.float64)
    system = System.build(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, 4.5)
    expected = collate([system], needs, torch.float64)
    assert wide.n_edges > expected.n_edges
    for name in ("center", "neighbor", "cell_shifts", "edge_ptr", "edge_vectors"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    for name in ("triplets", "reverse_edges", "pair_edges", "edge_pairs"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


def test_ensemble_gives_mean_and_spread():
    members = [toy_potential(depth=d) for d in (0.3, 0.33, 0.36)]
    atoms = rattled()
    atoms.calc = SiliforceCalculator(members, device="cpu")
    energies, forces = [], []
    for member in members:
        one = atoms.copy()
        one.calc = SiliforceCalculator(member, device="cpu")
        energies.append(one.get_potential_energy())
        forces.append(one.get_forces())
    assert atoms.get_potential_energy() == pytest.approx(np.mean(energies))
    assert atoms.calc.results["energy_std"] == pytest.approx(np.std(energies, ddof=1))
    np.testing.assert_allclose(atoms.calc.results["forces_std"], np.std(forces, axis=0, ddof=1))
    assert atoms.calc.results["forces_std"].max() > 0.01


def test_folder_of_several_seeds_is_an_ensemble(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "morse-toy", TOYS["morse-toy"])
    names = ["seed-0/best.safetensors", "seed-1/best.safetensors"]
    for name, depth in zip(names, (0.3, 0.36), strict=True):
        toy_potential(depth=depth).save(tmp_path / name)
    (tmp_path / "ensemble.json").write_text(json.dumps({"members": names}))
    calculator = SiliforceCalculator(tmp_path, device="cpu")
    assert len(calculator.potentials) == 2
    (tmp_path / "ensemble.json").write_text('{"members": ')
    with pytest.raises(ModelFileError, match=r"ensemble\.json: damaged"):
        SiliforceCalculator(tmp_path)


def test_members_of_an_ensemble_must_know_the_same_elements():
    with pytest.raises(ConfigError, match="different elements"):
        SiliforceCalculator([toy_potential(), toy_potential(("Si",))])
    with pytest.raises(ConfigError, match="at least one"):
        SiliforceCalculator([])


def test_loads_files_in_the_wanted_precision(tmp_path, monkeypatch):
    for name, target in TOYS.items():
        monkeypatch.setitem(MODELS, name, target)
    path = toy_potential(dtype=torch.float32).save(tmp_path / "best.safetensors")
    atoms = rattled()
    for source in (path, str(path), tmp_path):
        atoms.calc = SiliforceCalculator(source, device="cpu", dtype="float64")
        assert atoms.calc.potentials[0].dtype == torch.float64
        assert atoms.get_potential_energy() < 0
    with pytest.raises(ConfigError, match="float16"):
        SiliforceCalculator(path, dtype="float16")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ModelFileError, match="damaged"):
        SiliforceCalculator(path)


def test_precision_of_the_callers_potential_is_left_alone():
    potential = toy_potential(dtype=torch.float32)
    SiliforceCalculator(potential, dtype="float64", device="cpu")
    assert potential.dtype == torch.float32


def test_unknown_element_is_refused_by_name():
    atoms = rattled()
    atoms.symbols[3] = "Au"
    atoms.calc = SiliforceCalculator(toy_potential(), device="cpu")
    with pytest.raises(DataError, match="knows Cu but not Au"):
        atoms.get_potential_energy()


def test_overlapping_atoms_are_refused_also_between_searches():
    atoms = rattled()
    atoms.calc = SiliforceCalculator(toy_potential(), device="cpu", skin=8.0)
    atoms.get_potential_energy()
    atoms.positions[1] = atoms.positions[0] + [1e-5, 0, 0]
    with pytest.raises(DataError, match="collapsed"):
        atoms.get_potential_energy()
    atoms.calc = SiliforceCalculator(toy_potential(), device="cpu")
    with pytest.raises(DataError, match="entered twice"):
        atoms.get_forces()


@pytest.mark.parametrize("skin", [0.0, 0.5])
def test_positions_that_are_not_numbers_are_refused(skin):
    atoms = rattled()
    atoms.calc = SiliforceCalculator(toy_potential(), device="cpu", skin=skin)
    atoms.get_potential_energy()
    atoms.positions[0, 0] = np.nan
    with pytest.raises(DataError, match="NaN"):
        atoms.get_potential_energy()


def test_stress_is_refused_where_there_is_none():
    atoms = rattled()
    atoms.calc = SiliforceCalculator(toy_potential(model=DirectMorse), device="cpu")
    assert np.abs(atoms.get_forces()).max() > 0
    assert not atoms.calc.has_stress
    with pytest.raises(ConfigError, match="predicts forces directly"):
        atoms.get_stress()
    atoms.pbc = (True, True, False)
    atoms.calc = SiliforceCalculator(toy_potential(), device="cpu")
    with pytest.raises(ConfigError, match="periodic in three directions"):
        atoms.get_stress()


def test_cluster_and_isolated_atom():
    dimer = Atoms("Cu2", positions=[[0, 0, 0], [2.866, 0, 0]])
    dimer.calc = SiliforceCalculator(toy_potential(), device="cpu")
    envelope = 1 - 28 * (x := 2.866 / 6) ** 6 + 48 * x**7 - 21 * x**8
    assert dimer.get_potential_energy() == pytest.approx(-0.3429 * envelope, rel=1e-6)
    atom = Atoms("Cu")
    atom.calc = SiliforceCalculator(toy_potential(atomic_energies=(-5.0,)), device="cpu")
    assert atom.get_potential_energy() == -5.0
    np.testing.assert_array_equal(atom.get_forces(), np.zeros((1, 3)))


def test_warns_once_far_outside_the_card():
    card = Card(atoms_per_volume=(0.08, 0.09), min_distance={"Cu-Cu": 2.3})
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
    atoms.calc = SiliforceCalculator(toy_potential(card=card), device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.get_potential_energy()
    atoms.set_cell(atoms.cell * 0.8, scale_atoms=True)
    with pytest.warns(OutsideRangeWarning, match=r"Cu-Cu at 2\.04 Å.*begin at 2\.30 Å") as caught:
        atoms.get_potential_energy()
    assert "atoms/Å³" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.rattle(0.01)
        atoms.get_potential_energy()


def test_pairs_that_the_data_lack_are_named():
    card = Card(min_distance={"O-H": 0.8, "H-H": 1.2})
    water = molecule("H2O")
    water.calc = SiliforceCalculator(toy_potential(("H", "O"), card=card), device="cpu")
    water.get_potential_energy()
    ozone = molecule("O3")
    with pytest.warns(OutsideRangeWarning, match="no O-O pair"):
        water.calc.get_potential_energy(ozone)


def test_temperature_above_the_data():
    card = Card(temperature=(300, 1200))
    assert temperature_outside(card, 100) is None
    assert "reach 1200 K" in str(temperature_outside(card, 1500))
    assert temperature_outside(Card(), 5000) is None
