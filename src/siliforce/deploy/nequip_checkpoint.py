"""Checkpoints of nequip's training script, of NequIP and Allegro -> potentials.

A checkpoint holds the arguments of the model and its weights, but not the defaults of arguments
that were left out: those are known for the releases named here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siliforce.deploy.allegro import from_allegro
from siliforce.deploy.nequip import from_nequip, is_constant
from siliforce.errors import ModelFileError
from siliforce.models import Model, ModelConfig
from siliforce.models.allegro import Allegro
from siliforce.models.nequip import NequIP
from siliforce.potential import Potential
from siliforce.species import Species

Mapped = tuple[ModelConfig, dict[str, Tensor]]

BUILDERS: dict[str, tuple[type[Model], Callable[[dict[str, Any], dict[str, Tensor]], Mapped]]] = {
    "nequip.model.NequIPGNNModel": (NequIP, from_nequip),
    "allegro.model.AllegroModel": (Allegro, from_allegro),
}
"""Whose settings are known, by the `_target_` of a model."""

RELEASES = {"nequip": "0.19", "allegro": "0.8"}
"""Whose defaults are known."""

DTYPES = {"float32": torch.float32, "float64": torch.float64}
MODEL, AVERAGE = "model.sole_model.", "ema.ema_weight_"


def is_checkpoint(content: Any) -> bool:
    """Whether a file's content is a checkpoint of PyTorch Lightning with settings."""
    return isinstance(content, dict) and {"hyper_parameters", "state_dict"} <= content.keys()


def nequip_potential(checkpoint: Mapping[str, Any]) -> tuple[Potential, dict[str, str]]:
    """The same energies, forces and stress; and what made the file, with releases.

    Where the training kept an average of the weights, that is taken, as the package does.

    Raises:
        ModelFileError: layers, settings or weights that siliforce's models do not have, by name.
    """
    settings = checkpoint["hyper_parameters"]["model"]
    target = settings["_target_"]
    if target not in BUILDERS:
        raise ModelFileError(f"the model was made by '{target}'; known are {', '.join(BUILDERS)}")
    package = target.split(".")[0]
    versions = checkpoint["hyper_parameters"]["info_dict"]["versions"]
    for name in {"nequip", package}:
        if not str(versions[name]).startswith(f"{RELEASES[name]}."):
            raise ModelFileError(
                f"written by {name} {versions[name]}; what a checkpoint leaves out is known for "
                f"{RELEASES[name]} only"
            )
    model_class, mapping = BUILDERS[target]
    config, tensors = mapping(settings, model_weights(checkpoint["state_dict"], settings))
    species = Species.from_symbols(settings["type_names"])
    model = model_class(config, len(species)).double()
    potential = Potential(model, species, np.zeros(len(species)), pin_isolated=False)
    potential.load_state_dict(tensors)
    dtype = DTYPES[settings["model_dtype"]]
    origin = {"package": package, "class": target, "version": str(versions[package])}
    return potential.set_dtype(dtype).eval(), origin


def model_weights(state: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """State dict of the model alone, averaged where the training did.

    Raises:
        ModelFileError: several models, or averages that do not fit the weights.
    """
    every = {k: v for k, v in state.items() if k.startswith("model.")}
    others = sorted({k.split(".")[1] for k in every if not k.startswith(MODEL)})
    if others:
        raise ModelFileError(f"several models in one file: {', '.join(others)}")
    model = {k.removeprefix(MODEL): v for k, v in every.items()}
    if not any(k.startswith(AVERAGE) for k in state):
        return model
    trained = [k for k, v in model.items() if v.numel() and is_trained(k, settings)]
    averages = [state[f"{AVERAGE}{k}"] for k in range(sum(k.startswith(AVERAGE) for k in state))]
    if [model[k].shape for k in trained] != [v.shape for v in averages]:
        raise ModelFileError("the averaged weights are not those of the model")
    if not state["ema._extra_state"]["is_holding_ema_weights"]:
        return model  # they are swapped while the package validates
    return model | dict(zip(trained, averages, strict=True))


def is_trained(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether a tensor is a parameter: averages are kept of these, in their order."""
    radial = {**settings, **settings.get("radial_chemical_embed", {})}
    fixed = [
        end
        for end, option in (
            ("bessel_weights", "bessel_trainable"),
            ("scale_shift.scales", "per_type_energy_scales_trainable"),
            ("scale_shift.shifts", "per_type_energy_shifts_trainable"),
        )
        if not radial.get(option)
    ]
    return not (is_constant(name) or name.endswith((".w3j", *fixed)))
