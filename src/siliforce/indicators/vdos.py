"""Vibrational density of states, per element, from the velocities of a trajectory.

The power spectrum of the velocities is the Fourier transform of their autocorrelation function
(Wiener and Khinchin). Weighted by the masses it is the density of states of a harmonic solid in
which every mode has the same energy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.data import chemical_symbols
from scipy.signal import welch
from scipy.stats import wasserstein_distance

from siliforce.data.reference import Curves
from siliforce.errors import DataError
from siliforce.indicators.base import Metric, Result, model_name, stamp
from siliforce.potential import Potential

TOTAL = "all"
MIN_FRAMES = 16
FS_PER_PS = 1e3


def density_of_states(
    frames: Sequence[Atoms], interval: float, resolution: float | None = None
) -> Curves:
    """Vibrational density of states of every element and of all atoms, each of area 1.

    The trajectory is cut into windows that overlap by half; their spectra (Hann window) are
    averaged. Frequencies reach up to half of the sampling rate: vibrations that are faster than
    two frames appear at a wrong frequency.

    Args:
        frames: with velocities, of one trajectory, equally spaced in time.
        interval: between two frames, fs.
        resolution: THz; shorter windows give less noise and less resolution. A quarter of the
            trajectory per window if not given.

    Returns:
        `x` in THz; values by symbol and `all`, 1/THz.

    Raises:
        DataError: too few frames, no velocities, or a resolution that the trajectory cannot give.
    """
    numbers = _checked(frames, interval)
    velocities = np.stack([frame.get_velocities() for frame in frames])
    rate = FS_PER_PS / interval  # per ps: THz
    window = max(MIN_FRAMES, len(frames) // 4)
    if resolution is not None:
        window = round(rate / resolution)
        if not MIN_FRAMES <= window <= len(frames):
            longest, least = rate / len(frames), rate / MIN_FRAMES
            raise DataError(
                f"a resolution of {resolution:g} THz cannot be had of {len(frames)} frames "
                f"{interval:g} fs apart; between {longest:.3g} and {least:.3g} THz can"
            )
    frequencies, power = welch(velocities, rate, nperseg=window, axis=0, detrend="constant")
    per_atom = (power.sum(axis=2) * frames[0].get_masses()).T
    found = {chemical_symbols[z]: per_atom[numbers == z].sum(axis=0) for z in np.unique(numbers)}
    found[TOTAL] = per_atom.sum(axis=0)
    step = frequencies[1]
    return Curves(frequencies, {name: v / (v.sum() * step) for name, v in found.items()})


def vdos(
    source: Potential | Calculator | str,
    frames: Sequence[Atoms],
    interval: float,
    reference: Curves | None = None,
    resolution: float | None = None,
    name: str = "",
    split: str = "",
    failure: str = "",
) -> Result:
    """Vibrational density of states of a trajectory, and its distance to a reference.

    Args:
        source: what made the trajectory, or its name.
        frames: with velocities, equally spaced in time; may be empty if the run failed.
        interval: between two frames, fs.
        reference: of `density_of_states` for the reference trajectory.
        resolution: THz.
        name: of the structure; its formula if empty.
        split: `id:NAME` or `ood:NAME`; `name` if empty.
        failure: why the run failed; then there is no score.

    Returns:
        `vdos_wasserstein` (THz), the mean over elements of the Wasserstein-1 distance to the
        reference; `mean_frequency` (THz).

    Raises:
        DataError: as `density_of_states`, or a reference of other elements.
    """
    hardware, provenance = stamp(source)
    name = name or (frames[0].get_chemical_formula() if frames else "")
    result = Result(
        indicator="vdos",
        model=model_name(source),
        dataset=name,
        split=split or name,
        failure=failure,
        hardware=hardware,
        provenance=provenance | {"interval_fs": interval, "n_frames": len(frames)},
    )
    found = None
    if frames or not failure:
        found = density_of_states(frames, interval, resolution)
        result.curves = {"x": found.x, "unit": "THz", "values": found.values}
    if reference is not None:
        result.curves |= {"reference_x": reference.x, "reference": reference.values}
    scored = None if failure else found
    mean = None if scored is None else float(np.average(scored.x, weights=scored.values[TOTAL]))
    result.metrics = [Metric(name="mean_frequency", value=mean, unit="THz", note=failure)]
    if reference is not None:
        value = None if scored is None else _distance(scored, reference)
        result.metrics.insert(
            0,
            Metric(name="vdos_wasserstein", value=value, unit="THz", better="lower", note=failure),
        )
    return result


def _distance(found: Curves, reference: Curves) -> float:
    """Mean over elements of the Wasserstein-1 distance, THz; the grids may differ."""
    names = [name for name in found.values if name != TOTAL]
    if set(names) != set(reference.values) - {TOTAL}:
        raise DataError(
            f"the reference is of {', '.join(reference.values)}, the trajectory of "
            f"{', '.join(found.values)}: not the same elements"
        )
    return float(
        np.mean(
            [
                wasserstein_distance(
                    found.x, reference.x, found.values[name], reference.values[name]
                )
                for name in names
            ]
        )
    )


def _checked(frames: Sequence[Atoms], interval: float) -> np.ndarray:
    if not interval > 0:
        raise DataError(f"the time between two frames is {interval} fs; it must be positive")
    if len(frames) < MIN_FRAMES:
        raise DataError(
            f"a density of states needs {MIN_FRAMES} frames at least, not {len(frames)}"
        )
    if not all(frame.has("momenta") for frame in frames):
        raise DataError(
            "frames without velocities; keep them when the trajectory is written "
            "(extended XYZ: the column momenta; ASE's .traj has them)"
        )
    if any(not np.array_equal(frame.numbers, frames[0].numbers) for frame in frames):
        raise DataError("the frames do not all hold the same atoms in the same order")
    return frames[0].numbers
