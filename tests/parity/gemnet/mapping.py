"""Weights of fairchem-core's GemNetT as ours: which name there is which name here."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_FORCES = "outputs.{0}.force"
_RULES = {
    r"radial_basis\.rbf\.frequencies": "bessel.frequencies",
    r"cbf_basis3\.radial_basis\.rbf\.frequencies": "angle_bessel.frequencies",
    r"mlp_rbf3\.linear\.weight": "project_triplet.weight",
    r"mlp_rbf_h\.linear\.weight": "project_atom.weight",
    r"mlp_rbf_out\.linear\.weight": "project_output.weight",
    r"mlp_cbf3\.weight": "project_angle",
    r"atom_emb\.embeddings\.weight": "embedding.weight",
    r"edge_emb\.dense\.linear\.weight": "edge_embedding.layer.weight",
    r"int_blocks\.(\d+)\.dense_ca\.linear\.weight": "interactions.{0}.keep.weight",
    r"int_blocks\.(\d+)\.concat_layer\.dense\.linear\.(.+)": "interactions.{0}.concat.layer.{1}",
    r"int_blocks\.(\d+)\.trip_interaction\.(.+)": "interactions.{0}.triplets.{1}",
    r"int_blocks\.(\d+)\.atom_update\.(.+)": "interactions.{0}.atom_update.{1}",
    r"int_blocks\.(\d+)\.layers_before_skip\.(\d+)\.(.+)": "interactions.{0}.before_skip.{1}.{2}",
    r"int_blocks\.(\d+)\.layers_after_skip\.(\d+)\.(.+)": "interactions.{0}.after_skip.{1}.{2}",
    r"int_blocks\.(\d+)\.residual_m\.(\d+)\.(.+)": "interactions.{0}.after_concat.{1}.{2}",
    r"out_blocks\.(\d+)\.out_energy\.linear\.weight": "outputs.{0}.energy.weight",
    r"out_blocks\.(\d+)\.seq_forces\.(.+)": _FORCES + ".layers.{1}",
    r"out_blocks\.(\d+)\.dense_rbf_F\.linear\.weight": _FORCES + ".filter.weight",
    r"out_blocks\.(\d+)\.scale_rbf_F\.scale_factor": _FORCES + ".scale.value",
    r"out_blocks\.(\d+)\.out_forces\.linear\.weight": _FORCES + ".leave.weight",
    r"out_blocks\.(\d+)\.(dense_rbf|scale_sum|layers)\.(.+)": "outputs.{0}.atom_update.{1}.{2}",
}
"""Whole name there -> name here, which may still hold a part that `_PARTS` knows."""
_PARTS = {
    "dense_ba.linear.weight": "enter.weight",
    "mlp_rbf.linear.weight": "filter.weight",
    "scale_rbf.scale_factor": "scale_filter.value",
    "mlp_cbf.weight": "bilinear",
    "scale_cbf_sum.scale_factor": "scale_sum.value",
    "down_projection.linear.weight": "down.weight",
    "up_projection_ca.linear.weight": "up.weight",
    "up_projection_ac.linear.weight": "up_reverse.weight",
    "dense_rbf.linear.weight": "filter.weight",
    "scale_sum.scale_factor": "scale.value",
    "layers.0.linear.weight": "enter.weight",
    "dense_mlp.0.linear.weight": "first.weight",
    "dense_mlp.1.linear.weight": "second.weight",
}


def renamed(name: str) -> str:
    """Our name of one of the package's weights.

    Raises:
        KeyError: no such weight here.
    """
    for pattern, target in _RULES.items():
        if match := re.fullmatch(pattern, name):
            new = target.format(*match.groups())
            # The first layer of these networks is called `enter` here, the residual ones count
            # from 0.
            if found := re.fullmatch(r"(.+)\.layers\.([1-9]\d*)\.(.+)", new):
                head, k, tail = found.groups()
                new = f"{head}.residuals.{int(k) - 1}.{tail}"
            for part, ours in _PARTS.items():
                if new.endswith("." + part):
                    return new.removesuffix(part) + ours
            return new
    raise KeyError(f"{name} is not a weight of GemNet-T or GemNet-dT")


def converted(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights under our names.

    Raises:
        KeyError: a name is not known.
        ValueError: two become one.
    """
    out: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if (ours := renamed(name)) in out:
            raise ValueError(f"{name} is a second {ours}")
        out[ours] = weight
    return out
