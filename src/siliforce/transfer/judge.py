"""An adapted potential and its controls on the same frames: errors, gain, what was forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from siliforce.data import Dataset
from siliforce.indicators.base import Metric, Result, stamp
from siliforce.indicators.errors import evaluate
from siliforce.indicators.sampling import MIN_UNITS, RESAMPLES, interval_95
from siliforce.indicators.tables import digits
from siliforce.potential import Potential
from siliforce.training.record import CONFIG, RUN, read_json
from siliforce.training.run import RunResult

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
    def sentence(self) -> str:
        """The answer in words; empty without a control."""
        gain = self.result.metric("gain")
        if gain is None or gain.value is None:
            return ""
        mine, theirs = (self.result.value(f"{k}_forces_rmse") for k in ("adapted", "scratch"))
        if mine is None or theirs is None:
            return ""
        sure = ""
        if gain.low is not None and gain.high is not None:
            sure = f" [{digits(gain.low, 3)}, {digits(gain.high, 3)}]"
        return (
            f"force error on the test frames: {digits(mine, 3)} meV/Å adapted, {digits(theirs, 3)} "
            f"from scratch on the same frames, {digits(gain.value, 3)}{sure} times as large"
        )

    @property
    def alarm(self) -> str:
        """What speaks against the adapted potential or the comparison; empty if nothing does."""
        return str(self.result.provenance.get("alarm", ""))


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
            *(_gain(mine[0], theirs) if theirs is not None and not useless(theirs) else []),
            *(_forgetting(before, mine[1]) if before is not None else []),
        ],
        tables={"runs": rows},
        hardware=hardware,
        provenance=provenance
        | {"n_frames": len(used), "n_test": len(sets["test"]), "control": bool(controls)},
    )
    control = next((row for row in rows if row.get("chosen")), None)
    said = [_control_alarm(control, theirs), _alarm(result)]
    result.provenance["alarm"] = ". ".join(text for text in said if text)
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
        "stop_reason": about.get("stop_reason"),
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


def unfinished(row: Mapping[str, Any]) -> bool:
    """Whether a training's best epoch lies in its last tenth, and its budget ended it.

    Args:
        row: its `best_epoch`, `epochs` and, where it is known, `stop_reason`.
    """
    stopped_early = str(row.get("stop_reason")).startswith("no improvement")
    return not stopped_early and (row.get("best_epoch") or 0) > 0.9 * (row.get("epochs") or np.inf)


def useless(result: Result) -> bool:
    """Whether predicting zero forces has a smaller error."""
    relative = result.value("forces_relative")
    return relative is not None and relative >= 100


def _control_alarm(row: Mapping[str, Any] | None, control: Result | None) -> str:
    """A control that was not trained to the end makes a gain that is none."""
    if row is None or control is None:
        return ""
    more = "allow a larger budget, by --max-time or --epochs"
    if useless(control):
        return (
            "from scratch nothing was learned: the force error is "
            f"{control.value('forces_relative'):.0f} % of that of predicting zero forces, so no "
            f"gain is given; {more}"
        )
    if unfinished(row):
        return (
            "the control was still improving when its budget ended, so the gain may be smaller: "
            + more
        )
    return ""


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
