"""A model with its elements, energies and units: what ASE, training and MD talk to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from siliforce.derivatives import edge_gradient, forces_from_edges, stress_from_edges
from siliforce.errors import ConfigError, DataError, ModelFileError
from siliforce.files import write_atomic
from siliforce.graph import Graph
from siliforce.models import Model, get_model
from siliforce.nn.repulsion import ZBL
from siliforce.nn.species_table import SpeciesTable
from siliforce.species import Species, neighbor_in_table

FORMAT_VERSION = 1
BEST = "best.safetensors"
"""Of a run folder: the potential with the lowest validation loss."""
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Prediction:
    """Energies and their derivatives for a batch.

    Attributes:
        energy: (n_systems,), eV, float64.
        atom_energies: (n_atoms,), eV, float64; they sum to `energy`.
        forces: (n_atoms, 3), eV/Å, or None.
        stress: (n_systems, 3, 3), eV/Å³, tension positive, NaN without a volume; or None.
    """

    energy: Tensor
    atom_energies: Tensor
    forces: Tensor | None = None
    stress: Tensor | None = None


class Card(BaseModel):
    """Where a potential comes from and where it may be used; travels inside the model file."""

    model_config = ConfigDict(extra="allow")

    created: str = ""
    siliforce_version: str = ""
    data_hash: str = ""
    data_source: str = ""
    level_of_theory: str = "not stated"
    licence: str = "not stated"
    n_frames: int = 0
    elements: list[str] = Field(default_factory=list)
    atoms_per_volume: tuple[float, float] | None = Field(None, description="atoms/Å³, min, max")
    temperature: tuple[float, float] | None = Field(None, description="K, min, max")
    min_distance: dict[str, float] = Field(default_factory=dict, description="Å per pair, A-B")
    environments: list[dict[str, Any]] = Field(
        default_factory=list, description="of each training set, see siliforce.data.environments"
    )
    errors: dict[str, Any] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)


class Potential(nn.Module):
    """Model -> energy, forces, stress in eV and Å.

    `E = sum_i scale * (a_i - c_z(i)) + shift_z(i) + E0_z(i)`, where `a_i` is the model's answer
    and `c_z` its answer for an isolated atom if `pin_isolated` (else 0). Sums of energies are
    taken in float64.

    Attributes:
        model: the network.
        species: its elements.
        atomic_energies: E0 per species, eV, (n_species,), float64.
        shift: further constant per species, eV, (n_species,), float64.
        scale: eV, float64.
        repulsion: optional ZBL term.
        card: provenance.
    """

    scale: Tensor
    _lookup: Tensor

    def __init__(
        self,
        model: Model,
        species: Species,
        atomic_energies: Sequence[float] | np.ndarray,
        shift: Sequence[float] | np.ndarray | float = 0.0,
        scale: float = 1.0,
        pin_isolated: bool = True,
        repulsion: ZBL | None = None,
        preset: str = "",
        card: Card | None = None,
    ) -> None:
        super().__init__()
        if model.n_species != len(species):
            raise ConfigError(f"model has {model.n_species} species, potential {len(species)}")
        if not scale > 0:
            raise ConfigError(f"scale is {scale} eV; it must be positive")
        self.model = model
        self.species = species
        self.pin_isolated = pin_isolated
        self.repulsion = None if repulsion is None else repulsion.to(self.dtype)
        self.preset = preset
        self.card = card or Card()
        e0 = torch.as_tensor(np.asarray(atomic_energies, dtype=np.float64)).reshape(len(species))
        const = torch.as_tensor(np.broadcast_to(np.asarray(shift, float), (len(species),)).copy())
        self.atomic_energies = SpeciesTable(e0, trainable=False)
        self.shift = SpeciesTable(const, trainable=False)
        self.register_buffer("scale", torch.tensor(float(scale), dtype=torch.float64))
        self.register_buffer("_lookup", torch.from_numpy(species.lookup()), persistent=False)

    # -- evaluation ---------------------------------------------------------------------------

    @property
    def cutoff(self) -> float:
        """Å."""
        return self.model.config.cutoff

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's weights."""
        return self.model.mean_neighbors.dtype

    @property
    def device(self) -> torch.device:
        return self.scale.device

    @property
    def has_stress(self) -> bool:
        return self.model.force_mode == "gradient"

    def forward(
        self, graph: Graph, forces: bool = True, stress: bool = False, create_graph: bool = False
    ) -> Prediction:
        """Energy and, if asked, derivatives.

        Args:
            graph: from `collate` with this model's `needs` and dtype; species are filled in here.
            forces, stress: what to compute beside the energy.
            create_graph: for a loss on forces or stress.

        Raises:
            DataError: an element the potential does not know.
            ConfigError: stress of a direct model.

        A direct model's forces have those of the repulsion added to them.
        """
        if stress and not self.has_stress:
            raise ConfigError(
                f"{self.model.title} predicts forces directly and has no stress; "
                "switch stress off, or choose a gradient model"
            )
        graph = self.with_species(graph)
        derive = stress or (forces and (self.has_stress or self.repulsion is not None))
        with torch.set_grad_enabled(derive or torch.is_grad_enabled()):
            # A compiled caller brings its own leaf.
            if derive and not graph.edge_vectors.requires_grad:
                leaf = graph.edge_vectors.detach().requires_grad_()
                graph = graph.replace(edge_vectors=leaf)
            atom_energies, out_forces, conservative = self._evaluate(graph)
            per_system = atom_energies.new_zeros(graph.n_systems)
            energy = per_system.index_add(0, graph.system_index, atom_energies)
            out_stress = None
            if derive:
                gradient = edge_gradient(conservative, graph.edge_vectors, create_graph)
                derived = forces_from_edges(gradient, graph)
                out_forces = derived if out_forces is None else out_forces + derived
                out_stress = stress_from_edges(gradient, graph) if stress else None
        if derive and not create_graph:
            energy, atom_energies = energy.detach(), atom_energies.detach()
            out_forces = None if out_forces is None else out_forces.detach()
            out_stress = None if out_stress is None else out_stress.detach()
        return Prediction(energy, atom_energies, out_forces if forces else None, out_stress)

    def with_species(self, graph: Graph) -> Graph:
        """The graph with `species` filled in: rows of this potential's species tables.

        Raises:
            DataError: an element the potential does not know (not checked while compiling).
        """
        species = self._lookup[graph.numbers]
        if not torch.compiler.is_compiling() and bool((species < 0).any()):
            self.check_elements(graph.numbers)
        return graph.replace(species=species)

    def _evaluate(self, graph: Graph) -> tuple[Tensor, Tensor | None, Tensor]:
        """Energies of the atoms, a direct model's forces, and the energy to be derived.

        The last is everything for gradient models, the repulsion alone for direct ones.
        """
        n_atoms, species = graph.n_atoms, graph.species
        pinned = self.pin_isolated
        extended = graph.with_isolated_atoms(self.model.n_species) if pinned else graph
        raw = self.model(extended)
        energy = raw.atom_energy.double()
        if self.pin_isolated:
            energy = energy[:n_atoms] - energy[n_atoms:][species]
        energy = self.scale * energy + self.shift(species) + self.atomic_energies(species)
        repulsion = energy.new_zeros(n_atoms)
        if self.repulsion is not None:
            repulsion = self.repulsion(graph).double()
        if raw.atom_force is None:
            return energy + repulsion, None, energy + repulsion
        forces = self.scale.to(raw.atom_force.dtype) * raw.atom_force[:n_atoms]
        return energy + repulsion, forces, repulsion

    def check_elements(self, numbers: np.ndarray | Tensor) -> None:
        """Refuse elements that the potential was not trained on.

        Raises:
            DataError: naming them.
        """
        unknown = self.species.unknown(np.asarray(numbers))
        if unknown:
            raise DataError(
                f"the potential knows {', '.join(self.species.symbols)} but not "
                f"{', '.join(unknown)}; adapt it to the new elements or choose another model"
            )

    def extend(
        self,
        numbers: Iterable[int],
        sources: Mapping[int, int] | None = None,
        atomic_energies: Mapping[int, float] | None = None,
    ) -> Potential:
        """Learn new elements in place; energies of structures without them stay as they are.

        Args:
            numbers: atomic numbers; those already known are passed over.
            sources: known element whose parameters a new one starts from; by default its
                neighbour in the periodic table (`siliforce.species.neighbor_in_table`).
            atomic_energies: E0 of new elements, eV; by default the source's.

        Raises:
            ConfigError: a source is not known to the potential.
        """
        known = self.species.numbers
        species = self.species.extended(numbers)
        new = species.numbers[len(known) :]
        if not new:
            return self
        rows = []
        for z in new:
            source = (sources or {}).get(z, neighbor_in_table(z, known))
            if source not in known:
                raise ConfigError(
                    f"element {source} cannot be a source: the potential knows {known}"
                )
            rows.append(known.index(source))
        self.model.extend_species(rows)
        for table in (self.atomic_energies, self.shift):
            table.extend(rows)
        for z, energy in (atomic_energies or {}).items():
            if z in new:
                self.atomic_energies.weight[species.numbers.index(z)] = energy
        if self.repulsion is not None:
            self.repulsion = ZBL(species).to(self.device, self.dtype)
        self.species = species
        self._lookup = torch.from_numpy(species.lookup()).to(self.device)
        return self

    # -- files --------------------------------------------------------------------------------

    def header(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON types."""
        return {
            "format_version": FORMAT_VERSION,
            "model": self.model.name,
            "preset": self.preset,
            "config": self.model.config.model_dump(mode="json"),
            "species": list(self.species.symbols),
            "pin_isolated": self.pin_isolated,
            "repulsion": self.repulsion is not None,
            "dtype": str(self.dtype).removeprefix("torch."),
            "card": self.card.model_dump(mode="json"),
        }

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file whose metadata holds the header as JSON; atomic."""
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        blob = safetensors_bytes(tensors, {"siliforce": json.dumps(self.header())})
        return write_atomic(path, blob)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Potential:
        """Read a model file (or a run folder's best one). Runs no code from the file.

        Raises:
            ModelFileError: missing, damaged, of another format version, or not matching the
                architecture it names.
        """
        path = Path(path)
        if path.is_dir():
            path = path / BEST
        header, tensors = _read(path)
        potential = from_header(header, path)
        expected = potential.state_dict()
        wrong = [
            k
            for k in expected.keys() | tensors.keys()
            if k not in expected or k not in tensors or expected[k].shape != tensors[k].shape
        ]
        if wrong:
            raise ModelFileError(
                f"{path}: tensors do not match the model: {', '.join(sorted(wrong)[:5])}"
            )
        potential.load_state_dict(tensors)
        if dtype is not None:
            potential.set_dtype(dtype)
        return potential.to(device).eval()

    def set_dtype(self, dtype: torch.dtype) -> Potential:
        """Change the precision of the network; reference energies stay float64."""
        self.model.to(dtype)
        if self.repulsion is not None:
            self.repulsion.to(dtype)
        return self


def from_header(header: dict[str, Any], path: Path) -> Potential:
    """An uninitialised potential as the header describes it.

    Raises:
        ModelFileError: the header names an unknown model or an invalid configuration.
    """
    try:
        model_class = get_model(header["model"])
        config = model_class.Config.model_validate(header["config"])
        species = Species.from_symbols(header["species"])
        model = model_class(config, len(species))
        potential = Potential(
            model,
            species,
            np.zeros(len(species)),
            pin_isolated=header["pin_isolated"],
            repulsion=ZBL(species) if header["repulsion"] else None,
            preset=header["preset"],
            card=Card.model_validate(header["card"]),
        )
        return potential.set_dtype(_DTYPES[header["dtype"]])
    except (KeyError, TypeError, ValidationError, ConfigError, DataError) as error:
        raise ModelFileError(f"{path}: the header cannot be used: {error!r}") from error


def read_header(path: str | Path) -> dict[str, Any]:
    """The header of a model file, without its tensors. Raises what `Potential.load` raises."""
    return _read(Path(path), tensors=False)[0]


def _read(path: Path, tensors: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        below = sorted(str(found.parent) for found in path.parent.glob(f"*/{BEST}"))
        raise ModelFileError(
            f"{path}: no such model file" + (f"; there is one in {', '.join(below)}" * bool(below))
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            content = {k: file.get_tensor(k) for k in file.keys()} if tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: damaged or not a model file ({error})") from error
    if "siliforce" not in metadata:
        raise ModelFileError(f"{path}: a safetensors file, but not written by siliforce")
    try:
        header = json.loads(metadata["siliforce"])
    except json.JSONDecodeError as error:
        raise ModelFileError(f"{path}: the header is damaged ({error})") from error
    version = header.get("format_version")
    if version != FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: format version {version}, this siliforce reads {FORMAT_VERSION}; "
            "use the release that wrote it, or train again"
        )
    return header, content
