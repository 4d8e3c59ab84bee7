"""mace-torch 0.3.16: `pip install torch==2.13.0`, then `pip install mace-torch==0.3.16`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

MEAN_NEIGHBORS = 80.0
CUTOFF = 6.0


def build(data: dict[str, torch.Tensor]) -> tuple[torch.nn.Module, Callable[..., Any]]:
    """mace-torch's model and `evaluate(training) -> energy, forces`."""
    numbers = data["numbers"].unique()
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
        num_elements=len(numbers),
        hidden_irreps=o3.Irreps("32x0e + 32x1o + 32x2e"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(numbers)),
        avg_num_neighbors=MEAN_NEIGHBORS,
        atomic_numbers=numbers.tolist(),
        correlation=3,
        gate=torch.nn.functional.silu,
        radial_MLP=[64, 64, 64],
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    cell = data["cell"][data["system"][data["center"]]]
    sizes = torch.bincount(data["system"])
    batch = {
        "node_attrs": (data["numbers"][:, None] == numbers).float(),
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
