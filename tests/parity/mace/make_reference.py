"""Makes reference.npz: weights, structures, energies and forces of mace-torch in float64.

Run in an environment of its own, then commit the result:

    pip install torch==2.13.0 && pip install mace-torch==0.3.16    # brings e3nn 0.4.4
    python make_reference.py

Everything is random: weights, the scale factors, the mean number of neighbours.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

# e3nn 0.4.4 stores slices in its table of constants; newer torch wants to be told.
torch.serialization.add_safe_globals([slice])

from e3nn import o3  # noqa: E402
from mace import data, modules  # noqa: E402
from mace.tools import AtomicNumberTable, torch_geometric  # noqa: E402

NUMBERS = (8, 14)
SETTINGS = {
    "cutoff": 4.5,
    "n_channels": 6,
    "hidden_l_max": 2,
    "l_max": 3,
    "correlation": 3,
    "n_layers": 2,
    "n_radial": 8,
    "envelope": 5,
    "radial_hidden": [12, 12, 12],
    "readout_hidden": 16,
}
MEAN_NEIGHBORS = 2.7
SCALE = 2.9


def structures() -> dict[str, Atoms]:
    """Crystal, amorphous, triclinic, two species, dimer, and a cell smaller than the cutoff."""
    rng = np.random.default_rng(7)
    crystal = bulk("Si", cubic=True)
    crystal.rattle(0.08, seed=1)
    cell = 8.2 * np.eye(3)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3) / 3
    amorphous = Atoms("Si27", scaled_positions=grid, cell=cell, pbc=True)
    amorphous.positions += rng.normal(scale=0.3, size=(27, 3))
    triclinic = bulk("Si") * (2, 1, 2)
    triclinic.set_cell(triclinic.cell[:] @ (np.eye(3) + 0.15 * rng.normal(size=(3, 3))), True)
    triclinic.rattle(0.1, seed=2)
    oxide = Atoms("Si6O12", cell=6.1 * np.eye(3), pbc=True)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3)[:18] / 3
    oxide.set_scaled_positions(grid[rng.permutation(18)])
    oxide.positions += rng.normal(scale=0.15, size=(18, 3))
    dimer = Atoms("SiO", positions=[[0, 0, 0], [0.7, 1.1, 1.0]])
    small = Atoms("SiO", cell=[[2.6, 0, 0], [0.4, 2.9, 0], [0.2, -0.5, 3.1]], pbc=True)
    small.set_scaled_positions([[0, 0, 0], [0.38, 0.55, 0.42]])
    return {
        "crystal": crystal,
        "amorphous": amorphous,
        "triclinic": triclinic,
        "two_species": oxide,
        "dimer": dimer,
        "small_cell": small,
    }


def build(settings: dict, mean_neighbors: float, numbers: tuple[int, ...]) -> torch.nn.Module:
    """The authors' model with random weights."""
    n = settings["n_channels"]
    degrees = range(settings["hidden_l_max"] + 1)
    hidden = "+".join(f"{n}x{d}{'eo'[d % 2]}" for d in degrees)
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    return modules.ScaleShiftMACE(
        r_max=settings["cutoff"],
        num_bessel=settings["n_radial"],
        num_polynomial_cutoff=settings["envelope"],
        max_ell=settings["l_max"],
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=settings["n_layers"],
        num_elements=len(numbers),
        hidden_irreps=o3.Irreps(hidden),
        MLP_irreps=o3.Irreps(f"{settings['readout_hidden']}x0e"),
        atomic_energies=np.zeros(len(numbers)),
        avg_num_neighbors=mean_neighbors,
        atomic_numbers=list(numbers),
        correlation=settings["correlation"],
        gate=torch.nn.functional.silu,
        radial_MLP=list(settings["radial_hidden"]),
        atomic_inter_scale=SCALE,
        atomic_inter_shift=0.0,
    )


def evaluate(model: torch.nn.Module, atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Per-atom energies (eV) and forces (eV/Å)."""
    table = AtomicNumberTable([int(z) for z in model.atomic_numbers])
    config = data.config_from_atoms(atoms)
    item = data.AtomicData.from_config(config, z_table=table, cutoff=float(model.r_max))
    batch = next(iter(torch_geometric.dataloader.DataLoader([item], batch_size=1)))
    out = model(batch.to_dict(), compute_force=True)
    return out["node_energy"].detach().numpy(), out["forces"].detach().numpy()


def main() -> None:
    """Write reference.npz and reference.json beside this script."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=here)
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(3)
    model = build(SETTINGS, MEAN_NEIGHBORS, NUMBERS)
    # The authors draw the weights of high body orders small; here they must matter.
    with torch.no_grad():
        for parameter in model.products.parameters():
            parameter.normal_()
    arrays = {f"weights/{k}": p.detach().numpy() for k, p in model.named_parameters()}
    for name, atoms in structures().items():
        energies, forces = evaluate(model, atoms)
        arrays |= {
            f"{name}/numbers": atoms.numbers,
            f"{name}/positions": atoms.positions,
            f"{name}/cell": atoms.cell[:],
            f"{name}/pbc": atoms.pbc,
            f"{name}/energies": energies,
            f"{name}/forces": forces,
        }
        print(f"{name}: largest force {np.abs(forces).max():.3f} eV/Å")
    np.savez_compressed(arguments.out / "reference.npz", **arrays)
    description = {
        "versions": {p: importlib.metadata.version(p) for p in ("mace-torch", "e3nn", "torch")},
        "class": "ScaleShiftMACE",
        "interaction": "RealAgnosticResidualInteractionBlock",
        "settings": SETTINGS,
        "numbers": NUMBERS,
        "mean_neighbors": MEAN_NEIGHBORS,
        "scale": SCALE,
        "silu_gain": float(model.interactions[0].conv_tp_weights[0].act.cst),
    }
    (arguments.out / "reference.json").write_text(json.dumps(description, indent=1) + "\n")


if __name__ == "__main__":
    main()
