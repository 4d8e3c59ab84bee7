"""Weights of the nequip-allegro package -> weights of siliforce's Allegro."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from siliforce.deploy.nequip import (
    Options,
    bessel_functions,
    energy_scale,
    is_constant,
)
from siliforce.deploy.weights import Weights
from siliforce.models.allegro import AllegroConfig

SUPPORTED = {
    "per_edge_type_cutoff": None,
    "pair_potential": None,
    "scalar_embed_mlp_nonlinearity": "silu",
    "allegro_mlp_hidden_layers_depth": 1,
    "allegro_mlp_nonlinearity": "silu",
    "readout_mlp_hidden_layers_depth": 1,
    "readout_mlp_nonlinearity": "silu",
    "tp_path_channel_coupling": True,
    "weight_individual_irreps": True,
    "forward_normalize": True,
}
"""Arguments that are known with one value only."""

EMBEDDING = "allegro.nn.TwoBodyBesselScalarEmbed"


def from_allegro(
    config: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[AllegroConfig, dict[str, Tensor]]:
    """Configuration and weights of the same function.

    Args:
        config: arguments of `AllegroModel`, defaults left out or not.
        state: its state dict.

    Returns:
        Our configuration, and the state dict of a `Potential` around our model, `species` in the
        order of the package's `type_names`.

    Raises:
        ModelFileError: something unknown or unsupported, by name.
    """
    options = Options(config, SUPPORTED)
    weights = Weights(state, "model.func.")
    embedding = options.take("radial_chemical_embed", {})
    options.require("radial_chemical_embed", EMBEDDING, embedding.get("_target_"))
    radial = Options(embedding, {})
    n_scalars = options.take("num_scalar_features", 64)
    embedded = options.take("radial_chemical_embed_dim")
    ours = AllegroConfig(
        cutoff=options.take("r_max"),
        n_scalars=n_scalars,
        n_channels=options.take("num_tensor_features", 16),
        l_max=options.take("l_max"),
        parity=options.take("parity", True),
        n_layers=options.take("num_layers", 2),
        n_radial=radial.take("num_bessels", 8),
        trainable_radial=radial.take("bessel_trainable", False),
        envelope=radial.take("polynomial_cutoff_p", 6),
        n_embedding=n_scalars if embedded is None else embedded,
        embed_hidden=(options.take("scalar_embed_mlp_hidden_layers_width", 64),)
        * options.take("scalar_embed_mlp_hidden_layers_depth", 1),
        latent_hidden=options.take("allegro_mlp_hidden_layers_width", 64),
        readout_hidden=options.take("readout_mlp_hidden_layers_width", 32),
    )
    n_species = len(options.take("type_names"))
    out = {"model.mean_neighbors": options.tensor("avg_num_neighbors")}
    out |= energy_scale(options, weights, n_species)
    options.finish()
    radial.finish()
    two_body = "radial_chemical_embed.type_embed"
    out["model.center_types.weight"] = weights.take(f"{two_body}.center_embed.weight")
    out["model.neighbor_types.weight"] = weights.take(f"{two_body}.neighbor_embed.weight")
    out |= bessel_functions(
        weights, "radial_chemical_embed.bessel_encode", ours.trainable_radial, ours.n_radial
    )
    n_hidden = len(ours.embed_hidden)
    out |= network(weights, f"{two_body}.basis_linear", "radial", 0)
    out |= network(weights, "scalar_embed_mlp.mlp_module", "embed", n_hidden)
    out |= network(weights, "tensor_embed.env_embed_linear", "tensor_weights", 0)
    out |= network(weights, "allegro.first_layer_env_embed_projection", "project", 0)
    for k in range(ours.n_layers):
        out |= network(weights, f"allegro.latents.{k}", f"latents.{k}", 1)
        out[f"model.products.{k}.weights"] = weights.take(f"allegro.tps.{k}.weights").t()
    out |= network(weights, "edge_readout.mlp_module", "readout", 1)
    scalars = {"tensor_weights.weights.0": 0}
    scalars |= {"project.weights.0": n_scalars}
    scalars |= {f"latents.{k}.weights.1": n_scalars for k in range(ours.n_layers - 1)}
    for name, start in scalars.items():
        out[f"model.{name}"] = by_degree(out[f"model.{name}"], start, ours.l_max + 1)
    weights.finish(lambda name: is_constant(name) or name.endswith(".w3j"))
    return ours, {k: v.double() for k, v in out.items()}


def network(weights: Weights, theirs: str, ours: str, n_hidden: int) -> dict[str, Tensor]:
    """All layers of a perceptron; activations stand between them in the package's list."""
    return {
        f"model.{ours}.weights.{k}": weights.take(f"{theirs}.mlp.{2 * k}.weight")
        for k in range(n_hidden + 1)
    }


def by_degree(matrix: Tensor, start: int, n_degrees: int) -> Tensor:
    """Columns from `start`, sorted by channel, then degree, in the package: the other way round."""
    columns = matrix[:, start:].unflatten(1, (-1, n_degrees)).transpose(1, 2).flatten(1)
    return torch.cat([matrix[:, :start], columns], dim=1)
