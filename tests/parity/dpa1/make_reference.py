"""Writes `reference.npz`: energies and forces of deepmd-kit's DPA-1 with random weights.

Run from the root of the checkout, in an environment of its own:

    pip install torch==2.13.0 mpich ase==3.29.0 e3nn numpy scipy pyyaml dargs h5py wcmatch einops \
        packaging ml_dtypes mendeleev array-api-compat lmdb msgpack
    pip install --no-deps deepmd-kit==3.2.0
    rm $VIRTUAL_ENV/lib/python3*/site-packages/deepmd/lib/libdeepmd_op_pt.so
    python -m tests.parity.dpa1.make_reference

The wheel's compiled operators are built for another torch; the PyTorch backend runs without them.
The pairs are found by going through all images; every pair has a ghost atom of its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from tests.parity.schnet.make_reference import brute_force_pairs, structures

PATH = Path(__file__).with_name("reference.npz")
CONFIG = {
    "cutoff": 4.0,
    "smooth_from": 0.5,
    "embedding": [6, 12, 12],
    "axis": 4,
    "type_width": 5,
    "attention_width": 10,
    "n_layers": 2,
    "fitting": [20, 20, 20],
}
"""Layers with no, a doubled and a plain skip connection; a type width that has none."""
SEL = 45
"""More than any atom's neighbours, so that slots stay empty."""
NUMBERS = (8, 14)


def build() -> tuple[torch.nn.Module, torch.nn.Module]:
    """The package's descriptor and fitting net, every parameter random."""
    from deepmd.pt.model.descriptor.dpa1 import DescrptDPA1
    from deepmd.pt.model.task.ener import EnergyFittingNet

    elements = ["O", "Si"]
    descriptor = DescrptDPA1(
        CONFIG["cutoff"],
        CONFIG["smooth_from"],
        SEL,
        len(NUMBERS),
        neuron=CONFIG["embedding"],
        axis_neuron=CONFIG["axis"],
        tebd_dim=CONFIG["type_width"],
        attn=CONFIG["attention_width"],
        attn_layer=CONFIG["n_layers"],
        attn_dotr=True,
        smooth_type_embedding=True,
        set_davg_zero=True,
        precision="float64",
        type_map=elements,
    )
    fitting = EnergyFittingNet(
        len(NUMBERS),
        descriptor.get_dim_out(),
        neuron=CONFIG["fitting"],
        resnet_dt=True,
        mixed_types=True,
        precision="float64",
        type_map=elements,
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in [*descriptor.named_parameters(), *fitting.named_parameters()]:
            fan_in = parameter.shape[0] if parameter.ndim > 1 else 2.0
            parameter.copy_(torch.randn_like(parameter) * 1.4 / fan_in**0.5)
            if "norm.matrix" in name or "idt" in name:
                parameter.add_(1.0)
        # The descriptor, divided by SEL squared, is small beside the features of the element.
        first = fitting.filter_layers.networks[0].layers[0].matrix
        first[: -CONFIG["type_width"]] *= 13.0
        radial, angular = 0.1 + 0.3 * torch.rand(2, len(NUMBERS), 1, 1, dtype=torch.float64)
        deviation = torch.cat([radial, angular.expand(-1, -1, 3)], dim=2)
        descriptor.se_atten.stddev.copy_(deviation.expand(-1, SEL, -1))
    return descriptor.eval(), fitting.eval()


def evaluate(
    model: tuple[torch.nn.Module, torch.nn.Module], atoms: Atoms
) -> tuple[np.ndarray, np.ndarray]:
    """Energies of the atoms, (n,), and forces, (n, 3)."""
    descriptor, fitting = model
    pairs, translations = brute_force_pairs(atoms, CONFIG["cutoff"])
    center, neighbor = torch.from_numpy(pairs).T
    nlist = torch.full((len(atoms), SEL), -1)
    for i in range(len(atoms)):
        ghosts = torch.where(center == i)[0] + len(atoms)
        assert len(ghosts) <= SEL
        nlist[i, : len(ghosts)] = ghosts
    types = torch.tensor([NUMBERS.index(z) for z in atoms.numbers])
    positions = torch.from_numpy(atoms.positions).requires_grad_()
    everywhere = torch.cat([positions, positions[neighbor] + torch.from_numpy(translations)])
    all_types = torch.cat([types, types[neighbor]])
    described = descriptor(everywhere[None], all_types[None], nlist[None])[0]
    energy = fitting(described, types[None])["energy"][0, :, 0]
    (gradient,) = torch.autograd.grad(energy.sum(), positions, allow_unused=True)
    forces = torch.zeros_like(positions) if gradient is None else -gradient
    return energy.detach().numpy(), forces.numpy()


def main() -> None:
    """Write the file."""
    model = build()
    arrays = {}
    for part, module in zip(("descriptor", "fitting"), model, strict=True):
        arrays |= {f"weight/{part}.{k}": v.numpy() for k, v in module.state_dict().items()}
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
