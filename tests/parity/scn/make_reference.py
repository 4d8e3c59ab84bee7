"""Writes `reference.npz`: energies and forces of fairchem's SCN with random weights.

Run from the root of the checkout, in an environment of its own:

    pip install torch==2.13.0 e3nn==0.6.0 ase==3.29.0
    pip install --no-deps fairchem-core==1.10.0
    python -m tests.parity.scn.make_reference

Of the package only the model's own files run here (see `benchmarks/authors/scn.py`). They find
their pairs through `generate_graph`, which is given pairs found by going through all images. All
constants are made in float64 by making that the default. The frames that the model draws at random
are stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from benchmarks.authors.scn import authors_model

from tests.structures import STRUCTURES

PATH = Path(__file__).with_name("reference.npz")
NUMBERS = (8, 14)
CUTOFF = 4.0
SIZES = {
    "num_interactions": 3,
    "lmax": 5,
    "mmax": 1,
    "num_resolutions": 2,
    "sphere_channels": 6,
    "sphere_channels_reduce": 6,
    "hidden_channels": 12,
    "num_taps": 3,
    "use_grid": True,
    "num_bands": 2,
    "num_sphere_samples": 30,
    "num_basis_functions": 4,
    "distance_function": "gaussian",
    "basis_width_scalar": 2.0,
    "distance_resolution": 0.1,
    "max_num_neighbors": 100,
    "max_num_elements": 15,
}


def structures() -> dict[str, Atoms]:
    """The structures of the contract test that have pairs (the package fails without), a dimer."""
    dimer = Atoms("SiO", positions=[[0.1, 0.2, 0.3], [1.2, 1.1, 1.0]])
    made = {name: make() for name, make in STRUCTURES.items() if name != "isolated"}
    return {"dimer": dimer} | made


def pairs(atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """(center, neighbor, shift), (n, 5), in this order, and vectors to the neighbor, (n, 3)."""
    found, vectors = [], []
    reach = [range(-3, 4) if periodic else range(1) for periodic in atoms.pbc]
    for i, j, *shift in product(range(len(atoms)), range(len(atoms)), *reach):
        vector = atoms.positions[j] + np.array(shift) @ atoms.cell.array - atoms.positions[i]
        if 0 < np.linalg.norm(vector) < CUTOFF:
            found.append((i, j, *shift))
            vectors.append(vector)
    return np.array(found, dtype=int).reshape(-1, 5), np.array(vectors).reshape(-1, 3)


@contextmanager
def float64() -> Iterator[None]:
    """Everything new is float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def build() -> torch.nn.Module:
    """The package's model, every parameter random."""
    model_class = authors_model()
    torch.manual_seed(0)
    with float64():
        model = model_class(cutoff=CUTOFF, **SIZES)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter.shape[-1] if parameter.ndim > 1 else 4.0
            parameter.copy_(torch.randn_like(parameter) * 1.6 / fan_in**0.5)
    return model


def evaluate(
    model: torch.nn.Module, atoms: Atoms, frames: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Energies of the atoms, (n,), forces, (n, 3), and the frames of the pairs, (n_pairs, 3, 3).

    Args:
        model: from `build`.
        atoms: the structure.
        frames: to be used in place of new random ones.
    """
    found, vectors = (torch.from_numpy(x) for x in pairs(atoms))
    lengths = vectors.norm(dim=1)
    graph = SimpleNamespace(
        edge_index=found[:, [1, 0]].T, edge_distance=lengths, edge_distance_vec=vectors
    )
    drawn = torch.zeros(len(vectors), 3, 3, dtype=torch.float64)
    own = type(model)._init_edge_rot_mat

    def remember(data: Any, edge_index: torch.Tensor, reordered: torch.Tensor) -> torch.Tensor:
        # The model brings the near edges to the front; a vector tells which edge it is.
        same = (reordered[:, None] == vectors).all(2) & (edge_index[1][:, None] == found[:, 0])
        place = same.double().argmax(dim=1)
        assert (same.sum(dim=1) == 1).all()
        if frames is not None:
            return torch.from_numpy(frames)[place]
        drawn[place] = own(model, data, edge_index, reordered)
        return drawn[place]

    numbers = torch.from_numpy(atoms.numbers)
    data = SimpleNamespace(
        pos=torch.from_numpy(atoms.positions),
        atomic_numbers=numbers,
        natoms=torch.ones(len(atoms)),
        batch=torch.arange(len(atoms)),  # every atom a system: energies of the atoms
    )
    model.generate_graph = lambda data: graph
    model._init_edge_rot_mat = remember
    with float64():
        answer = model(data)
    del model.generate_graph, model._init_edge_rot_mat
    return answer["energy"].detach().numpy(), answer["forces"].detach().numpy(), drawn.numpy()


def main() -> None:
    """Write the file."""
    model = build()
    arrays = {f"weight/{k}": v.detach().numpy() for k, v in model.named_parameters()}
    for name in arrays:
        if "embedding" in name:
            arrays[name] = arrays[name][list(NUMBERS)]
    for name, atoms in structures().items():
        torch.manual_seed(len(arrays))
        energies, forces, frames = evaluate(model, atoms)
        arrays |= {
            f"{name}/numbers": atoms.numbers,
            f"{name}/positions": atoms.positions,
            f"{name}/cell": atoms.cell.array,
            f"{name}/pbc": atoms.pbc,
            f"{name}/atom_energies": energies,
            f"{name}/forces": forces,
            f"{name}/frames": frames,
        }
        print(name, np.abs(energies).max(), np.sqrt((forces**2).mean()))
    np.savez_compressed(PATH, **arrays)


if __name__ == "__main__":
    main()
