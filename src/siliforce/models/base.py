"""The contract of a model: a pure function of the graph.

A model knows nothing of atomic numbers, reference energies, scaling, derivatives, stress, units
or graph building; `siliforce.potential` adds those, once for all architectures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from siliforce.errors import ConfigError
from siliforce.graph import Graph, Topology
from siliforce.nn.species_table import SpeciesTable

READOUTS = ("readout", "readouts", "outputs")
"""Children that turn features into energies and forces: together the last part of a model."""


class ModelConfig(BaseModel):
    """Hyper-parameters of an architecture; closed, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cutoff: float = Field(6.0, gt=0, description="Å")
    max_neighbors: int | None = Field(
        None,
        gt=0,
        description="only so many nearest neighbours, as in the 2023 benchmark: the energy is "
        "discontinuous then",
    )


class RawOutput(NamedTuple):
    """What a model says, normalised: the potential scales and shifts it.

    Attributes:
        atom_energy: (n_atoms,).
        atom_force: (n_atoms, 3) for direct models, else None.
    """

    atom_energy: Tensor
    atom_force: Tensor | None = None


class Model(nn.Module):
    """Base of the ten architectures.

    Attributes:
        name: as on the command line.
        title: as in the paper.
        reference: where the architecture was published.
        force_mode: `gradient` models get forces and stress from the energy; `direct` ones
            predict forces and have no stress.
        needs: topology beyond the edges; of an instance, with the `max_neighbors` of its Config.
        Config: the hyper-parameters' class.
        presets: `tiny` for tests, `small` for a laptop, `paper` as published.
        widths: fields of `Config` that a width multiplier scales: channels, not degrees, numbers of
            layers or of basis functions.
        training_presets: per preset, training options (`lr`, `weight_decay`, `batch_size`,
            `ema`, `clip`, `amsgrad` ...) that this architecture wants in place of the trainer's
            own defaults.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reference: ClassVar[str]
    force_mode: ClassVar[Literal["gradient", "direct"]] = "gradient"
    needs: Topology = Topology()
    Config: ClassVar[type[ModelConfig]]
    presets: ClassVar[Mapping[str, ModelConfig]]
    widths: ClassVar[tuple[str, ...]] = ()
    training_presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    mean_neighbors: Tensor

    def __init__(self, config: ModelConfig, n_species: int, mean_neighbors: float = 1.0) -> None:
        """Build with random weights.

        Args:
            config: an instance of `Config`.
            n_species: rows of the species tables.
            mean_neighbors: of the training set, the normalisation of sums over neighbours. Kept
                in the model; never changed by transfer.
        """
        super().__init__()
        self.config = config
        if config.max_neighbors is not None:
            if self.needs.reverse_edges:
                raise ConfigError(
                    f"{self.title} needs the reverse of every edge, of which max_neighbors "
                    f"({config.max_neighbors}) may cut either; leave it out (no --paper-graph)"
                )
            self.needs = replace(self.needs, max_neighbors=config.max_neighbors)
        self.n_species = n_species
        self.register_buffer("mean_neighbors", torch.tensor(float(mean_neighbors)))

    def forward(self, graph: Graph) -> RawOutput:
        """Normalised energies (and forces) of the atoms."""
        raise NotImplementedError

    def fit_constants(self, graphs: Iterable[Graph]) -> None:
        """Set constants that depend on data before training (whitening, scale factors).

        Called once with graphs of the training set, species filled in. Most models have none.
        """

    def fit_new_constants(self, graphs: Iterable[Graph]) -> None:
        """Set constants that `extend_species` left open; all others stay as they are.

        Called once with graphs of the frames of a transfer. Most models have none.
        """

    @classmethod
    def scaled(cls, config: ModelConfig, factor: float) -> ModelConfig:
        """The hyper-parameters with all `widths` times `factor`, rounded, at least one.

        The widths of several layers keep their ratios, on which skip connections may rest.
        """

        def times(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(round(v * times(value[0]) / value[0]) for v in value)
            return max(round(factor * value), 1)

        changes = {name: times(getattr(config, name)) for name in cls.widths}
        return cls.Config.model_validate({**config.model_dump(), **changes})

    def part_of(self, name: str) -> str:
        """The part that a parameter belongs to.

        By default everything in `READOUTS` is the part `readout`, an entry of a child list is a
        part of its own (`interactions.0`), and all the rest is the part `input`. An architecture
        that is built in another way, or whose paper names its layers, overrides this.

        Args:
            name: as in `named_parameters()`.
        """
        child, _, rest = name.partition(".")
        if child in READOUTS:
            return "readout"
        if isinstance(getattr(self, child), nn.ModuleList | nn.Sequential):
            return f"{child}.{rest.partition('.')[0]}"
        return "input"

    def parts(self) -> dict[str, tuple[str, ...]]:
        """Names of the parameters of each part, from the input to the output.

        Parts are what a policy of transfer freezes or trains (`siliforce.training.policy`): it
        names them, or patterns of them, with a factor on the learning rate, e.g.
        `{"input": 1, "interactions.*": 0.1, "readout": 1}`. Every parameter is in exactly one part;
        the order is that of definition, `input` first and `readout` last.
        """
        found: dict[str, tuple[str, ...]] = {"input": ()}
        for name, _ in self.named_parameters():
            part = self.part_of(name)
            found[part] = (*found.get(part, ()), name)
        found |= {"readout": found.pop("readout", ())}
        return {part: names for part, names in found.items() if names}

    def extend_species(self, sources: Sequence[int]) -> None:
        """Learn new species, each starting as a copy of the row `sources` names."""
        for module in self.modules():
            if isinstance(module, SpeciesTable):
                module.extend(sources)
        self.n_species += len(sources)
