"""MACE, `paper` sizes, against mace-torch's: time and peak memory on one machine.

    python benchmarks/mace.py --other ENV/bin/python --threads 1

`ENV` holds mace-torch (`pip install torch==2.13.0`, then `pip install mace-torch==0.3.16`). Both
run in processes of their own, in turn, on the same pairs of rattled cubic HfO2 (96 atoms, 6 Å, no
labels needed), in float32, both eager: energy and forces of one frame, and one training step
(energy and force loss, Adam) of a batch of four. The pairs are given; building them is not timed.
`--compiled` adds ours through torch.compile, energy and forces only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Run as a script by both interpreters; its own folder must not hide the package `mace`.
HERE = Path(__file__).resolve().parent
sys.path[:] = [*[p for p in sys.path if Path(p or ".").resolve() != HERE], str(HERE)]

from side_by_side import main  # noqa: E402

NUMBERS = (8, 72)
MEAN_NEIGHBORS = 80.0
CUTOFF = 6.0


def siliforce_side(data: dict[str, torch.Tensor]) -> tuple[torch.nn.Module, Callable[..., Any]]:
    """Our model and `evaluate(training) -> energy, forces`."""
    from siliforce.graph import assemble
    from siliforce.models.mace import MACE
    from siliforce.potential import Potential
    from siliforce.species import Species

    model = MACE(MACE.presets["paper"], len(NUMBERS), MEAN_NEIGHBORS)
    assert model.config.cutoff == CUTOFF
    potential = Potential(model, Species(NUMBERS), [0.0, 0.0])
    graph = assemble(
        numbers=data["numbers"],
        positions=data["positions"],
        sizes=torch.bincount(data["system"]),
        cell=data["cell"],
        pbc=torch.ones(len(data["cell"]), 3, dtype=torch.bool),
        center=data["center"],
        neighbor=data["neighbor"],
        cell_shifts=data["shifts"],
        topology=MACE.needs,
    )

    def evaluate(training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        answer = potential(graph.moved(data["positions"]), create_graph=training)
        return answer.energy.float(), answer.forces

    return potential, evaluate


def mace_torch_side(data: dict[str, torch.Tensor]) -> tuple[torch.nn.Module, Callable[..., Any]]:
    """mace-torch's model and `evaluate(training) -> energy, forces`."""
    # e3nn 0.4.4 stores slices in its table of constants; newer torch wants to be told.
    torch.serialization.add_safe_globals([slice])
    from e3nn import o3
    from mace import modules

    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    model = modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=2,
        num_elements=len(NUMBERS),
        hidden_irreps=o3.Irreps("32x0e + 32x1o + 32x2e"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(NUMBERS)),
        avg_num_neighbors=MEAN_NEIGHBORS,
        atomic_numbers=list(NUMBERS),
        correlation=3,
        gate=torch.nn.functional.silu,
        radial_MLP=[64, 64, 64],
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    cell = data["cell"][data["system"][data["center"]]]
    sizes = torch.bincount(data["system"])
    batch = {
        "node_attrs": (data["numbers"][:, None] == torch.tensor(NUMBERS)).float(),
        "edge_index": torch.stack([data["neighbor"], data["center"]]),
        # Their vectors run from the neighbour to the center.
        "shifts": -torch.einsum("es,esx->ex", data["shifts"], cell).float(),
        "unit_shifts": -data["shifts"].float(),
        "cell": data["cell"].float().reshape(-1, 3),
        "batch": data["system"],
        "ptr": torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]),
    }

    def evaluate(training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        positions = data["positions"].float().requires_grad_()
        answer = model(batch | {"positions": positions}, training=training, compute_force=True)
        return answer["energy"], answer["forces"]

    return model, evaluate


if __name__ == "__main__":
    sides = {"siliforce": siliforce_side, "mace_torch": mace_torch_side}
    main(Path(__file__), "mace_torch", sides, CUTOFF)
