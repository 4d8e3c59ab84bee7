"""A synthetic campaign, to look at layouts and to test rules: no number in it was measured."""

from __future__ import annotations

import numpy as np

from siliforce.benchmark.collect import Entry
from siliforce.benchmark.findings import Findings
from siliforce.benchmark.scores import Anchor
from siliforce.indicators.base import Metric, Result

MODELS = ("bpnn", "dpa1", "schnet", "dimenet_pp", "gemnet_t", "gemnet_dt", "nequip", "allegro")
MODELS += ("mace", "scn")
MATERIALS = ("synthetic-SiN", "synthetic-HfO")
STARTS = {"id:crystal-1200K": 1200.0, "id:crystal-1800K": 1800.0, "ood:vacancy-1200K": 1200.0}
R = 0.05 * np.arange(121)
PEC = "pec_energy_rmse_attractive"
ANGLES = np.arange(1, 181.0)


def synthetic(
    models: tuple[str, ...] = MODELS, materials: tuple[str, ...] = MATERIALS, seeds: int = 3
) -> Findings:
    """Made-up results of every kind: the k-th model is k times worse than the first."""
    entries = []
    for material in materials:
        for label in models:
            for seed in range(seeds):
                rng = np.random.default_rng([MODELS.index(label), seed, len(material)])
                size = (1 + MODELS.index(label)) * (1 + 0.1 * rng.normal())
                entries.append(_baseline(label, material, seed, size))
                entries += _studies(label, material, seed, size)
    fixed = {material: _anchors() for material in materials}
    about = {m: [("frames", "synthetic"), ("reference", "synthetic")] for m in materials}
    return Findings("synthetic campaign", entries, fixed, about)


def _anchors() -> list[Anchor]:
    found = []
    for split in ("test", "ood:stage"):
        found.append(Anchor("energy", split, "energy_rmse", "meV/atom", 0.5, 60.0, "synthetic"))
        found.append(Anchor("forces", split, "forces_rmse", "meV/Å", 10.0, 1500.0, "synthetic"))
    for split in STARTS:
        found.append(Anchor("rdf", split, "rdf_mae", "1", 0.02, 1.0, "synthetic"))
        found.append(Anchor("adf", split, "adf_mae", "1", 0.02, 0.8, "synthetic"))
        found.append(Anchor("pressure", split, "pressure_error", "GPa", 0.1, 12.0, "synthetic"))
        found.append(Anchor("survival", split, "survived_fraction", "1", 1.0, 0.0, "synthetic"))
    for split in ("id:crystal", "ood:vacancy"):
        found.append(Anchor("V0", split, "V0_error", "%", 0.05, 9.0, "synthetic"))
        found.append(Anchor("B0", split, "B0_error", "%", 0.4, 100.0, "synthetic"))
    found.append(
        Anchor("pec", "ood:dimer", "pec_energy_rmse_attractive", "eV", 0.0, 3.0, "synthetic")
    )
    return found


def _result(
    indicator: str, split: str, values: dict[str, float], failure: str = "", **more: object
) -> Result:
    metrics = [Metric(name=name, value=value, unit="synthetic") for name, value in values.items()]
    return Result.model_validate(
        {"indicator": indicator, "model": "synthetic", "split": split, "failure": failure}
        | {"metrics": metrics, **more}
    )


def _errors(size: float) -> list[Result]:
    return [
        _result(
            "errors",
            split,
            {"energy_rmse": 2 * size * f, "forces_rmse": 60 * size * f, "ef": 0.062 * size * f},
        )
        for split, f in (("train", 0.8), ("test", 1.0), ("ood:stage", 2.0))
    ]


def _speed(size: float, factor: float = 1.0) -> Result:
    values = {"energy_forces": 900 * factor / size, "peak_memory": 0.1 * size}
    return _result("speed", "", values, provenance={"n_atoms": 96})


def _baseline(label: str, material: str, seed: int, size: float) -> Entry:
    direct = label in ("gemnet_dt", "scn")
    results = [*_errors(size), _speed(size)]
    for split, temperature in STARTS.items():
        fails = label == "schnet" and (split.startswith("ood") or temperature > 1500)
        fails = fails or (label == "allegro" and split.startswith("ood") and seed == 1)
        failure = "close contact after 1.200 ps: two atoms 0.61 Å apart" if fails else ""
        config = {"config": {"temperature": temperature}}
        times = {"survived": 1.2 if fails else 9.0, "planned": 9.0}
        drift = {} if fails else {"energy_drift": -30.0 * size if direct else 0.2 * size}
        results.append(_result("dynamics", split, times | drift, failure, provenance=config))
        squeezed = {} if fails or direct else {"pressure": 5 + size, "pressure_error": size}
        known = {"reference": 5.0}
        results.append(_result("pressure", split, squeezed, failure, curves=known))
        results.append(_result("survival", split, {"survived_fraction": 0.0 if fails else 1.0}))
        for kind, x, step in (("rdf", R, 0.02), ("adf", ANGLES, 0.015)):
            truth = 1 + np.exp(-((x - x.mean()) ** 2) / (0.01 * np.ptp(x) ** 2))
            curves = {
                "x": x,
                "reference": {"A-B": truth},
                "reference_errors": {"A-B": 0.05 * truth},
            }
            curves["values"] = {"A-B": truth * (1 + 0.02 * size * np.sin(x))}
            errors = {} if fails else {f"{kind}_mae": step * size}
            rows = {"by_group": [{"label": "A-B", f"{kind}_mae": step * size}]}
            results.append(_result(kind, split, errors, failure, curves=curves, tables=rows))
    for split, factor in (("id:crystal", 0.2), ("ood:vacancy", 0.5)):
        results.append(_volume(split, factor * size))
    results.append(_cluster(size))
    for result in results:
        result.provenance["force_mode"] = "direct" if direct else "gradient"
    failures = {}
    if label == "dpa1" and seed == 2:
        results, failures = [], {"train": "synthetic: the loss diverged 3 times"}
    facts = {"n_parameters": int(1e5 * size)}
    return Entry(label, material, seed, results=results, failures=failures, facts=facts)


def _volume(split: str, percent: float) -> Result:
    volumes = np.linspace(18, 22, 17)
    energy = 0.4 * (volumes - 20 * (1 + percent / 100)) ** 2
    truth = {"volume": volumes, "energy": 0.4 * (volumes - 20) ** 2, "scale": np.cbrt(volumes / 20)}
    curves = {"scale": truth["scale"], "volume": volumes, "energy": energy, "n_atoms": 2}
    metrics = {"V0_error": percent, "B0_error": -4 * percent}
    return _result("eos", split, metrics, curves=curves | {"reference": truth})


def _cluster(size: float) -> Result:
    x = np.linspace(1.2, 4.0, 20)
    truth = (1 - np.exp(-2 * (x - 1.7))) ** 2 - 1
    curves = {"x": x, "reference": truth, "energy": truth * (1 + 0.05 * size)}
    curves |= {"coordinate": "distance", "unit": "Å"}
    return _result("pec", "ood:dimer", {PEC: 0.2 * size}, curves=curves)


def _studies(label: str, material: str, seed: int, size: float) -> list[Entry]:
    found = []
    for width in (0.25, 0.5, 1.0, 2.0):
        results = [*_errors(size / width**0.4), _speed(size, width**1.5)]
        found.append(Entry(label, material, seed, "width", f"{width:g}", results))
    for fraction in (0.2, 0.4, 0.6, 0.8, 1.0):
        results = _errors(size / fraction**0.5)
        found.append(Entry(label, material, seed, "fraction", f"{fraction:g}", results))
    for kind, factor in (("mae", 1.0), ("mse", 1.2)):
        for weight in (0.1, 1.0, 10.0):
            results = _errors(size * factor * (1 + 0.2 * abs(np.log10(weight) - 0.5)))
            found.append(Entry(label, material, seed, "loss", f"{kind} {weight:g}", results))
    for kind, factor in (("normalised", 1.0), ("centred", 1.02), ("none", 1.05)):
        found.append(Entry(label, material, seed, "normalisation", kind, _errors(size * factor)))
    return found
