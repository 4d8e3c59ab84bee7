"""`adapt --family`: a catalogue of compositions from one source, grown one at a time.

Each composition is a job of a folder: adapted beside its control, or studied with learning curves,
in `OUT/NAME/`. Asked for again, only what is new or was killed is trained; with other frames or
settings a composition gets another folder, and the catalogue names the new one.

    source: runs/si64
    study: {frames: [5, 10, 20], draws: 3}        # left out: one comparison on all frames
    targets:
      - {name: Si63Ge, element: Ge, site: Si, count: 1, data: si63ge.xyz}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase.data import atomic_numbers
from pydantic import Field, field_validator, model_validator

from siliforce.data import Dataset, load_dataset
from siliforce.errors import ConfigError, DataError, TrainingError
from siliforce.files import write_atomic
from siliforce.indicators.base import Metric, Result
from siliforce.jobs import Job, JobFailed, JobFolder, work
from siliforce.potential import BEST, Potential
from siliforce.training.adapt import DEFAULT_POLICY
from siliforce.training.adapted import AdaptConfig, fingerprint
from siliforce.training.options import Options, parse
from siliforce.training.policy import get_policy
from siliforce.training.settings import TrainConfig
from siliforce.transfer.compare import compare
from siliforce.transfer.cost import measured_saving, saving
from siliforce.transfer.saved import Saved
from siliforce.transfer.study import study
from siliforce.transfer.trainings import content, same_adapt

INDICATOR = "transfer_family"
MARK = "family_key"
"""File in a run folder that names the training: that of another one is left alone."""


class Target(Options):
    """One composition of a family."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    element: str = Field(description="that is put in")
    site: str = Field(description="element whose sites it takes")
    count: int = Field(1, ge=1, description="atoms of it in a cell")
    data: str | list[str] = Field(description="frames of it")
    test: str | list[str] | None = Field(None, description="frames for the test; else a fifth")

    @field_validator("element", "site")
    @classmethod
    def _symbol(cls, value: str) -> str:
        if value not in atomic_numbers:
            raise ValueError("not a chemical symbol")
        return value

    def concentration(self, frames: Dataset) -> float:
        """Part of the sites that are taken.

        Raises:
            DataError: the frames hold another number of these atoms.
        """
        elements, counts = frames.counts
        found = {z: counts[:, k] for k, z in enumerate(elements)}
        none = np.zeros(len(frames), dtype=int)
        own = found.get(atomic_numbers[self.element], none)
        if (own != self.count).any():
            raise DataError(
                f"{self.name}: frames hold {sorted({int(n) for n in own})} atoms of "
                f"{self.element}, the family says {self.count}"
            )
        sites = own + found.get(atomic_numbers[self.site], none)
        return float(np.mean(own / sites))


class StudyOptions(Options):
    """Learning curves for every composition."""

    frames: list[int]
    draws: int = Field(3, ge=1)
    policies: list[str] = Field([], description="to compare; left out, that of the model files")


class Family(Options):
    """The file of a family."""

    source: str
    source_test: str | list[str] | None = Field(None, description="what is forgotten of it")
    policy: str | None = None
    study: StudyOptions | None = None
    targets: list[Target] = Field(min_length=1)

    @model_validator(mode="after")
    def _of_the_files(self) -> Family:
        """Frames saved are those of the policy that the model files have."""
        own = self.policy or DEFAULT_POLICY
        if self.study is not None and self.study.policies and own not in self.study.policies:
            raise ValueError(f"study.policies lacks {own}, the policy of the model files")
        return self

    @field_validator("targets")
    @classmethod
    def _once(cls, value: list[Target]) -> list[Target]:
        names = [target.name for target in value]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"names must differ, {', '.join(sorted(twice))} is there twice")
        return value


def load_family(path: str | Path) -> Family:
    """Read a family file; paths in it are relative to it.

    Raises:
        ConfigError: no such file, or settings that do not exist.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a family file ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a family names source and targets")
    family = parse(Family, content, "family")

    def here(given: Any) -> Any:
        if given is None:
            return None
        return [str(path.parent / p) for p in ([given] if isinstance(given, str) else given)]

    targets = [
        t.model_copy(update={"data": here(t.data), "test": here(t.test)}) for t in family.targets
    ]
    changes: dict[str, Any] = {"source": str(path.parent / family.source), "targets": targets}
    if family.study is not None and not family.study.policies:
        own = {"policies": [family.policy or DEFAULT_POLICY]}
        changes["study"] = family.study.model_copy(update=own)
    return family.model_copy(update=changes | {"source_test": here(family.source_test)})


def work_on_family(
    family: Family,
    out: str | Path,
    config: AdaptConfig | None = None,
    train: TrainConfig | None = None,
    quiet: bool = False,
) -> Result:
    """Adapt to every composition that is not in the catalogue yet, and sum it up.

    Args:
        out: folder of the catalogue: a run folder per composition, `results/`.
        config, train: sections for every adaptation.

    Raises:
        ConfigError: unknown policies.
        DataError: frames that are not of the composition.
    """
    root, config, train = Path(out), config or AdaptConfig(), train or TrainConfig()
    if train.policy is not None:
        raise ConfigError("a family has no train.policy: name one as policy in the family file")
    for name in filter(None, [family.policy, *(family.study.policies if family.study else [])]):
        get_policy(name, config.policies)
    source = Potential.load(family.source)
    sets = {target.name: load_dataset(target.data) for target in family.targets}
    shares = {target.name: target.concentration(sets[target.name]) for target in family.targets}
    settings = [same_adapt(config), train.model_dump(mode="json", exclude_unset=True)]
    of = {target.name: (sets[target.name], source, settings) for target in family.targets}
    jobs = [_job(family, target, *of[target.name]) for target in family.targets]
    plain = family.model_copy(update={"study": None})
    folder = JobFolder(root / "jobs", ".json")

    def perform(job: Job, scratch: Path, attempt: int) -> bytes:
        target: Target = job.payload
        if not quiet:
            print(f"{target.name}: {len(sets[target.name])} frames", flush=True)
        try:
            run = _folder(root, target.name, _job(plain, target, *of[target.name]).key)
            row = _one(family, target, run, root / target.name, config, train, quiet)
        except (TrainingError, DataError, ConfigError) as error:
            raise JobFailed(str(error)) from error
        return json.dumps(row | {"concentration": shares[target.name]}).encode()

    work(folder, lambda: jobs, perform, attempts=1)
    done = folder.done_keys()
    rows = [json.loads(folder.done_path(j.key).read_text()) for j in jobs if j.key in done]
    lost = [job for job in jobs if job.key in folder.failed_keys()]
    failed = [f"{job.payload.name} ({folder.reason(job.key)})" for job in lost]
    result = catalogue(rows, source, failed)
    result.save(root / "results")
    return result


def _job(
    family: Family, target: Target, frames: Dataset, source: Potential, settings: Sequence[Any]
) -> Job:
    about = {
        "source": fingerprint(source),
        "frames": frames.hash,
        "target": target.model_dump(mode="json", exclude={"data"}) | {"test": content(target.test)},
        "family": family.model_dump(mode="json", include={"policy", "study"})
        | {"source_test": content(family.source_test)},
        "settings": settings,
    }
    digest = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=8)
    return Job(digest.hexdigest(), target.name, target)


def _folder(root: Path, name: str, key: str) -> Path:
    """Run folder of a training: NAME, or NAME-KEY where that holds another one."""
    for folder in (root / name, root / f"{name}-{key}"):
        mark = folder / MARK
        if not folder.exists():
            write_atomic(mark, key)
        if mark.is_file() and mark.read_text() == key:
            break
    return folder


def _one(
    family: Family,
    target: Target,
    out: Path,
    studied: Path,
    config: AdaptConfig,
    train: TrainConfig,
    quiet: bool,
) -> dict[str, Any]:
    """One line of the catalogue."""
    found = compare(
        family.source, target.data, test=target.test, source_test=family.source_test,
        policy=family.policy, config=config, train=train, out=out, restart="auto", quiet=True,
    )  # fmt: skip
    result = found.result
    row: dict[str, Any] = {
        **target.model_dump(mode="json", include={"name", "element", "site", "count"}),
        "model": f"{out.name}/{BEST}",
        "n_frames": int(result.provenance["n_frames"]),
        "seconds": sum(run["seconds"] or 0.0 for run in result.tables["runs"]),
        "alarm": found.alarm,
    }
    for prefix in ("adapted", "scratch"):
        row |= {
            f"{prefix}_{k}": result.value(f"{prefix}_{k}") for k in ("energy_rmse", "forces_rmse")
        }
    row |= {name: result.value(name) for name in ("gain", "forgetting")}
    if family.study is not None:
        row |= _studied(family, target, studied / "study", config, train, quiet)
    return row


def _studied(
    family: Family,
    target: Target,
    out: Path,
    config: AdaptConfig,
    train: TrainConfig,
    quiet: bool,
) -> dict[str, Any]:
    asked = family.study
    assert asked is not None
    found = study(
        family.source, target.data, test=target.test, source_test=family.source_test,
        policies=asked.policies, frames=asked.frames, draws=asked.draws, config=config,
        train=train, out=out, quiet=quiet,
    )  # fmt: skip
    own = family.policy or DEFAULT_POLICY
    saved = next((s for s in found.tables["saved"] if s["policy"] == own), None)
    return {"at_equal_error": saved}


def catalogue(rows: Sequence[dict[str, Any]], source: Potential, failed: Sequence[str]) -> Result:
    """The table of a family and what it costs: R measured, and by the paper's formula.

    R is measured where every composition has learning curves: with the frames that both ways need
    for the same error of each.
    """
    for_source, n = float(source.card.n_frames), len(rows)
    metrics, frames = [], [float(row["n_frames"]) for row in rows]
    if rows:
        formula = saving(n + 1, for_source, float(np.mean(frames)))
        note = f"were every composition to need the source's {for_source:.0f} frames from nothing"
        metrics.append(Metric(name="R_formula", value=formula, unit="", note=note))
    equal = [row["at_equal_error"] for row in rows if row.get("at_equal_error")]
    if rows and len(equal) == len(rows):
        measured = measured_saving(for_source, [Saved.of(saved) for saved in equal])
        if measured is not None:
            note = "at equal force error, from learning curves"
            metrics.append(measured.metric("R_measured", note, unit=""))
    return Result(
        indicator=INDICATOR,
        model=source.model.name,
        dataset=source.card.data_source,
        metrics=metrics,
        tables={"catalogue": [dict(row) for row in rows]},
        provenance={
            "source_frames": int(for_source),
            "n_compositions": n,
            "failed": list(failed),
            "alarms": [f"{row['name']}: {row['alarm']}" for row in rows if row["alarm"]],
        },
    )
