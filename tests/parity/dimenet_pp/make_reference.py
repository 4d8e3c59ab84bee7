"""Writes `reference.npz`: energies and forces of PyTorch Geometric's DimeNet++, random weights.

Run from the root of the checkout, in an environment of its own:

    pip install torch==2.13.0 torch_geometric==2.8.1 ase==3.29.0 scipy sympy
    python -m tests.parity.dimenet_pp.make_reference

The package builds no periodic graphs, and its triplets leave out every image of the receiving
atom where only the reverse of the edge must go. So edges and triplets are found here by going
through all images, without siliforce's neighbour list, and the package's own layers are called as
its `forward` calls them. The roots of the Bessel functions, which the package rounds to float32,
are computed in float64.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from scipy.optimize import brentq
from scipy.special import spherical_jn

from tests.parity.schnet.make_reference import brute_force_pairs, structures

PATH = Path(__file__).with_name("reference.npz")
CONFIG = {
    "cutoff": 4.0,
    "hidden": 16,
    "out_hidden": 14,
    "interaction_hidden": 10,
    "basis_hidden": 5,
    "n_blocks": 2,
    "n_radial": 4,
    "n_spherical": 7,
    "n_before_skip": 1,
    "n_after_skip": 2,
    "n_readout": 2,
    "envelope": 6,
}
NUMBERS = (8, 14)


def bessel_roots(n_orders: int, n_roots: int) -> np.ndarray:
    """Roots of the spherical Bessel functions in float64, by scanning for changes of sign."""
    table = np.zeros((n_orders, n_roots))
    z = np.arange(1.0, 60.0, 0.05)
    for order in range(n_orders):
        values = spherical_jn(order, z)
        change = np.flatnonzero(values[:-1] * values[1:] < 0)[:n_roots]
        table[order] = [
            brentq(lambda t, order=order: spherical_jn(order, t), z[k], z[k + 1], xtol=1e-14)
            for k in change
        ]
    return table


@cache
def build() -> torch.nn.Module:
    """The package's model, every parameter random."""
    from torch_geometric.nn.models import DimeNetPlusPlus, dimenet_utils

    dimenet_utils.Jn_zeros = bessel_roots
    torch.manual_seed(0)
    model = DimeNetPlusPlus(
        hidden_channels=CONFIG["hidden"],
        out_channels=1,
        num_blocks=CONFIG["n_blocks"],
        int_emb_size=CONFIG["interaction_hidden"],
        basis_emb_size=CONFIG["basis_hidden"],
        out_emb_channels=CONFIG["out_hidden"],
        num_spherical=CONFIG["n_spherical"],
        num_radial=CONFIG["n_radial"],
        cutoff=CONFIG["cutoff"],
        envelope_exponent=CONFIG["envelope"] - 1,  # counted without the division by the length
        num_before_skip=CONFIG["n_before_skip"],
        num_after_skip=CONFIG["n_after_skip"],
        num_output_layers=CONFIG["n_readout"],
    ).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "rbf.freq":
                parameter.mul_(1 + 0.1 * torch.rand_like(parameter))
                continue
            fan_in = parameter.shape[-1] if parameter.ndim > 1 else 4.0
            parameter.copy_(torch.randn_like(parameter) * 1.2 / fan_in**0.5)
    return model


def triplets(pairs: np.ndarray, translations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges (kj, ji) of all triplets k -> j -> i; the edge of a triplet is not its own reverse."""
    incoming, outgoing = [], []
    for (ji, (i, j)), (kj, (jj, k)) in product(enumerate(pairs), repeat=2):
        if j != jj:
            continue
        back = k == i and np.abs(translations[ji] + translations[kj]).max() < 1e-9
        if not back:
            incoming.append(kj)
            outgoing.append(ji)
    return np.array(incoming, dtype=int), np.array(outgoing, dtype=int)


def evaluate(model: torch.nn.Module, atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Energies of the atoms, (n,), and forces, (n, 3)."""
    pairs, translations = brute_force_pairs(atoms, CONFIG["cutoff"])
    kj, ji = (torch.from_numpy(edges) for edges in triplets(pairs, translations))
    i, j = torch.from_numpy(pairs).T
    positions = torch.from_numpy(atoms.positions).requires_grad_()
    numbers = torch.from_numpy(atoms.numbers)
    towards = positions[i] - positions[j] - torch.from_numpy(translations)  # from j to i
    lengths = towards.norm(dim=1)
    dot = (towards[ji] * towards[kj]).sum(dim=1)
    angle = torch.atan2(torch.linalg.cross(towards[ji], towards[kj]).norm(dim=1), dot)
    rbf = model.rbf(lengths)
    sbf = model.sbf(lengths, angle, kj)
    x = model.emb(numbers, rbf, i, j)
    energy = model.output_blocks[0](x, rbf, i, num_nodes=len(atoms))
    for interaction, output in zip(model.interaction_blocks, model.output_blocks[1:], strict=True):
        x = interaction(x, rbf, sbf, kj, ji)
        energy = energy + output(x, rbf, i, num_nodes=len(atoms))
    (gradient,) = torch.autograd.grad(energy.sum(), positions, allow_unused=True)
    forces = torch.zeros_like(positions) if gradient is None else -gradient
    return energy.detach().squeeze(1).numpy(), forces.numpy()


def main() -> None:
    """Write the file."""
    model = build()
    arrays = {f"weight/{k}": v.numpy() for k, v in model.state_dict().items()}
    arrays["weight/emb.emb.weight"] = arrays["weight/emb.emb.weight"][list(NUMBERS)]
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
