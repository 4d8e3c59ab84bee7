"""What SCN keeps only approximately is measured here, and bounded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from pydantic import ValidationError
from scipy.spatial.transform import Rotation

from siliforce.models.scn import SCN, SCNConfig, nearest_shells
from siliforce.nn.o3.frames import bisector_frames
from siliforce.potential import Potential
from siliforce.species import Species
from tests.cases import graph_of
from tests.structures import STRUCTURES, SYMBOLS

TINY = SCN.presets["tiny"].model_dump()


def potential(gain: float = 1.0, **changes: object) -> Potential:
    """Random weights, those of messages times `gain`: the more, the less linear."""
    torch.manual_seed(0)
    model = SCN(SCNConfig.model_validate({**TINY, **changes}), len(SYMBOLS)).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "near" in name or "far" in name:
                parameter.mul_(gain)
    return Potential(model, Species.from_symbols(SYMBOLS), [0.0] * len(SYMBOLS))


@torch.no_grad()
def rotation_error(model: Potential, determinant: int = 1) -> float:
    """Error of rotated forces over their size, both root mean square."""
    error, size = 0.0, 0.0
    for name in ("amorphous", "cluster"):
        atoms = STRUCTURES[name]()
        before = model(graph_of(model, [atoms])).forces
        for seed in range(3):
            turn = determinant * Rotation.random(rng=seed).as_matrix()
            cell = atoms.cell.array @ turn.T
            turned = Atoms(atoms.symbols, atoms.positions @ turn.T, cell=cell, pbc=atoms.pbc)
            after = model(graph_of(model, [turned])).forces @ torch.from_numpy(turn)
            error += (after - before).square().mean().item()
            size += before.square().mean().item()
    return (error / size) ** 0.5


def test_rotation_error_falls_with_samples() -> None:
    few, more, many = (rotation_error(potential(n_samples=n)) for n in (8, 18, 72))
    assert few > 4 * more > 16 * many
    assert many < 1e-4


@torch.no_grad()
def roll_error(model: Potential) -> float:
    """Change of forces over their size, as all frames turn about their edges."""
    graph = graph_of(model, [STRUCTURES["amorphous"]()])
    before = model(graph).forces
    turn = torch.from_numpy(Rotation.from_euler("y", 0.4).as_matrix())
    model.model.frames = lambda unit_vectors: turn @ bisector_frames(unit_vectors)
    return ((model(graph).forces - before).norm() / before.norm()).item()


def test_roll_error_falls_with_turns() -> None:
    """The roll of a frame is a choice; the average over turns about the edge forgets it."""
    few, many = (roll_error(potential(gain=2.0, n_taps=n)) for n in (4, 12))
    assert few > 20 * many
    assert few < 0.01


def test_authors_form_is_less_equivariant() -> None:
    few, many = (rotation_error(potential(smooth=False, n_samples=n)) for n in (16, 256))
    assert few > 2 * many
    assert 1e-3 < many < 0.05


def test_inversion() -> None:
    """Messages of the smooth form know no handedness, those of the authors' form do."""
    assert rotation_error(potential(), determinant=-1) < 1e-4
    assert 0.01 < rotation_error(potential(smooth=False), determinant=-1) < 0.3


@torch.no_grad()
def jump(model: Potential, distance: float) -> float:
    """Change of forces over their size, as a third atom passes a distance by 2e-7 Å."""
    forces = []
    for step in (-1e-7, 1e-7):
        atoms = Atoms("SiOSi", positions=[[0, 0, 0], [0, 1.7, 0], [distance + step, 0.3, 0]])
        forces.append(model(graph_of(model, [atoms])).forces)
    return ((forces[1] - forces[0]).norm() / forces[0].norm()).item()


def test_smooth_forces_are_continuous() -> None:
    """Where near messages end, and in the authors' form at the cutoff and where ranks change."""
    near, cutoff = TINY["near_cutoff"], TINY["cutoff"]
    across = (near**2 - 0.3**2) ** 0.5, (cutoff**2 - 0.3**2) ** 0.5
    assert all(jump(potential(), distance) < 1e-6 for distance in across)
    assert 1e-3 < jump(potential(smooth=False), across[1]) < 0.5
    # The nearest of atom 0 changes at 1.7 Å, but for the width of a shell.
    passing = ((1.7 * (1 + 1e-4)) ** 2 - 0.3**2) ** 0.5
    assert 1e-3 < jump(potential(smooth=False, n_near=1), passing) < 1


def test_shells_are_not_cut() -> None:
    """Diamond has 4 and 12 neighbours; the twelfth nearest is one of equals."""
    model = potential(smooth=False)
    graph = graph_of(model, [bulk("Si", cubic=True)])
    near = nearest_shells(graph.edge_lengths, graph, 12)
    assert (torch.bincount(graph.center, near.double()) == 16).all()
    assert (torch.bincount(graph.center, nearest_shells(graph.edge_lengths, graph, 4)) == 4).all()


@pytest.mark.parametrize("smooth", [True, False])
def test_edges_along_axes(smooth: bool) -> None:
    model = potential(smooth=smooth)
    axes = [*np.eye(3), *-np.eye(3), [-0.36, -0.48, -0.8]]
    atoms = Atoms("SiO7", positions=np.concatenate([np.zeros((1, 3)), 1.9 * np.array(axes)]))
    graph = graph_of(model, [atoms])
    leaf = graph.edge_vectors.requires_grad_()
    answer = model(graph.replace(edge_vectors=leaf))
    assert torch.isfinite(answer.forces).all()
    (gradient,) = torch.autograd.grad(answer.energy.sum(), leaf)
    assert torch.isfinite(gradient).all()


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(ValidationError, match="more than l_max"):
        SCNConfig(l_max=2, far_l_max=3)
    with pytest.raises(ValidationError, match="2 n²"):
        SCNConfig(n_samples=64)
