"""Figures of simulations and scans: what is drawn, and what is left out."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT

from siliforce.data.reference import EnergyCurve
from siliforce.indicators.adf import adf
from siliforce.indicators.pec import potential_energy_curves
from siliforce.indicators.rdf import rdf
from siliforce.indicators.survival import Lifetime, survival
from siliforce.indicators.vdos import density_of_states, vdos
from siliforce.report import structure
from siliforce.report.structure import Shown
from siliforce.report.svg import Series, chart
from tests.unit.indicators.test_distributions import hot_crystal, start_of
from tests.unit.indicators.test_observables import harmonic_trajectory


def paths(svg: str, kind: str) -> list[np.ndarray]:
    """Points of all paths of a class, each (n, 2)."""
    ElementTree.fromstring(svg)  # well formed
    found = re.findall(rf'<path class="{kind} [^"]*"[^>]* d="([^"]*)"', svg)
    numbers = [re.findall(r"-?\d+\.\d", d) for d in found]
    return [np.array(n, dtype=float).reshape(-1, 2) for n in numbers]


def test_a_band_is_an_area_within_the_chart() -> None:
    x = np.linspace(0, 1, 5)
    band = Series("", x, x, 0, "band", low=x - 1, high=x + 3)
    svg = str(chart([band], "x", "y", "t"))
    (area,) = paths(svg, "band")
    assert len(area) == 10
    assert area[:, 1].min() > 30  # the range holds the upper edge too
    assert area[:, 1].max() < 260


def test_distributions_lie_over_the_reference() -> None:
    frames = [hot_crystal(k) for k in range(8)]
    start = start_of(frames)
    for indicator, n_groups in ((rdf, 3), (adf, 6)):
        ours = indicator("a", frames[:4], start)
        failed = indicator("b", [], start, failure="close contact")
        figures = structure.distributions([Shown("a", ours, 0), Shown("b", failed, 1)])
        assert len(figures) == n_groups
        assert figures[0].legend == [("DFT", 9, "line"), ("a", 0, "line")]
        assert "mean absolute difference: a 0." in figures[0].caption
        assert len(paths(str(figures[0].svg), "line")) == 2
        assert len(paths(str(figures[0].svg), "band")) == 1
        for line in paths(str(figures[0].svg), "line"):
            assert line[:, 0].min() >= 58  # nothing to the left of the axis
    assert structure.distributions([Shown("b", failed, 1)]) == []


def test_energy_curves_show_the_well() -> None:
    x = np.arange(1.0, 6.0, 0.25)
    images = [Atoms("Cu2", [[0, 0, 0], [d, 0, 0]]) for d in x]
    energy = 3 * ((2.2 / x) ** 12 - 2 * (2.2 / x) ** 6)
    curve = EnergyCurve("CuCu", "distance", x, energy, images)
    result = potential_energy_curves(EMT(), [curve])[0]
    result.curves["energy"][3] = None
    figure = structure.energy_curves([Shown("emt", result, 2)])
    for line in paths(str(figure.svg), "line"):
        assert line[:, 1].min() >= 29  # the wall above the chart is cut off
        assert line[:, 0].min() >= 58
    assert [name for name, _, _ in figure.legend] == ["DFT", "emt"]
    assert figure.caption == ""
    result.metrics.append(result.metrics[0].model_copy(update={"name": "pec_floor", "value": 1.1}))
    assert "1.1" in structure.energy_curves([Shown("emt", result, 2)]).caption


def test_survival_is_drawn_in_steps() -> None:
    runs = [Lifetime(1.0, "drift", 300), Lifetime(2.0, "", 300), Lifetime(4.0, "", 600)]
    result = survival("m", runs)
    figure = structure.survival([Shown("m", result, 0)])
    (line,) = paths(str(figure.svg), "line")
    moves = np.diff(line, axis=0)
    assert ((moves == 0).any(axis=1)).all()  # along one axis at a time
    assert len(paths(str(figure.svg), "band")) == 1
    many = structure.survival([Shown(f"m{k}", result, k) for k in range(4)])
    assert not paths(str(many.svg), "band")
    assert many.caption == ""
    assert structure.survival([Shown("m", result, 0)], "600 K").title == "600 K"


def test_vibrations_up_to_the_last_one() -> None:
    frames, frequencies, _ = harmonic_trajectory(512, 4.0)
    result = vdos("m", frames, 4.0, density_of_states(frames, 4.0))
    figures = structure.vibrations([Shown("m", result, 0)])
    assert [f.title for f in figures] == ["Si", "Ge", "all atoms"]
    shown = re.search(r'data-x="0 ([\d.]+)', str(figures[2].svg))
    assert shown is not None
    assert frequencies.max() < float(shown[1]) < 40  # sampled up to 125 THz
    assert figures[0].legend == [("DFT", 9, "line"), ("m", 0, "line")]
    assert structure.vibrations([Shown("m", vdos("m", [], 4.0, failure="x"), 0)]) == []
