"""The contract every architecture keeps, on its `tiny` preset and on every structure.

Add a row to `tests/cases.py` and a model inherits all of this.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import make_supercell
from scipy.spatial.transform import Rotation
from torch import Tensor

from siliforce.errors import ConfigError
from siliforce.potential import Potential, Prediction
from siliforce.simulation.batched import run_batch
from siliforce.simulation.md import MDConfig
from siliforce.species import Species
from tests.cases import ATOMIC_ENERGIES, CASES, Case, build_potential, graph_of, shared_potential
from tests.structures import STRUCTURES, SYMBOLS, isolated

DTYPES = [
    pytest.param(torch.float64, id="float64"),
    pytest.param(torch.float32, id="float32", marks=pytest.mark.full),
]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 3e-4}
"""Of energies per atom [eV] and forces [eV/Å] against RMS forces near 1 eV/Å."""

each_case = pytest.mark.parametrize("case", CASES, ids=str)
gradient_case = pytest.mark.parametrize("case", [c for c in CASES if not c.direct], ids=str)
direct_case = pytest.mark.parametrize("case", [c for c in CASES if c.direct], ids=str)
each_structure = pytest.mark.parametrize("name", STRUCTURES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
periodic = pytest.mark.parametrize(
    "name", [n for n, make in STRUCTURES.items() if make().pbc.all()]
)


def predict(potential: Potential, *structures: Atoms, stress: bool = True) -> Prediction:
    """Energy, forces and, unless the model is direct or it is not wanted, stress."""
    stress = stress and potential.has_stress
    return potential(graph_of(potential, list(structures)), stress=stress)


def assert_close(a: Tensor | None, b: Tensor | None, tolerance: float) -> None:
    torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=tolerance, equal_nan=True)


def assert_same(a: Prediction, b: Prediction, tolerance: float) -> None:
    """Energies, forces and, where there is one, stress agree."""
    assert_close(a.atom_energies, b.atom_energies, tolerance)
    assert_close(a.forces, b.forces, tolerance)
    assert_same_stress(a, b, tolerance)


def assert_same_stress(a: Prediction, b: Prediction, tolerance: float) -> None:
    """Stress agrees, or both have none."""
    assert (a.stress is None) == (b.stress is None)
    if a.stress is not None:
        assert_close(a.stress, b.stress, tolerance)


# -- symmetries -------------------------------------------------------------------------------


@each_dtype
@each_structure
@each_case
def test_permutation(case: Case, name: str, dtype: torch.dtype) -> None:
    potential, atoms = shared_potential(case, dtype), STRUCTURES[name]()
    order = np.random.default_rng(0).permutation(len(atoms))
    before, after = predict(potential, atoms), predict(potential, atoms[order])
    assert_close(after.forces, before.forces[order], TOLERANCE[dtype])
    assert_close(after.atom_energies, before.atom_energies[order], TOLERANCE[dtype])
    assert_same_stress(after, before, TOLERANCE[dtype])


@each_dtype
@each_structure
@each_case
def test_translation(case: Case, name: str, dtype: torch.dtype) -> None:
    potential, atoms = shared_potential(case, dtype), STRUCTURES[name]()
    moved = atoms.copy()
    moved.translate([0.71, -3.3, 12.9])
    assert_same(predict(potential, moved), predict(potential, atoms), TOLERANCE[dtype])


@pytest.mark.parametrize("determinant", [1, -1], ids=["rotation", "inversion"])
@each_dtype
@each_structure
@each_case
def test_rotation(case: Case, name: str, dtype: torch.dtype, determinant: int) -> None:
    potential, atoms = shared_potential(case, dtype), STRUCTURES[name]()
    turn = determinant * Rotation.from_euler("zyx", [0.4, 1.1, -2.0]).as_matrix()
    turned = Atoms(
        atoms.symbols, atoms.positions @ turn.T, cell=atoms.cell.array @ turn.T, pbc=atoms.pbc
    )
    before, after = predict(potential, atoms), predict(potential, turned)
    matrix = torch.from_numpy(turn)
    tolerance = TOLERANCE[dtype]
    if case.rotation_error is not None:
        tolerance += case.rotation_error * before.forces.square().mean().sqrt().item()
    assert_close(after.atom_energies, before.atom_energies, tolerance)
    assert_close(after.forces, before.forces.double() @ matrix.T, tolerance)
    if before.stress is not None:
        assert_close(after.stress, matrix @ before.stress.double() @ matrix.T, tolerance)


@each_dtype
@each_structure
@each_case
def test_wrapped_images(case: Case, name: str, dtype: torch.dtype) -> None:
    potential, atoms = shared_potential(case, dtype), STRUCTURES[name]()
    moved = atoms.copy()
    shifts = np.random.default_rng(1).integers(-2, 3, size=(len(atoms), 3)) * atoms.pbc
    moved.positions += shifts @ atoms.cell.array
    assert_same(predict(potential, moved), predict(potential, atoms), TOLERANCE[dtype])


@each_dtype
@periodic
@each_case
def test_supercell(case: Case, name: str, dtype: torch.dtype) -> None:
    potential, atoms = shared_potential(case, dtype), STRUCTURES[name]()
    shape = [[1, 1, 0], [0, 1, 0], [1, 0, 2]]
    large = make_supercell(atoms, shape, order="atom-major")
    before, after = predict(potential, atoms), predict(potential, large)
    copies = len(large) // len(atoms)
    assert copies == 2
    assert_close(after.forces, before.forces.repeat_interleave(copies, 0), TOLERANCE[dtype])
    assert_close(after.energy, copies * before.energy, TOLERANCE[dtype] * len(large))
    assert_same_stress(after, before, TOLERANCE[dtype])


# -- systems do not see each other ------------------------------------------------------------


@each_dtype
@each_case
def test_batch_is_one_by_one(case: Case, dtype: torch.dtype) -> None:
    potential = shared_potential(case, dtype)
    structures = [make() for make in STRUCTURES.values()]
    batch = predict(potential, *structures)
    single = [predict(potential, s) for s in structures]
    assert_close(batch.energy, torch.cat([p.energy for p in single]), 20 * TOLERANCE[dtype])
    assert_close(batch.forces, torch.cat([p.forces for p in single]), TOLERANCE[dtype])
    if batch.stress is not None:
        assert_close(batch.stress, torch.cat([p.stress for p in single]), TOLERANCE[dtype])


@each_case
def test_no_gradient_between_systems(case: Case) -> None:
    potential = shared_potential(case)
    graph = graph_of(potential, [STRUCTURES["crystal"](), STRUCTURES["amorphous"]()])
    leaf = graph.edge_vectors.requires_grad_()
    graph = potential.with_species(graph.replace(edge_vectors=leaf))
    atom_energy = potential.model(graph).atom_energy
    owner = graph.system_index[graph.center]
    for system in range(2):
        energy = atom_energy[graph.system_index == system].sum()
        (gradient,) = torch.autograd.grad(energy, leaf, retain_graph=True)
        assert gradient[owner == system].abs().max() > 1e-3
        assert (gradient[owner != system] == 0).all()


@each_case
def test_far_apart_is_additive(case: Case) -> None:
    potential, one = shared_potential(case), STRUCTURES["cluster"]()
    other = STRUCTURES["collinear"]()
    other.translate([60.0, 10.0, -20.0])
    together = predict(potential, one + other, stress=False)
    apart = predict(potential, one, other, stress=False)
    assert_close(together.energy.squeeze(), apart.energy.sum(), TOLERANCE[torch.float64])
    assert_close(together.forces, apart.forces, TOLERANCE[torch.float64])


# -- smoothness and derivatives ---------------------------------------------------------------


def approach(cutoff: float, offset: float, target: int) -> Atoms:
    """A cluster and one more atom, `cutoff + offset` from atom `target` and near the others.

    A third atom is within bonding distance of the new one, so that triplets close and open too.
    """
    atoms, rng = STRUCTURES["cluster"](), np.random.default_rng(target)
    while True:
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        place = atoms.positions[target] + cutoff * direction
        if 1.7 < np.linalg.norm(atoms.positions - place, axis=1).min() < 2.8:
            return atoms + Atoms("Si", positions=[place + offset * direction])


@pytest.mark.parametrize("target", range(7))
@each_case
def test_continuous_at_the_cutoff(case: Case, target: int) -> None:
    potential = shared_potential(case)
    step = 1e-6
    offsets = (-0.4, -3 * step, -step, step)
    structures = [approach(potential.cutoff, offset, target) for offset in offsets]
    inside, before, below, above = (predict(potential, s, stress=False) for s in structures)
    n_edges = [graph_of(potential, [s]).n_edges for s in structures]
    assert n_edges[3] == n_edges[2] - 2, "the atom must cross exactly one cutoff"
    smooth = below.forces[-1].norm() * 2 * step
    if case.direct:  # forces are no slopes
        smooth = (below.energy - before.energy).abs()
    smooth = smooth + TOLERANCE[torch.float64]
    assert (above.energy - below.energy).abs() < 2 * smooth
    assert (above.forces - below.forces).abs().max() < 1e-4 * above.forces.square().mean().sqrt()
    assert (inside.atom_energies[target] - below.atom_energies[target]).abs() > 1e-6


def displaced(atoms: Atoms, step: float) -> list[Atoms]:
    """Every coordinate moved by ±step and ±2 step, (n_atoms, 3, 4) in C order."""
    structures = []
    for i in range(len(atoms)):
        for axis in range(3):
            for factor in (1, -1, 2, -2):
                moved = atoms.copy()
                moved.positions[i, axis] += factor * step
                structures.append(moved)
    return structures


def strained(atoms: Atoms, step: float) -> list[Atoms]:
    """Every entry of the strain ±step and ±2 step, (3, 3, 4) in C order."""
    structures = []
    for a in range(3):
        for b in range(3):
            for factor in (1, -1, 2, -2):
                deformed, strain = atoms.copy(), np.eye(3)
                strain[a, b] += factor * step
                deformed.set_cell(atoms.cell.array @ strain, scale_atoms=True)
                structures.append(deformed)
    return structures


def derivative(energies: Tensor, step: float) -> Tensor:
    """Fourth-order central difference of energies at +1, -1, +2, -2 steps in the last axis."""
    return (8 * (energies[..., 0] - energies[..., 1]) - energies[..., 2] + energies[..., 3]) / (
        12 * step
    )


@each_structure
@gradient_case
def test_forces_are_derivatives(case: Case, name: str) -> None:
    potential, atoms, step = shared_potential(case), STRUCTURES[name](), 5e-4
    graph = graph_of(potential, displaced(atoms, step))
    energies = potential(graph, forces=False).energy.reshape(len(atoms), 3, 4)
    forces = predict(potential, atoms, stress=False).forces
    assert_close(forces, -derivative(energies, step), 2e-8)


@periodic
@gradient_case
def test_stress_is_derivative(case: Case, name: str) -> None:
    potential, atoms, step = shared_potential(case), STRUCTURES[name](), 2e-4
    graph = graph_of(potential, strained(atoms, step))
    energies = potential(graph, forces=False).energy.reshape(3, 3, 4)
    stress = predict(potential, atoms).stress
    expected = derivative(energies, step) / atoms.get_volume()
    assert_close(stress[0], 0.5 * (expected + expected.T), 1e-8)
    assert stress.abs().max() > 1e-4


@each_structure
@gradient_case
def test_no_net_force(case: Case, name: str) -> None:
    forces = predict(shared_potential(case), STRUCTURES[name]()).forces
    assert_close(forces.sum(0), torch.zeros(3), 1e-11 * len(forces))
    if name != "isolated":
        assert forces.abs().max() > 0.05, "forces this small would make every test here pass"


@direct_case
def test_direct_forces_are_not_derivatives(case: Case) -> None:
    """Why reports call these models non-conservative: a closed path of one atom costs work."""
    potential, atoms = shared_potential(case), STRUCTURES["amorphous"]()
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    circle = 0.3 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    path = []
    for step in circle:
        moved = atoms.copy()
        moved.positions[0] += step
        path.append(moved)
    forces = predict(potential, *path).forces.view(len(path), -1, 3)[:, 0].detach().numpy()
    tangent = 2 * np.pi / len(path) * np.stack([-circle[:, 1], circle[:, 0], circle[:, 2]], axis=1)
    work = (forces * tangent).sum()
    scale = np.abs(forces * tangent).sum()
    assert np.abs(forces).max() > 0.05
    assert abs(work) > 1e-4 * scale, "conservative after all: then it should have a stress"


@direct_case
def test_direct_models_refuse_stress(case: Case) -> None:
    potential = shared_potential(case)
    with pytest.raises(ConfigError, match="predicts forces directly and has no stress"):
        potential(graph_of(potential, [STRUCTURES["crystal"]()]), stress=True)


# -- the graph is all a model sees ------------------------------------------------------------


@each_structure
@each_case
def test_positions_are_not_read(case: Case, name: str) -> None:
    potential = shared_potential(case)
    graph = graph_of(potential, [STRUCTURES[name]()])
    nan = torch.nan
    blind = graph.replace(
        positions=torch.full_like(graph.positions, nan), cell_shifts=graph.cell_shifts * nan
    )
    expected = potential(graph)
    answer = potential(blind)
    assert torch.equal(answer.energy, expected.energy)
    assert torch.equal(answer.forces, expected.forces)
    no_cell = potential(blind.replace(cell=graph.cell * nan))
    assert torch.equal(no_cell.energy, expected.energy)


@pytest.mark.parametrize("symbol", SYMBOLS)
@each_dtype
@each_case
def test_isolated_atom_has_its_reference_energy(
    case: Case, dtype: torch.dtype, symbol: str
) -> None:
    potential = shared_potential(case, dtype)
    atoms = Atoms(symbol, positions=[[0.3, 0.2, 0.1]])
    boxes = [atoms, Atoms(atoms, cell=np.eye(3) * 9.0, pbc=True), Atoms(atoms, cell=[30, 9, 8])]
    answer = predict(potential, *boxes)
    reference = ATOMIC_ENERGIES[SYMBOLS.index(symbol)]
    # Two units in the last place of the model's answer, which is near 1 before it is scaled.
    rounding = 2.4e-7 * max(case.scale, 20.0) if dtype is torch.float32 else 1e-12
    assert_close(answer.energy, torch.full((3,), reference, dtype=torch.float64), rounding)
    assert torch.equal(answer.forces, torch.zeros_like(answer.forces))
    if answer.stress is not None:
        assert torch.equal(answer.stress[1], torch.zeros_like(answer.stress[1]))


@each_case
def test_isolated_atom_unpinned_keeps_the_models_constant(case: Case) -> None:
    potential = build_potential(case, pin_isolated=False)
    with torch.no_grad():
        for parameter in potential.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    answer = predict(potential, isolated(), Atoms(isolated(), cell=[20, 20, 20], pbc=True))
    assert torch.isfinite(answer.energy).all()
    assert_close(answer.energy[0], answer.energy[1], 1e-12)
    constant = abs(answer.energy[0] - ATOMIC_ENERGIES[SYMBOLS.index("Si")])
    assert constant == 0 if case.zero_alone else constant > 1e-6


# -- learning ---------------------------------------------------------------------------------


def loss_gradients(potential: Potential, energy: bool) -> dict[str, Tensor | None]:
    """Gradient of every parameter of a loss on forces, and on energies if asked."""
    graph = graph_of(potential, [make() for make in STRUCTURES.values()])
    prediction = potential(graph, create_graph=True)
    loss = prediction.forces.square().sum()
    if energy:
        loss = loss + (prediction.energy - 1.0).square().sum()
    named = dict(potential.model.named_parameters())
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return dict(zip(named, gradients, strict=True))


def unreached(gradients: dict[str, Tensor | None]) -> set[str]:
    return {n for n, g in gradients.items() if g is None or not g.abs().max() > 0}


@each_case
def test_energies_and_forces_reach_every_parameter(case: Case) -> None:
    potential = build_potential(case, pin_isolated=False)
    gradients = loss_gradients(potential, energy=True)
    assert not unreached(gradients)
    assert all(torch.isfinite(g).all() for g in gradients.values())


@each_case
def test_forces_reach_all_but_the_listed_parameters(case: Case) -> None:
    missing = unreached(loss_gradients(build_potential(case), energy=False))
    assert missing == set(case.no_force_gradient)


def pair_labels(structures: list[Atoms], cutoff: float) -> tuple[Tensor, Tensor]:
    """Energies and forces of a smooth pair potential: something that can be learned."""
    energies, forces = [], []
    for atoms in structures:
        vectors = atoms.positions[None] - atoms.positions[:, None]
        lengths = np.linalg.norm(vectors, axis=2) + 10 * np.eye(len(atoms)) * cutoff
        near = lengths < cutoff
        x = np.where(near, 1 - (lengths / cutoff) ** 2, 0)
        energies.append(6.0 * (x**4).sum() - 2.0 * (x**3).sum())
        slope = np.where(near, (48 * x**3 - 12 * x**2) * (-2 * lengths / cutoff**2), 0)
        forces.append((slope / lengths)[:, :, None] * vectors)
    return torch.tensor(energies), torch.from_numpy(np.concatenate([f.sum(1) for f in forces]))


@each_case
def test_overfits_four_structures(case: Case) -> None:
    potential = build_potential(case)
    rng = np.random.default_rng(3)
    structures = []
    for _ in range(4):
        atoms = STRUCTURES["cluster"]()
        atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
        structures.append(atoms)
    energies, forces = pair_labels(structures, potential.cutoff)
    graph = graph_of(potential, structures)
    base = sum(ATOMIC_ENERGIES[SYMBOLS.index(s)] for s in structures[0].symbols)
    optimiser = torch.optim.Adam(potential.model.parameters(), lr=case.overfit_lr)
    potential.train()
    error = math.inf
    for _ in range(case.overfit_steps):
        optimiser.zero_grad()
        answer = potential(graph, create_graph=True)
        force_error = (answer.forces - forces).square().mean() / forces.square().mean()
        energy_error = (answer.energy - base - energies).square().mean() / energies.square().mean()
        (force_error + energy_error).backward()
        optimiser.step()
        error = max(force_error.item(), energy_error.item()) ** 0.5
        if error < 0.1:
            return
    pytest.fail(f"relative error {error:.2f} after {case.overfit_steps} steps")


# -- files, species, compiler -----------------------------------------------------------------


@each_case
def test_moves_atoms_of_several_systems(case: Case) -> None:
    """A random potential heats, so runs may end; they do not stumble."""
    config = MDConfig(temperature=50, timestep=0.2, equilibration=0.0006, production=0.0008)
    structures = [STRUCTURES["crystal"](), STRUCTURES["two_species"]()]
    for run in run_batch(shared_potential(case, torch.float64), structures, config):
        assert run.steps == config.total_steps or run.failure is not None
        assert np.isfinite(run.log["conserved"]).all()


@each_dtype
@each_case
def test_saved_and_loaded_is_bit_identical(case: Case, dtype: torch.dtype, tmp_path: Path) -> None:
    potential = shared_potential(case, dtype)
    loaded = Potential.load(potential.save(tmp_path / "model.safetensors"))
    structures = [make() for make in STRUCTURES.values()]
    before, after = predict(potential, *structures), predict(loaded, *structures)
    assert torch.equal(after.energy, before.energy)
    assert torch.equal(after.forces, before.forces)
    assert loaded.header() == potential.header()


@each_case
def test_new_species_leave_old_energies(case: Case, tmp_path: Path) -> None:
    potential = build_potential(case)
    structures = [make() for make in STRUCTURES.values()]
    before = predict(potential, *structures)
    potential.extend([7, 32], sources={7: 8}, atomic_energies={7: -9.0})
    after = predict(potential, *structures)
    assert potential.species == Species.from_symbols([*SYMBOLS, "N", "Ge"])
    relative = (after.atom_energies / before.atom_energies - 1).abs().max()
    assert relative < 1e-12
    assert_close(after.forces, before.forces, 1e-11)
    foreign = STRUCTURES["amorphous"]()
    foreign.symbols[0], foreign.symbols[7] = "Ge", "N"
    loaded = Potential.load(potential.save(tmp_path / "extended.safetensors"))
    answer = predict(potential, foreign, Atoms("N"))
    assert torch.isfinite(answer.forces).all()
    assert_close(answer.energy[1], torch.tensor(-9.0), 1e-12)
    assert torch.equal(predict(loaded, foreign).energy, predict(potential, foreign).energy)


@each_case
def test_a_new_species_starts_as_its_source(case: Case) -> None:
    """As an atom and as a neighbour, alone and among others; also once its constants are fitted."""
    potential = build_potential(case)
    structure = STRUCTURES["amorphous"]()
    before = predict(potential, structure)
    potential.extend([32, 7], sources={32: 14, 7: 8}, atomic_energies={})
    renamed = structure.copy()
    for old, new in (("Si", "Ge"), ("O", "N")):
        rows = [k for k, symbol in enumerate(structure.symbols) if symbol == old]
        renamed.symbols[rows[: len(rows) // 2]] = new
        for atoms in (renamed, structure):
            assert_same(predict(potential, atoms), before, 1e-9)
    graph = graph_of(potential, [renamed, *(make() for make in STRUCTURES.values())])
    potential.model.fit_new_constants([potential.with_species(graph)])
    assert_same(predict(potential, renamed), before, 1e-8)


@each_case
def test_new_species_can_learn(case: Case) -> None:
    potential = build_potential(case, pin_isolated=False)
    potential.extend([32])
    foreign = STRUCTURES["amorphous"]()
    foreign.symbols[:3] = "Ge"
    graph = graph_of(potential, [foreign])
    answer = potential(graph, forces=case.direct, create_graph=True)
    total = answer.energy.sum()
    if case.direct:  # forces have parameters of their own
        total = total + answer.forces.square().sum()
    named = dict(potential.model.named_parameters())
    gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    for name, gradient in zip(named, gradients, strict=True):
        assert gradient is not None, name
        assert gradient.abs().max() > 0, name


COMPILED_BATCHES = (  # not of three: torch would take that for the three directions
    ("amorphous", "self_images", "cluster", "crystal", "two_species"),
    ("amorphous", "triclinic", "cluster", "crystal"),
)


@pytest.mark.full
@each_case
def test_compiled_agrees(case: Case) -> None:
    """Energy and forces in one graph, and another batch without compiling again."""
    potential = build_potential(case, pin_isolated=False)
    torch._dynamo.reset()
    compiled = torch.compile(potential, fullgraph=True, dynamic=True, backend=case.compiled_with)
    with (
        torch._dynamo.config.patch(trace_autograd_ops=True, error_on_recompile=True),
        torch.set_grad_enabled(not case.direct),
    ):
        for names in COMPILED_BATCHES:
            graph = graph_of(potential, [STRUCTURES[name]() for name in names])
            leaf = graph.edge_vectors.requires_grad_(not case.direct)
            eager, fast = (f(graph.replace(edge_vectors=leaf)) for f in (potential, compiled))
            assert_close(fast.energy, eager.energy, 1e-10)
            assert_close(fast.forces, eager.forces, 1e-10)


@pytest.mark.full
@pytest.mark.parametrize("case", [c for c in CASES if c.compiled_training], ids=str)
def test_compiled_training_agrees(case: Case) -> None:
    """Energy and forces in one graph, and the gradients of a loss on them."""
    potential = build_potential(case, pin_isolated=False)
    structures = [STRUCTURES[n]() for n in ("amorphous", "self_images", "cluster")]
    graph = graph_of(potential, structures)
    leaf = graph.edge_vectors.requires_grad_()
    parameters = list(potential.model.parameters())
    torch._dynamo.reset()
    compiled = torch.compile(potential, fullgraph=True, dynamic=True)
    results = []
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        for predict in (potential, compiled):
            answer = predict(graph.replace(edge_vectors=leaf), create_graph=True)
            loss = answer.energy.square().sum() + answer.forces.square().sum()
            results.append((answer, torch.autograd.grad(loss, parameters)))
    (eager, eager_gradients), (fast, fast_gradients) = results
    assert_close(fast.energy, eager.energy, 1e-10)
    assert_close(fast.forces, eager.forces, 1e-10)
    for a, b in zip(fast_gradients, eager_gradients, strict=True):
        assert_close(a, b, 1e-9 * float(b.abs().max()) + 1e-12)
