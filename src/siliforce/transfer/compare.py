"""An adapted potential beside its control: the same model from scratch on the same frames.

The control has the same frames held out, the same budget, and a learning rate chosen for it: that
of the preset and others are tried, and the one of lowest validation loss counts. Both are judged
on target frames that neither has seen; what the adapted one forgot, on frames of the source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from siliforce.data import Dataset, Split, load_dataset
from siliforce.errors import DataError
from siliforce.indicators.base import Metric, Result, stamp
from siliforce.indicators.errors import evaluate
from siliforce.indicators.sampling import MIN_UNITS, RESAMPLES, interval_95
from siliforce.potential import Potential
from siliforce.training.adapt import adapt, adapt_defaults, target_data
from siliforce.training.adapted import AdaptConfig
from siliforce.training.build import ModelChoice
from siliforce.training.inputs import DataConfig, Source
from siliforce.training.options import as_options
from siliforce.training.record import CONFIG, RUN, read_json
from siliforce.training.run import RunResult, train
from siliforce.training.session import Restart
from siliforce.training.sets import recorded_sets
from siliforce.training.settings import TrainConfig, resolve

TEST = 0.2
"""Part of the target's frames kept for the test where no test frames are named."""
CONTROL_RATES = (1.0, 0.3)
"""Learning rates that the control tries, over that of its preset."""
MEASURES = ("forces_rmse", "forces_mae", "energy_rmse", "energy_mae")
INDICATOR = "transfer"


@dataclass(frozen=True)
class Comparison:
    """An adaptation and what it is worth.

    Attributes:
        run: of the adapted potential.
        control: the best run from scratch; None if there was to be none.
        results: errors on the sets, and the comparison itself (the last one).
    """

    run: RunResult
    control: RunResult | None
    results: tuple[Result, ...]

    @property
    def result(self) -> Result:
        return self.results[-1]

    @property
    def alarm(self) -> str:
        """Why the adapted potential should not be used; empty if there is no reason."""
        return str(self.result.provenance.get("alarm", ""))


def compare(
    source: str | Path | Potential,
    data: Source | DataConfig,
    *,
    test: Source | None = None,
    source_test: Source | None = None,
    valid: Source | None = None,
    policy: str | None = None,
    replay: Source | None = None,
    config: AdaptConfig | Mapping[str, Any] | None = None,
    train: TrainConfig | Mapping[str, Any] | None = None,
    control: bool = True,
    rates: Sequence[float] = CONTROL_RATES,
    out: str | Path,
    restart: Restart = "never",
    quiet: bool = False,
) -> Comparison:
    """Adapt, train the control, and judge both.

    Args:
        test: target frames for the test; without them a fifth of `data` is kept for it.
        source_test: frames of the source, for what is forgotten; without them the test frames of
            the source's run folder, if it has any.
        control: train it.
        rates: learning rates the control tries, over its preset's.
        out: run folder of the adapted potential; `control/` and `results/` lie in it.

    Further arguments are those of `adapt`.

    Raises:
        ConfigError, DataError, TrainingError: as `adapt`.
    """
    section, user = (
        as_options(AdaptConfig, config, "adapt"),
        as_options(TrainConfig, train, "train"),
    )
    potential = source if isinstance(source, Potential) else Potential.load(source)
    if test is None and not section.test and not _has_test(data):
        section = section.model_copy(update={"test": TEST})
    if valid is not None and test is None:
        raise DataError("--valid names the held-out frames: name those of the test too, by --test")
    inputs = target_data(data, section, valid, user.seed)
    tested = load_dataset(test) if test is not None else inputs.split.test  # type: ignore[union-attr, arg-type]
    common = {"restart": restart, "quiet": quiet}
    adapted = adapt(
        source, data, valid=valid, policy=policy, replay=replay, config=section, train=user,
        out=out, **common,  # type: ignore[arg-type]
    )  # fmt: skip
    controls: dict[float, RunResult] = {}
    if control and not adapted.interrupted:
        split = data if valid is not None else inputs.split
        for rate in rates:
            controls[rate] = train_control(
                potential,
                split,
                user,
                rate,
                Path(out) / "control" / f"lr-{rate:g}",
                valid,
                **common,
            )
    sets = {"test": tested}
    if source_test is not None:
        sets["ood:source"] = load_dataset(source_test)  # type: ignore[arg-type]
    elif (own := own_test(source)) is not None:
        sets["ood:source"] = own
    used = Dataset.concatenate([inputs.train, inputs.valid])
    return judge(potential, adapted, controls, sets, used)


def own_test(source: str | Path | Potential) -> Dataset | None:
    """Test frames that a source's run folder names; None where there are none, or have moved."""
    if isinstance(source, Potential) or not Path(source).is_dir():
        return None
    try:
        return recorded_sets(source).get("test")
    except DataError:
        return None


def _has_test(data: Any) -> bool:
    """Whether the data themselves say which frames are for the test."""
    if isinstance(data, Split):
        return len(data.test) > 0
    return isinstance(data, DataConfig) and data.split.test > 0


def train_control(
    potential: Potential,
    data: Any,
    user: TrainConfig,
    rate: float,
    out: Path,
    valid: Source | None = None,
    **options: Any,
) -> RunResult:
    """The source's model from scratch, with the budget of the adaptation.

    Args:
        data: the same training and validation frames.
        user: training section of the adaptation; its policy and learning rate are left out.
        rate: learning rate over that of the preset.
    """
    choice = model_section(potential)
    n_train = len(data.train) if hasattr(data, "train") else len(load_dataset(data))
    asked = user.model_dump(exclude_unset=True, exclude={"policy", "lr"})
    settings = adapt_defaults(TrainConfig.model_validate(asked), n_train)
    preset = ModelChoice.model_validate(choice).checked()
    lr = rate * resolve(settings, preset.model_class, preset.preset).lr
    settings = TrainConfig.model_validate(settings.model_dump(exclude_unset=True) | {"lr": lr})
    return train(data, choice, valid=valid, config=settings, out=out, **options)


def model_section(potential: Potential) -> dict[str, Any]:
    """What `train` needs to make such a model with random weights."""
    config = potential.model.config.model_dump(mode="json")
    config.pop("extensions", None)  # how a BPNN came to know its elements
    presets = type(potential.model).presets
    preset = potential.preset.partition(" x ")[0]
    return {
        "name": potential.model.name,
        "preset": preset if preset in presets else next(iter(presets)),
        "pin_isolated": potential.pin_isolated,
        "repulsion": potential.repulsion is not None,
        **config,
    }


def judge(
    source: Potential,
    adapted: RunResult,
    controls: Mapping[float, RunResult],
    sets: Mapping[str, Dataset],
    used: Dataset,
) -> Comparison:
    """Evaluate all potentials, and write the results into the run folder.

    Args:
        used: frames that were trained on or held out to stop early: what had to be labelled.
    """
    best = min(controls, key=lambda rate: controls[rate].best["valid_loss"], default=None)
    mine = [evaluate(adapted.potential(), part, name) for name, part in sets.items()]
    rows = [_row("adapted", adapted, mine[0])]
    theirs: Result | None = None
    for rate, run in controls.items():
        result = evaluate(run.potential(), sets["test"], "test")
        rows.append(_row("scratch", run, result) | {"rate": rate, "chosen": rate == best})
        theirs = result if rate == best else theirs
    before = evaluate(source, sets["ood:source"], "source") if "ood:source" in sets else None
    hardware, provenance = stamp(adapted.potential())
    result = Result(
        indicator=INDICATOR,
        model=mine[0].model,
        dataset=used.hash,
        split="test",
        metrics=[
            *_named("adapted", mine[0]),
            *(_named("scratch", theirs) if theirs is not None else []),
            *(_gain(mine[0], theirs) if theirs is not None else []),
            *(_forgetting(before, mine[1]) if before is not None else []),
        ],
        tables={"runs": rows},
        hardware=hardware,
        provenance=provenance
        | {"n_frames": len(used), "n_test": len(sets["test"]), "control": bool(controls)},
    )
    result.provenance["alarm"] = _alarm(result)
    results = (*mine, result)
    for found in results:
        found.save(adapted.run_dir / "results")
    return Comparison(adapted, None if best is None else controls[best], results)


def _row(kind: str, run: RunResult, result: Result) -> dict[str, Any]:
    about = read_json(run.run_dir / RUN)
    config = yaml.safe_load((run.run_dir / CONFIG).read_text())
    return {
        "kind": kind,
        "lr": config.get("train", {}).get("lr"),
        "policy": config.get("train", {}).get("policy"),
        "n_parameters": run.n_parameters,
        "steps": about.get("steps"),
        "seconds": about.get("wall_s"),
        "valid_loss": run.best.get("valid_loss"),
        "best_epoch": about.get("best_epoch"),
        "epochs": about.get("epochs"),
        **{name: result.value(name) for name in MEASURES},
    }


def _named(prefix: str, result: Result) -> list[Metric]:
    found = ((name, result.metric(name)) for name in MEASURES)
    return [m.model_copy(update={"name": f"{prefix}_{name}"}) for name, m in found if m is not None]


def _gain(mine: Result, theirs: Result) -> list[Metric]:
    """Error of the control over that of the adapted one, with the frames drawn for both alike."""
    squares = np.stack([_squares(mine), _squares(theirs)])
    ratio = np.sqrt(squares[1].sum() / squares[0].sum())
    low = high = None
    n = squares.shape[1]
    if n >= MIN_UNITS:
        rng = np.random.default_rng(0)
        drawn = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) @ squares.T
        low, high = interval_95(np.sqrt(drawn[:, 1] / drawn[:, 0]))
    note = "force error from scratch over adapted, on the same test frames"
    return [
        Metric(name="gain", value=ratio, unit="", better="higher", low=low, high=high, note=note)
    ]


def _squares(result: Result) -> np.ndarray:
    """Sum of squared force errors of every frame, (n_frames,)."""
    arrays = result.arrays
    error = (arrays["forces"].astype(float) - arrays["forces_ref"]) ** 2
    frame = np.repeat(np.arange(len(arrays["n_atoms"])), arrays["n_atoms"])
    return np.bincount(frame, np.nan_to_num(error.sum(axis=1)), len(arrays["n_atoms"]))


def _forgetting(before: Result, after: Result) -> list[Metric]:
    found = [*_named("source_before", before), *_named("source_after", after)]
    one, other = before.value("forces_rmse"), after.value("forces_rmse")
    if one and other:
        note = "force error on the source's frames, after over before"
        found.append(
            Metric(name="forgetting", value=other / one, unit="", better="lower", note=note)
        )
    return found


def _alarm(result: Result) -> str:
    """Transfer that is worse than scratch is said, and how sure that is."""
    gain = result.metric("gain")
    if gain is None or gain.value is None or gain.value >= 1:
        return ""
    sure = gain.high is not None and gain.high < 1
    return (
        f"transfer is worse than training from scratch on the same frames: its force error is "
        f"{1 / gain.value:.2f} times as large"
        + ("" if sure else "; the test frames are too few to be sure")
        + ". Try another policy, a smaller learning rate, or use the control"
    )
