"""Writes `reference.npz`: energies and forces of the authors' GemNet with random weights.

Run from the root of the checkout, in an environment of its own:

    pip install torch==2.13.0 torch_geometric==2.8.1 ase==3.29.0 sympy scipy matplotlib tqdm \
        pyyaml xxhash requests psutil aiohttp
    pip install --no-deps fairchem-core==1.10.0
    python -m tests.parity.gemnet.make_reference

fairchem-core 1.10.0 asks for an older torch and for torch-scatter and torch-sparse, which have no
wheels for this one; the operations its model needs of them are those of the speed comparison.
Pairs are found by going through all images, without siliforce's neighbour list, and handed to the
model in float64, where the package rounds lattice translations to float32. Its Bessel frequencies
are weights and random like all others. The package refuses structures without edges or without
angles: a bent molecule stands for the isolated atom and the dimer of other models' references.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from tests.structures import STRUCTURES

PATH = Path(__file__).with_name("reference.npz")
CONFIG = {
    "cutoff": 4.0,
    "n_layers": 2,
    "atom_width": 9,
    "edge_width": 10,
    "triplet_width": 6,
    "bilinear_width": 7,
    "rbf_width": 5,
    "cbf_width": 4,
    "n_radial": 3,
    "n_spherical": 5,
    "envelope": 5,
    "n_before_skip": 1,
    "n_after_skip": 2,
    "n_concat": 1,
    "n_atom": 1,
}
NUMBERS = (8, 14)
MODELS = {"gemnet_t": False, "gemnet_dt": True}
"""Our name -> whether forces are direct."""
FITTED_ON = ("crystal", "amorphous", "self_images")
"""Structures of the batch on which scale factors are fitted."""


def structures() -> dict[str, Atoms]:
    """The structures of the contract test that have edges, and a bent molecule."""
    molecule = Atoms("SiO2", positions=[[0.1, 0.2, 0.3], [1.2, 1.1, 1.0], [-1.3, 1.0, 0.2]])
    made = {"molecule": molecule} | {name: make() for name, make in STRUCTURES.items()}
    del made["isolated"]
    return made


def brute_force_pairs(atoms: Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """(center, neighbor) indices, (n, 2), and images of the neighbor, (n, 3)."""
    pairs, images = [], []
    reach = [range(-3, 4) if periodic else range(1) for periodic in atoms.pbc]
    for shift in product(*reach):
        translation = np.array(shift) @ atoms.cell.array
        for i, j in product(range(len(atoms)), repeat=2):
            distance = np.linalg.norm(atoms.positions[j] + translation - atoms.positions[i])
            if 0 < distance < cutoff:
                pairs.append((i, j))
                images.append(shift)
    return np.array(pairs, dtype=int).reshape(-1, 2), np.array(images).reshape(-1, 3)


def build(direct: bool) -> Any:
    """The package's model, every parameter and scale factor random."""
    from benchmarks.authors.gemnet_t import stand_ins

    stand_ins()
    from fairchem.core.models.gemnet.gemnet import GemNetT  # type: ignore[import-not-found]

    torch.manual_seed(int(direct))
    c = CONFIG
    model = GemNetT(
        num_spherical=c["n_spherical"],
        num_radial=c["n_radial"],
        num_blocks=c["n_layers"],
        emb_size_atom=c["atom_width"],
        emb_size_edge=c["edge_width"],
        emb_size_trip=c["triplet_width"],
        emb_size_rbf=c["rbf_width"],
        emb_size_cbf=c["cbf_width"],
        emb_size_bil_trip=c["bilinear_width"],
        num_before_skip=c["n_before_skip"],
        num_after_skip=c["n_after_skip"],
        num_concat=c["n_concat"],
        num_atom=c["n_atom"],
        cutoff=c["cutoff"],
        direct_forces=direct,
        rbf={"name": "spherical_bessel"},
        envelope={"name": "polynomial", "exponent": c["envelope"]},
        cbf={"name": "spherical_harmonics"},
    ).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if "scale_factor" in name:
                parameter.copy_(1.5 + 0.3 * noise)
            elif "frequencies" in name:
                parameter.add_(0.3 * noise)
            else:
                parameter.copy_(noise * 1.2 / parameter[0].numel() ** 0.5)
    return model


def batch_of(batch: Sequence[Atoms]) -> tuple[Any, Any]:
    """What the package's model reads, and the function that makes its graph."""
    from fairchem.core.models.base import GraphData  # type: ignore[import-not-found]

    found = [brute_force_pairs(atoms, CONFIG["cutoff"]) for atoms in batch]
    offsets = np.cumsum([0, *(len(atoms) for atoms in batch)])
    pairs = np.concatenate([p + o for (p, _), o in zip(found, offsets, strict=False)])
    center, neighbor = torch.from_numpy(pairs).T
    shifts = torch.from_numpy(np.concatenate([images for _, images in found]))
    translation = torch.from_numpy(
        np.concatenate([images @ a.cell.array for (_, images), a in zip(found, batch, strict=True)])
    )

    def generate_graph(data: Any) -> Any:
        vectors = data.pos[neighbor] + translation - data.pos[center]
        return GraphData(
            edge_index=torch.stack([neighbor, center]),
            edge_distance=vectors.norm(dim=-1),
            edge_distance_vec=vectors,
            cell_offsets=shifts,
            offset_distances=translation,
            neighbors=torch.tensor([len(p) for p, _ in found]),
            batch_full=data.batch,
            atomic_numbers_full=data.atomic_numbers,
        )

    data = SimpleNamespace(
        pos=torch.from_numpy(np.concatenate([atoms.positions for atoms in batch])),
        atomic_numbers=torch.from_numpy(np.concatenate([atoms.numbers for atoms in batch])),
        batch=torch.repeat_interleave(torch.tensor([len(atoms) for atoms in batch])),
    )
    return data, generate_graph


def evaluate(model: Any, batch: Sequence[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    """Energies of the atoms, (n,), and forces, (n, 3)."""
    data, model.generate_graph = batch_of(batch)
    captured: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda *args: captured.append(args[-1][0].detach().clone()))
        for block in model.out_blocks
    ]
    answer = model(data)
    for hook in hooks:
        hook.remove()
    return torch.stack(captured).sum(0).squeeze(1).numpy(), answer["forces"].detach().numpy()


def fitted(model: Any, batch: Sequence[Atoms]) -> dict[str, np.ndarray]:
    """Scale factors as the package's script fits them, one after the other on one batch."""
    from fairchem.core.modules.scaling import ScaleFactor  # type: ignore[import-not-found]

    factors = {n: m for n, m in model.named_modules() if isinstance(m, ScaleFactor)}
    order: list[str] = []
    for name, factor in factors.items():
        factor.reset_()
        factor.initialize_(index_fn=lambda name=name: order.append(name))
    evaluate(model, batch)
    for name in order.copy():
        with factors[name].fit_context_():
            evaluate(model, batch)
            factors[name].fit_()
    return {f"{n}.scale_factor": f.scale_factor.numpy().copy() for n, f in factors.items()}


def main() -> None:
    """Write the file."""
    arrays: dict[str, np.ndarray] = {}
    for kind, direct in MODELS.items():
        model = build(direct)
        weights = {k: v.detach().numpy().copy() for k, v in model.named_parameters()}
        rows = [z - 1 for z in NUMBERS]
        weights["atom_emb.embeddings.weight"] = weights["atom_emb.embeddings.weight"][rows]
        arrays |= {f"{kind}/weight/{k}": v for k, v in weights.items()}
        for name, atoms in structures().items():
            energies, forces = evaluate(model, [atoms])
            arrays[f"{kind}/{name}/atom_energies"] = energies
            arrays[f"{kind}/{name}/forces"] = forces
        factors = fitted(model, [structures()[name] for name in FITTED_ON])
        arrays |= {f"{kind}/fitted/{k}": v for k, v in factors.items()}
    for name, atoms in structures().items():
        arrays |= {
            f"structure/{name}/numbers": atoms.numbers,
            f"structure/{name}/positions": atoms.positions,
            f"structure/{name}/cell": atoms.cell.array,
            f"structure/{name}/pbc": atoms.pbc,
        }
    np.savez_compressed(PATH, **arrays)


if __name__ == "__main__":
    main()
