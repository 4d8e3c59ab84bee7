"""SCN of fairchem-core 1.10.0, the authors' side of the speed comparison.

    pip install torch==2.13.0 e3nn==0.6.0
    pip install --no-deps fairchem-core==1.10.0

The package asks for an older torch and for compiled graph libraries; of it only the model's own
files run here, with a stand-in for the two names they import beside them. Pairs are given and
enter where the model asks for its graph. Sizes are those of our `paper` preset; the neighbours are
not capped.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch


def authors_model() -> Any:
    """The package's model class, imported without the rest of the package.

    Raises:
        ImportError: it, or e3nn, is not installed.
    """
    found = importlib.util.find_spec("fairchem")
    if found is None or found.submodule_search_locations is None:
        raise ImportError("fairchem-core is not installed")
    importlib.import_module("e3nn.o3")
    core = Path(next(iter(found.submodule_search_locations))) / "core"
    folders = {"": core, ".models": core / "models", ".common": core / "common"}
    for name, folder in folders.items():
        module = ModuleType(f"fairchem.core{name}")
        module.__path__ = [str(folder)]
        sys.modules[f"fairchem.core{name}"] = module
    sys.modules["fairchem.core.common.utils"] = utils = ModuleType("utils")
    sys.modules["fairchem.core.models.base"] = base = ModuleType("base")
    utils.conditional_grad = conditional  # type: ignore[attr-defined]
    base.GraphModelMixin = object  # type: ignore[attr-defined]
    return importlib.import_module("fairchem.core.models.scn.scn").SphericalChannelNetwork


def conditional(context: Any) -> Callable[..., Any]:
    """What the package's decorator of this name does where forces are predicted."""
    return lambda function: wraps(function)(context(function))


def build(data: dict[str, torch.Tensor]) -> tuple[torch.nn.Module, Callable[..., Any]]:
    """The package's model and `evaluate(training) -> energy, forces`."""
    center, neighbor, system = data["center"], data["neighbor"], data["system"]
    model = authors_model()(
        cutoff=6.0,
        max_num_neighbors=int(torch.bincount(center).max()),
        num_interactions=4,
        hidden_channels=64,
        sphere_channels=64,
        sphere_channels_reduce=64,
        num_sphere_samples=64,
        lmax=6,
        mmax=1,
        num_bands=2,
        num_resolutions=2,
        num_basis_functions=6,
        num_taps=3,
        use_grid=True,
        distance_function="gaussian",
        basis_width_scalar=2.0,
        distance_resolution=0.02,
    )
    translation = torch.einsum("es,esx->ex", data["shifts"], data["cell"][system[center]])

    def graph(frames: Any) -> SimpleNamespace:
        vectors = (data["positions"][neighbor] + translation - data["positions"][center]).float()
        return SimpleNamespace(
            edge_index=torch.stack([neighbor, center]),
            edge_distance=vectors.norm(dim=1),
            edge_distance_vec=vectors,
        )

    model.generate_graph = graph
    frames = SimpleNamespace(
        pos=data["positions"].float(),
        atomic_numbers=data["numbers"],
        natoms=torch.bincount(system),
        batch=system,
    )

    def evaluate(training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.set_grad_enabled(training):
            answer = model(frames)
        return answer["energy"], answer["forces"]

    return model, evaluate
