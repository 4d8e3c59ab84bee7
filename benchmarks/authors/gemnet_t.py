"""fairchem-core 1.10.0's GemNet-T.

    pip install torch==2.13.0 torch_geometric==2.8.1 ase==3.29.0 sympy scipy matplotlib tqdm \
        pyyaml xxhash requests psutil aiohttp
    pip install --no-deps fairchem-core==1.10.0

fairchem-core 1.10.0 asks for torch-scatter and torch-sparse, which have no wheels for this torch;
the operations its GemNet needs of them are written here with torch's own. As in its training, the
triplets are listed in every evaluation; pairs are given.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import distribution
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor


def build(
    data: dict[str, Tensor], direct: bool = False
) -> tuple[torch.nn.Module, Callable[[bool], tuple[Tensor, Tensor]]]:
    """The package's model, forces direct or not, and `evaluate(training) -> energy, forces`."""
    stand_ins()
    from fairchem.core.models.base import GraphData  # type: ignore[import-not-found]
    from fairchem.core.models.gemnet.gemnet import GemNetT  # type: ignore[import-not-found]

    center, neighbor, shifts = data["center"], data["neighbor"], data["shifts"]
    translation = torch.einsum("es,esx->ex", shifts, data["cell"][data["system"][center]]).float()
    n_systems = len(data["cell"])

    def generate_graph(frames: Any) -> Any:
        vectors = frames.pos[neighbor] + translation - frames.pos[center]
        return GraphData(
            edge_index=torch.stack([neighbor, center]),
            edge_distance=vectors.norm(dim=-1),
            edge_distance_vec=vectors,
            cell_offsets=shifts.long(),
            offset_distances=translation,
            neighbors=torch.bincount(data["system"][center], minlength=n_systems),
            batch_full=frames.batch,
            atomic_numbers_full=frames.atomic_numbers,
        )

    model = GemNetT(
        num_spherical=7,
        num_radial=6,
        num_blocks=4,
        emb_size_atom=128,
        emb_size_edge=128,
        emb_size_trip=64,
        emb_size_rbf=16,
        emb_size_cbf=16,
        emb_size_bil_trip=64,
        num_before_skip=1,
        num_after_skip=1,
        num_concat=1,
        num_atom=2,
        cutoff=6.0,
        direct_forces=direct,
        rbf={"name": "spherical_bessel"},
        envelope={"name": "polynomial", "exponent": 5},
        cbf={"name": "spherical_harmonics"},
    )
    model.generate_graph = generate_graph

    def evaluate(training: bool) -> tuple[Tensor, Tensor]:
        # The package's derivatives can always be differentiated again; inference frees them.
        with torch.set_grad_enabled(training or not direct):
            answer = model(
                SimpleNamespace(
                    pos=data["positions"].float(),
                    atomic_numbers=data["numbers"],
                    batch=data["system"],
                )
            )
        return answer["energy"].squeeze(1), answer["forces"]

    return model, evaluate


def stand_ins() -> None:
    """Make the package's GemNet importable without torch-scatter, torch-sparse and its extras."""
    for name, members in (
        ("torch_scatter", {"scatter": _scatter, "segment_csr": _segment_csr, "segment_coo": None}),
        ("torch_sparse", {"SparseTensor": _SparseTensor}),
    ):
        sys.modules.setdefault(name, ModuleType(name)).__dict__.update(members)
    package = distribution("fairchem-core")
    # Their __init__ files import what only the package's data sets and downloads need.
    for name in ("fairchem.core", "fairchem.core.models"):
        module = ModuleType(name)
        module.__path__ = [str(package.locate_file(name.replace(".", "/")))]
        module.__dict__["__version__"] = package.version
        sys.modules.setdefault(name, module)


def _scatter(values: Tensor, index: Tensor, dim: int, dim_size: int, reduce: str = "sum") -> Tensor:
    """Sum of the rows that go to the same place."""
    assert dim == 0
    assert reduce in ("add", "sum")
    return values.new_zeros(int(dim_size), *values.shape[1:]).index_add(0, index, values)


def _segment_csr(values: Tensor, pointer: Tensor, reduce: str = "sum") -> Tensor:
    """Sums of consecutive runs."""
    return torch.cat([values.new_zeros(1), values.cumsum(0)])[pointer].diff()


class _SparseTensor:
    """A matrix given by its entries, of which rows can be selected."""

    def __init__(self, row: Tensor, col: Tensor, value: Tensor, sparse_sizes: tuple[int, int]):
        order = torch.argsort(row * sparse_sizes[1] + col, stable=True)
        self.values = value[order]
        rows = torch.arange(sparse_sizes[0] + 1, device=row.device)
        self.start = torch.searchsorted(row[order], rows)

    def __getitem__(self, rows: Tensor) -> SimpleNamespace:
        counts = self.start.diff()[rows]
        row = torch.repeat_interleave(counts)
        first = torch.repeat_interleave(self.start[rows] - counts.cumsum(0) + counts, counts)
        values = self.values[first + torch.arange(len(row), device=row.device)]
        return SimpleNamespace(storage=SimpleNamespace(value=lambda: values, row=lambda: row))
