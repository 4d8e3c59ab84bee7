"""What a campaign file may say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from siliforce.data import SplitConfig
from siliforce.errors import ConfigError
from siliforce.models import get_model, list_models
from siliforce.simulation.md import MDConfig
from siliforce.training.build import ModelChoice
from siliforce.training.options import Options, did_you_mean, merged, parse, read_yaml
from siliforce.training.settings import TrainConfig

INDICATORS = ["errors", "eos", "pec", "rdf", "adf", "survival", "pressure", "vdos", "speed"]
FROM_DYNAMICS = frozenset({"rdf", "adf", "survival", "pressure", "vdos"})
"""Indicators that need molecular dynamics."""


class StructureConfig(Options):
    """A start structure of the user's own, where the reference has none."""

    file: str
    repeat: int = Field(1, ge=1)
    temperatures: list[Annotated[float, Field(gt=0)]] = Field([300.0], description="K")
    ood: bool = False
    eos: bool = True


class LabelNoise(Options):
    """Error of the labels themselves; a potential that reaches it has score 1."""

    energy: float = Field(0.0, ge=0, description="meV/atom")
    forces: float = Field(0.0, ge=0, description="meV/Å")


class MaterialConfig(Options):
    """Frames to train and test on, and what simulations are held against.

    `source` is a file, a store, a folder with the stores train, valid, test and ood, or a name
    that `siliforce data get` knows.
    """

    source: str | list[str]
    split: SplitConfig = SplitConfig(test=0.1)
    ood: dict[str, str | list[str]] = Field(default_factory=dict, description="further OOD sets")
    reference: str | None = Field(None, description="folder of reference data")
    starts: list[str] | None = Field(None, description="of the reference; all if not given")
    structures: dict[str, StructureConfig] = Field(default_factory=dict)
    label_noise: LabelNoise = LabelNoise()
    level_of_theory: str = "not stated"
    licence: str = "not stated"


class Entrant(Options):
    """A model of a campaign, and what differs from the campaign's training for it."""

    label: str
    model: ModelChoice
    train: dict[str, Any] = Field(default_factory=dict)


class Studies(Options):
    """Variations of every model besides the baseline; errors and speed are measured."""

    models: list[str] | None = Field(None, description="labels; all if not given")
    seeds: list[int] | None = Field(None, description="the campaign's if not given")
    widths: list[float] = Field(default_factory=list, description="times the preset's")
    fractions: list[float] = Field(default_factory=list, description="of the training frames")
    losses: list[Literal["mae", "mse", "huber"]] = Field(default_factory=list)
    force_weights: list[float] = Field(default_factory=list, description="λ_F at λ_E = 1")
    normalisations: list[Literal["normalised", "centred", "none"]] = Field(default_factory=list)

    @field_validator("widths", "force_weights")
    @classmethod
    def _positive(cls, values: list[float]) -> list[float]:
        if any(v <= 0 for v in values):
            raise ValueError("must be above zero")
        return values

    @field_validator("fractions")
    @classmethod
    def _shares(cls, values: list[float]) -> list[float]:
        if any(not 0 < v <= 1 for v in values):
            raise ValueError("must be above 0 and at most 1; 20 % is 0.2")
        return values


class Simulation(MDConfig):
    """Molecular dynamics of every start; `temperature` is that of the start."""

    replicas: int = Field(1, ge=1, description="runs of each start, with seeds of their own")
    supercell: int = Field(1, ge=1, description="repeat starts so often along each vector")
    window: float | None = Field(
        None, gt=0, description="ps of production that RDF, ADF ... are made of; all if not given"
    )

    def analysed(self, n_frames: int) -> slice:
        """Which frames of production are analysed."""
        if self.window is None:
            return slice(n_frames)
        return slice(round(self.window * 1e3 / (self.timestep * self.frame_every)) + 1)

    def dynamics(self, temperature: float, seed: int) -> MDConfig:
        """Settings of one run."""
        values = self.model_dump(include=set(MDConfig.model_fields))
        return MDConfig(**(values | {"temperature": temperature, "seed": seed}))


class Campaign(Options):
    """A whole campaign file."""

    name: str = "campaign"
    materials: dict[str, MaterialConfig] = Field(min_length=1)
    models: list[Entrant] = Field(default_factory=list)
    zero_shot: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="label -> engine and its settings: not trained here"
    )
    preset: str = Field("small", description="of models that name none")
    seeds: list[int] = Field([0, 1, 2], min_length=1)
    train: TrainConfig = TrainConfig()
    studies: Studies = Studies()
    indicators: list[str] = INDICATORS
    md: Simulation = Simulation()
    device: str = "auto"

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, values: Any) -> Any:
        """`mace`, or a model section with `label` and `train`; zero-shot names as a list."""
        if not isinstance(values, Mapping):
            return values
        values = dict(values)
        preset = values.get("preset", "small")
        values["models"] = [_entrant(entry, preset) for entry in values.get("models") or []]
        names = values.get("zero_shot") or {}
        if isinstance(names, list):
            values["zero_shot"] = {name: {"engine": name} for name in names}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Campaign:
        labels = self.labels
        for label in labels:
            if labels.count(label) > 1:
                raise ConfigError(f"two models are called '{label}'; give one another `label`")
        if not labels:
            raise ConfigError("a campaign needs `models` or `zero_shot`")
        for label in self.studies.models or []:
            if label not in labels:
                raise ConfigError(f"studies.models: no model '{label}'; {', '.join(labels)}")
        return self

    @field_validator("preset")
    @classmethod
    def _some_preset(cls, value: str) -> str:
        known = [
            "auto",
            *dict.fromkeys(p for name in list_models() for p in get_model(name).presets),
        ]
        if value not in known:
            hint = did_you_mean(value, known)
            raise ValueError(f"no preset '{value}'; {hint}there are {', '.join(known)}")
        return value

    @field_validator("indicators")
    @classmethod
    def _known(cls, values: list[str]) -> list[str]:
        for value in values:
            if value not in INDICATORS:
                hint = did_you_mean(value, INDICATORS)
                raise ValueError(f"no indicator '{value}'; {hint}there are {', '.join(INDICATORS)}")
        return values

    @property
    def labels(self) -> list[str]:
        """Names of everything that competes."""
        return [*(entrant.label for entrant in self.models), *self.zero_shot]


def _entrant(entry: Any, preset: str) -> Any:
    if isinstance(entry, Entrant):
        return entry
    values: dict[str, Any] = {"name": entry} if isinstance(entry, str) else dict(entry)
    if "model" in values:  # the resolved form
        return values
    label, train = values.pop("label", None), values.pop("train", {})
    choice = parse(ModelChoice, {"preset": preset} | values, "models").checked()
    parse(TrainConfig, train, f"models.{choice.name}.train")
    return {"label": label or choice.name, "model": choice, "train": train}


def load_campaign(path: str | Path, changes: Mapping[str, Any] | None = None) -> Campaign:
    """Read a campaign file; paths in it may be relative to it.

    Raises:
        ConfigError: not readable, unknown keys or models, impossible values.
    """
    campaign = parse(Campaign, merged(read_yaml(path), changes or {}))
    beside = Path(path).resolve().parent
    materials = {name: _located(m, beside) for name, m in campaign.materials.items()}
    return campaign.model_copy(update={"materials": materials})


def _located(material: MaterialConfig, beside: Path) -> MaterialConfig:
    """With absolute paths for what lies beside the campaign's file."""

    def find(value: Any) -> Any:
        if isinstance(value, list):
            return [find(item) for item in value]
        near = value is not None and not Path(value).exists() and (beside / value).exists()
        return str((beside / value).resolve()) if near else value

    structures = {
        name: own.model_copy(update={"file": find(own.file)})
        for name, own in material.structures.items()
    }
    changes = {"source": find(material.source), "reference": find(material.reference)}
    outside = {name: find(source) for name, source in material.ood.items()}
    return material.model_copy(update=changes | {"ood": outside, "structures": structures})
