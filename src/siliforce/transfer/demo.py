"""The demonstration as a Result: curves of all ways to learn, and what transfer saves."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from siliforce.hardware import hardware_stamp
from siliforce.indicators.base import Metric, Result
from siliforce.transfer.curves import middle_and_band
from siliforce.transfer.molecules import (
    ADDED,
    CONTROL,
    HIDDEN,
    N_FEATURES,
    SOURCE,
    TARGET,
    TRANSFER,
    UNMOVED,
    DemoConfig,
    Learner,
    check,
    load_molecules,
    scratch_inputs,
    train_source,
    transfer_inputs,
)
from siliforce.transfer.saved import Curve, saved_at, shared_draws

INDICATOR = "transfer-molecules"
CLAIM = (25, 1000)
"""Of the paper: so many H2S samples with transfer do what takes so many without."""

MEV = 1e3


def demonstrate(
    config: DemoConfig | None = None, progress: Callable[[str], None] = lambda text: None
) -> Result:
    """Run the demonstration on the embedded set.

    Args:
        progress: told what was finished.

    Raises:
        ConfigError: more samples than the set has.
    """
    config, started = config or DemoConfig(), time.monotonic()
    target = load_molecules(TARGET)
    check(config, len(target))
    pool, test = target[: len(target) - config.n_test], target[-config.n_test :]
    source = train_source(load_molecules(SOURCE), config)
    progress(f"source: {MEV * source.error:.2g} meV/atom on H2O frames it has not seen")
    head = (HIDDEN[-1], *ADDED, 1)
    ways = {
        TRANSFER: (transfer_inputs(source), head),
        UNMOVED: (transfer_inputs(source, moved=False), head),
        CONTROL: (scratch_inputs, (N_FEATURES, *HIDDEN, 1)),
    }
    curves, tuning = {}, []
    for name, (inputs, sizes) in ways.items():
        curves[name], notes = Learner(inputs, sizes, config).curve(pool, test)
        tuning += [{"method": name, **note} for note in notes]
        progress(f"{name}: done after {time.monotonic() - started:.0f} s")
    return Result(
        indicator=INDICATOR,
        model="two hidden layers of 8",
        dataset="h2o-h2s",
        split="test",
        metrics=_metrics(curves),
        tables={"saved": _saved(curves), "tuning": tuning},
        curves={name: _shown(curve) for name, curve in curves.items()},
        hardware=hardware_stamp("cpu"),
        provenance={
            "config": config.model_dump(mode="json"),
            "n_pool": len(pool),
            "source_energy_rmse": MEV * source.error,
            "seconds": time.monotonic() - started,
            "intervals": f"geometric means and their 95 % intervals over {config.n_draws} draws",
            "shared_draws": shared_draws(config.sizes, len(pool)),
        },
    )


def _metrics(curves: Mapping[str, Curve]) -> list[Metric]:
    """The two numbers of the claim, and the samples saved."""
    few = _nearest(curves[TRANSFER], CLAIM[0])
    many = _nearest(curves[CONTROL], CLAIM[1])
    saved = saved_at(curves[TRANSFER], curves[CONTROL], few).ratio
    return [
        _metric("transfer_energy_rmse", curves[TRANSFER], few),
        _metric("scratch_energy_rmse", curves[CONTROL], many),
        saved.metric("samples_saved", f"at the error of {few} samples"),
    ]


def _nearest(curve: Curve, size: int) -> int:
    """The size that was measured nearest to one of the claim."""
    return min(curve, key=lambda n: abs(n - size))


def _metric(name: str, curve: Curve, size: int) -> Metric:
    mean, low, high = middle_and_band([MEV * error for error in curve[size]])
    return Metric(
        name=name, value=mean, unit="meV/atom", better="lower", low=low, high=high,
        note=f"{size} samples",
    )  # fmt: skip


def _saved(curves: Mapping[str, Curve]) -> list[dict[str, float | str]]:
    rows: list[dict[str, float | str]] = []
    for size in curves[TRANSFER]:
        saved = saved_at(curves[TRANSFER], curves[CONTROL], size)
        errors = {name: MEV * middle_and_band(curve[size])[0] for name, curve in curves.items()}
        rows.append({"samples": size, **errors, "saved": saved.ratio.text()})
    return rows


def _shown(curve: Curve) -> dict[str, object]:
    bands = [middle_and_band([MEV * error for error in draws]) for draws in curve.values()]
    mean, low, high = zip(*bands, strict=True)
    errors = [[MEV * error for error in draws] for draws in curve.values()]
    return {"samples": list(curve), "mean": mean, "low": low, "high": high, "errors": errors}
