"""Writes `reference.npz`: energies and forces of PyTorch Geometric's SchNet with random weights.

Run from the root of the checkout, in an environment of its own:

    pip install torch==2.13.0 torch_geometric==2.8.1 ase==3.29.0
    python -m tests.parity.schnet.make_reference

The package builds no periodic graphs, so the pairs are found here by going through all images,
without siliforce's neighbour list.
"""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from tests.structures import STRUCTURES

PATH = Path(__file__).with_name("reference.npz")
CONFIG = {"cutoff": 4.0, "hidden": 16, "n_filters": 12, "n_layers": 3, "n_radial": 14}
NUMBERS = (8, 14)


def structures() -> dict[str, Atoms]:
    """The structures of the contract test and a dimer."""
    dimer = Atoms("SiO", positions=[[0.1, 0.2, 0.3], [1.2, 1.1, 1.0]])
    return {"dimer": dimer} | {name: make() for name, make in STRUCTURES.items()}


def brute_force_pairs(atoms: Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """(center, neighbor) indices, (n, 2), and translations of the neighbor, (n, 3)."""
    pairs, translations = [], []
    reach = [range(-3, 4) if periodic else range(1) for periodic in atoms.pbc]
    for shift in product(*reach):
        translation = np.array(shift) @ atoms.cell.array
        for i, j in product(range(len(atoms)), repeat=2):
            distance = np.linalg.norm(atoms.positions[j] + translation - atoms.positions[i])
            if 0 < distance < cutoff:
                pairs.append((i, j))
                translations.append(translation)
    return np.array(pairs, dtype=int).reshape(-1, 2), np.array(translations).reshape(-1, 3)


def build() -> torch.nn.Module:
    """The package's model, every parameter random."""
    from torch_geometric.nn.models.schnet import SchNet, ShiftedSoftplus

    torch.manual_seed(0)
    model = SchNet(
        hidden_channels=CONFIG["hidden"],
        num_filters=CONFIG["n_filters"],
        num_interactions=CONFIG["n_layers"],
        num_gaussians=CONFIG["n_radial"],
        cutoff=CONFIG["cutoff"],
        interaction_graph=lambda positions, batch: None,
    ).double()
    # Constants in float64, where the package rounds them to float32 first.
    grid = torch.linspace(0.0, CONFIG["cutoff"], CONFIG["n_radial"], dtype=torch.float64)
    model.distance_expansion.offset = grid
    model.distance_expansion.coeff = -0.5 / (grid[1] - grid[0]).item() ** 2
    for module in model.modules():
        if isinstance(module, ShiftedSoftplus):
            module.shift = math.log(2.0)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter.shape[-1] if parameter.ndim > 1 else 4.0
            parameter.copy_(torch.randn_like(parameter) * 1.4 / fan_in**0.5)
    return model


def evaluate(model: torch.nn.Module, atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Energies of the atoms, (n,), and forces, (n, 3)."""
    pairs, translations = brute_force_pairs(atoms, CONFIG["cutoff"])
    center, neighbor = torch.from_numpy(pairs).T
    shift = torch.from_numpy(translations)

    def graph(positions: torch.Tensor, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = (positions[neighbor] + shift - positions[center]).norm(dim=-1)
        return torch.stack([neighbor, center]), lengths

    captured: list[torch.Tensor] = []
    hook = model.lin2.register_forward_hook(lambda *args: captured.append(args[-1]))
    model.interaction_graph = graph
    positions = torch.from_numpy(atoms.positions).requires_grad_()
    energy = model(torch.from_numpy(atoms.numbers), positions)
    hook.remove()
    (gradient,) = torch.autograd.grad(energy.sum(), positions, allow_unused=True)
    forces = torch.zeros_like(positions) if gradient is None else -gradient
    return captured[0].detach().squeeze(1).numpy(), forces.numpy()


def main() -> None:
    """Write the file."""
    model = build()
    arrays = {f"weight/{k}": v.numpy() for k, v in model.state_dict().items()}
    arrays["weight/embedding.weight"] = arrays["weight/embedding.weight"][list(NUMBERS)]
    for name, atoms in structures().items():
        energies, forces = evaluate(model, atoms)
        arrays |= {
            f"{name}/numbers": atoms.numbers,
            f"{name}/positions": atoms.positions,
            f"{name}/cell": atoms.cell.array,
            f"{name}/pbc": atoms.pbc,
            f"{name}/atom_energies": energies,
            f"{name}/forces": forces,
        }
    np.savez_compressed(PATH, **arrays)


if __name__ == "__main__":
    main()
