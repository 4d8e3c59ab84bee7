"""Run folders as the report reads them: whatever is there, and a line for whatever is not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from siliforce.errors import DataError, ModelFileError
from siliforce.indicators.base import Result, load_results
from siliforce.potential import BEST, Card, read_header

RESULTS = "results"


@dataclass
class Run:
    """Everything of one run folder.

    Attributes:
        path: the folder.
        name: of the model, made unique among the runs of a report.
        style: number of its colour.
        record: `run.json`.
        config: `config.yaml`, and its text.
        split: `split.json`.
        progress: rows of `metrics.jsonl`.
        header, card: of the model file; None if it is not usable.
        results: of all indicators.
        problems: what is missing or damaged, and what to do about it.
    """

    path: Path
    name: str = ""
    style: int = 0
    record: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    split: dict[str, Any] = field(default_factory=dict)
    progress: list[dict[str, Any]] = field(default_factory=list)
    header: dict[str, Any] | None = None
    card: Card | None = None
    results: list[Result] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def of(self, indicator: str) -> list[Result]:
        """Results of one indicator."""
        return [r for r in self.results if r.indicator == indicator]

    def errors(self, split: str = "test") -> Result | None:
        """Errors on one set."""
        return next((r for r in self.of("errors") if r.split == split), None)

    @property
    def held_out(self) -> Result | None:
        """Errors on the test set, or else on the validation set; never on training frames."""
        found = (self.errors("test"), self.errors("valid"))
        return next((r for r in found if r is not None and not trained_frames(r)), None)

    @property
    def direct(self) -> bool:
        """Whether its forces are predicted and conserve no energy."""
        return any(r.provenance.get("force_mode") == "direct" for r in self.results)

    @property
    def ood(self) -> list[Result]:
        """Errors on the sets that lie outside the training data on purpose."""
        return [r for r in self.of("errors") if r.split.startswith("ood")]


def trained_frames(result: Result) -> int:
    """How many of a result's frames the model was trained on, as far as that was recorded."""
    return int(result.provenance.get("n_trained_on", 0))


def load_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Read run folders; damaged and missing parts become problems of their run.

    Raises:
        DataError: a folder does not exist or is not a run folder, or none is given.
    """
    if not folders:
        raise DataError("a report needs at least one run folder")
    runs = [_load(Path(folder)) for folder in folders]
    names = [run.name for run in runs]
    for k, run in enumerate(runs):
        run.style = k
        if names.count(run.name) > 1:
            same = [r for r in runs if r.name == names[k]]
            folders_differ = len({r.path.name for r in same}) == len(same)
            run.name = f"{names[k]} ({run.path.name if folders_differ else run.path})"
    return runs


def _load(path: Path) -> Run:
    if not path.is_dir():
        raise DataError(
            f"{path}: no such run folder; train first: siliforce train DATA --out {path}"
        )
    parts = ("run.json", "config.yaml", "metrics.jsonl", BEST, RESULTS)
    if not any((path / part).exists() for part in parts):
        raise DataError(f"{path}: not a run folder: it holds none of {', '.join(parts)}")
    run = Run(path)
    run.record = _json(run, "run.json")
    run.split = _json(run, "split.json", required=False)
    _read_config(run)
    _read_progress(run)
    _read_model(run)
    run.results, damaged = load_results(path / RESULTS)
    run.problems += damaged
    for result in run.of("errors"):
        if result.split != "train" and trained_frames(result):
            run.problems.append(
                f"{trained_frames(result)} of the {result.provenance.get('n_frames')} frames of "
                f"the set {result.split} were trained on: its errors say nothing of new frames"
            )
    measured = {r.model for r in run.results}
    run.name = run.record.get("model") or (run.header or {}).get("model") or ""
    run.name = run.name or (measured.pop() if len(measured) == 1 else path.name)
    return run


def _json(run: Run, name: str, required: bool = True) -> dict[str, Any]:
    path = run.path / name
    if not path.is_file():
        if required:
            run.problems.append(f"{name} is missing: the folder was not written by a training run")
        return {}
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        run.problems.append(f"{name} is damaged ({error})")
        return {}
    return content if isinstance(content, dict) else {}


def _read_config(run: Run) -> None:
    path = run.path / "config.yaml"
    if not path.is_file():
        run.problems.append("config.yaml is missing: the configuration cannot be shown")
        return
    try:
        run.config_text = path.read_text()
        content = yaml.safe_load(run.config_text)
    except (yaml.YAMLError, ValueError, OSError) as error:
        run.problems.append(f"config.yaml is damaged ({error})")
        return
    run.config = content if isinstance(content, dict) else {}


def _read_progress(run: Run) -> None:
    """Rows of the log; a line torn by a kill is left out."""
    path = run.path / "metrics.jsonl"
    if not path.is_file():
        run.problems.append("metrics.jsonl is missing: no learning curves")
        return
    torn = 0
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
            run.progress.append({k: v for k, v in row.items() if isinstance(v, int | float)})
        except (ValueError, AttributeError):
            torn += 1
    if torn:
        run.problems.append(f"metrics.jsonl: {torn} unreadable lines left out")


def _read_model(run: Run) -> None:
    try:
        run.header = read_header(run.path / BEST)
        run.card = Card.model_validate(run.header["card"])
    except (ModelFileError, KeyError, ValueError) as error:
        run.problems.append(f"no usable model file: {error}")
