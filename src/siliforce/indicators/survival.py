"""How long simulations hold: Kaplan-Meier curves over replicas and temperatures, and reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.calculators.calculator import Calculator
from scipy.stats import beta, norm

from siliforce.errors import DataError
from siliforce.indicators.base import Metric, Result, model_name, stamp
from siliforce.potential import Potential
from siliforce.simulation.md import MDRun

LEVEL = 0.95


@dataclass(frozen=True)
class Lifetime:
    """How one run ended.

    Attributes:
        time: reached, ps.
        reason: why it failed; empty if it did not: then it would have gone on (*censored*).
        temperature: K.
    """

    time: float
    reason: str = ""
    temperature: float = 0.0

    @classmethod
    def of(cls, run: MDRun) -> Lifetime:
        """Of a run of molecular dynamics."""
        reason = run.failure.reason if run.failure is not None else ""
        return cls(run.survived, reason, run.config.temperature)


@dataclass(frozen=True)
class KaplanMeier:
    """Probability to survive, as steps.

    Attributes:
        time: of the steps, ps; the first is 0, the last the longest time reached.
        survived: probability from this time on, (n_steps,).
        low, high: 95 % interval.
    """

    time: np.ndarray
    survived: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def mean_lifetime(self) -> float:
        """Area under the curve up to the longest time reached, ps: the *restricted* mean."""
        return float(np.sum(self.survived[:-1] * np.diff(self.time)))


def kaplan_meier(lifetimes: Sequence[Lifetime]) -> KaplanMeier:
    """The product-limit estimate.

    The interval is Greenwood's on the scale of log(-log S), which stays between 0 and 1; where S
    is 0 or 1, and that says nothing, it is the exact one of a binomial distribution.

    Args:
        lifetimes: at least one.

    Raises:
        DataError: none, or a time that is negative or not a number.

    Reference:
        Kaplan and Meier, J. Am. Stat. Assoc. 53, 457 (1958).
    """
    times = np.array([run.time for run in lifetimes])
    if not len(times) or not (times >= 0).all():
        raise DataError(f"survival needs runs with times of at least 0 ps, not {times.tolist()}")
    failed = np.array([bool(run.reason) for run in lifetimes])
    steps, survived, variance = [0.0], [1.0], [0.0]
    for time in np.unique(times[failed]):
        at_risk, deaths = (times >= time).sum(), (failed & (times == time)).sum()
        steps.append(float(time))
        survived.append(survived[-1] * (1 - deaths / at_risk))
        rest = at_risk - deaths
        variance.append(variance[-1] + (deaths / (at_risk * rest) if rest else 0.0))
    if steps[-1] < times.max():
        steps.append(float(times.max()))
        survived.append(survived[-1])
        variance.append(variance[-1])
    bounds = [_interval(s, v, len(times)) for s, v in zip(survived, variance, strict=True)]
    low, high = np.array(bounds).T
    low[0] = high[0] = 1.0  # every run begins
    return KaplanMeier(np.array(steps), np.array(survived), low, high)


def _interval(survived: float, variance: float, n_runs: int) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    if survived <= 0:
        return 0.0, float(beta.ppf(1 - tail, 1, n_runs))
    if survived >= 1:
        return float(beta.ppf(tail, n_runs, 1)), 1.0
    width = norm.ppf(1 - tail) * np.sqrt(variance) / abs(np.log(survived))
    return float(survived ** np.exp(width)), float(survived ** np.exp(-width))


def survival(
    source: Potential | Calculator | str,
    runs: Sequence[MDRun | Lifetime],
    name: str = "",
    split: str = "",
) -> Result:
    """How many replicas reached their end, how long they lived, and why the others failed.

    Args:
        source: what was simulated, or its name.
        runs: replicas, of one or several temperatures.
        name: of the structure.
        split: `id:NAME` or `ood:NAME`; `name` if empty.

    Returns:
        `survived_fraction` at the longest time that any run reached, with a 95 % interval;
        `mean_lifetime` (ps) up to that time: not the mean time to failure, which runs that held
        do not tell; `n_failed`. Tables: `reasons`, `runs`; a curve per temperature beside that
        of all runs.

    Raises:
        DataError: no runs.
    """
    lifetimes = [run if isinstance(run, Lifetime) else Lifetime.of(run) for run in runs]
    everything = kaplan_meier(lifetimes)
    hardware, provenance = stamp(source)
    end = float(everything.time[-1])
    metrics = [
        Metric(
            name="survived_fraction",
            value=everything.survived[-1],
            unit="1",
            better="higher",
            low=everything.low[-1],
            high=everything.high[-1],
            note=f"at {end:g} ps, {len(lifetimes)} runs",
        ),
        Metric(
            name="mean_lifetime",
            value=everything.mean_lifetime(),
            unit="ps",
            better="higher",
            note=f"up to {end:g} ps",
        ),
        Metric(name="n_failed", value=sum(bool(r.reason) for r in lifetimes), unit="runs"),
    ]
    return Result(
        indicator="survival",
        model=model_name(source),
        dataset=name,
        split=split or name,
        metrics=metrics,
        tables={
            "reasons": _reasons(lifetimes),
            "runs": [
                {"time": r.time, "reason": r.reason, "temperature": r.temperature}
                for r in lifetimes
            ],
        },
        curves={"all": _curve(everything)} | _by_temperature(lifetimes),
        hardware=hardware,
        provenance=provenance | {"n_runs": len(lifetimes), "longest_ps": end},
    )


def _by_temperature(lifetimes: Sequence[Lifetime]) -> dict[str, Any]:
    temperatures = sorted({run.temperature for run in lifetimes})
    if len(temperatures) < 2:
        return {}
    return {
        f"{t:g} K": _curve(kaplan_meier([r for r in lifetimes if r.temperature == t]))
        for t in temperatures
    }


def _curve(found: KaplanMeier) -> dict[str, Any]:
    return {
        "time": found.time,
        "survived": found.survived,
        "low": found.low,
        "high": found.high,
    }


def _reasons(lifetimes: Sequence[Lifetime]) -> list[dict[str, Any]]:
    """How often each reason ended a run, per temperature, the most frequent first."""
    counts = Counter((r.reason, r.temperature) for r in lifetimes if r.reason)
    of_temperature = Counter(r.temperature for r in lifetimes)
    return [
        {"label": reason, "temperature": t, "failed": n, "runs": of_temperature[t]}
        for (reason, t), n in counts.most_common()
    ]
