"""Results survive the way to disk and back, and say what is wrong with a damaged file."""

from __future__ import annotations

import json
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from siliforce.errors import DataError
from siliforce.hardware import describe_hardware, hardware_stamp, usable_cores
from siliforce.indicators.base import Metric, Result, load_results
from siliforce.indicators.tables import replica_table


def example() -> Result:
    return Result(
        indicator="errors",
        model="mace",
        split="ood:300 K/melt",
        metrics=[Metric(name="forces_mae", value=np.float64(12.5), unit="meV/Å", better="lower")],
        tables={"by_element": [{"label": "Si", "n_atoms": np.int64(4), "forces_mae": np.nan}]},
        curves={"energy": np.arange(3.0)},
        arrays={"forces": np.ones((2, 3), np.float32), "label_group": np.array(["a", "b"])},
    )


def test_round_trip(tmp_path):
    path = example().save(tmp_path)
    assert path.name == "errors-ood_300_K_melt.json"
    found = Result.load(path)
    assert found.value("forces_mae") == 12.5
    assert found.tables["by_element"][0] == {"label": "Si", "n_atoms": 4, "forces_mae": None}
    assert found.curves["energy"] == [0.0, 1.0, 2.0]
    assert list(found.arrays["label_group"]) == ["a", "b"]
    assert found.value("nothing") is None


def test_saving_again_without_arrays_leaves_no_old_ones(tmp_path):
    path = example().save(tmp_path)
    example().model_copy(update={"arrays": {}}).save(tmp_path)
    assert Result.load(path).arrays == {}


def test_not_a_number_is_none_in_the_file(tmp_path):
    result = Result(indicator="x", model="m", metrics=[Metric(name="a", value=np.nan, unit="eV")])
    text = result.save(tmp_path).read_text()
    assert "NaN" not in text
    assert json.loads(text)["metrics"][0]["value"] is None


def test_damaged_files_are_named(tmp_path):
    path = example().save(tmp_path)
    good = path.read_text()
    path.write_text(good[:-30])
    with pytest.raises(DataError, match="damaged"):
        Result.load(path)
    path.write_text(good.replace('"format_version":1', '"format_version":9'))
    path.write_text(json.dumps(json.loads(good) | {"format_version": 9}))
    with pytest.raises(DataError, match="format 9"):
        Result.load(path)
    path.write_text(good)
    path.with_suffix(".npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(DataError, match=r"npz: damaged"):
        Result.load(path)
    results, problems = load_results(tmp_path)
    assert results == []
    assert len(problems) == 1
    with pytest.raises(DataError, match="no such result"):
        Result.load(tmp_path / "other.json")


def test_hardware_stamp_names_the_machine():
    stamp = hardware_stamp()
    assert stamp["n_cores"] == usable_cores() >= 1
    assert stamp["cpu"]
    assert "gpu" not in stamp
    json.dumps(stamp)
    line = describe_hardware(stamp)
    assert stamp["cpu"] in line
    assert "thread" in line
    assert describe_hardware({}) == "hardware not recorded"
    assert "H200" in describe_hardware({"gpu": "NVIDIA H200", "torch": "2.13"})


def test_a_table_of_replicas_fits_a_terminal() -> None:
    """Every number and head is whole at 80 columns, and every reason is there."""
    values = {
        "survived": (1.5, "ps"), "planned": (1.5, "ps"), "temperature_mean": (1203.4, "K"),
        "temperature_std": (88.2, "K"), "energy_drift": (-1234.6, "meV/atom/ps"),
        "pressure_mean": (-0.0123, "GPa"), "volume_mean": (1046.2, "Å³"), "a_mean": (10.1, "Å"),
        "b_mean": (10.2, "Å"), "c_mean": (10.3, "Å"), "min_distance": (1.81, "Å"),
        "md_speed": (979.0, "µs/atom/step"),
    }  # fmt: skip
    metrics = [Metric(name=n, value=v, unit=u) for n, (v, u) in values.items()]
    runs = [
        Result(indicator="dynamics", model="m", split=f"Hf32O64-1200K-{k}", metrics=metrics)
        for k in range(3)
    ]
    runs[1].failure = "close contact after 0.060 ps"
    console = Console(width=80, record=True, file=StringIO())
    console.print(replica_table(runs))
    text = console.export_text()
    assert "…" not in text
    for shown in ("Hf32O64-1200K-2", "temperature", "survived", "-1235", "meV/atom/ps", "-0.0123"):
        assert shown in text
    assert "failed: Hf32O64-1200K-1: close contact after 0.060 ps" in text
