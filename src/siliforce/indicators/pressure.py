"""Pressure: what forces and energies hardly notice, and what decides on a volume."""

from __future__ import annotations

from collections.abc import Sequence

import ase.units
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError

from siliforce.errors import ConfigError, DataError
from siliforce.indicators.base import Metric, Result, model_name, stamp
from siliforce.indicators.distributions import MIN_FRAMES, resampled
from siliforce.indicators.sampling import interval_95
from siliforce.indicators.singlepoints import energies_and_stresses
from siliforce.potential import Potential
from siliforce.units import EV_PER_A3_IN_GPA

NO_STRESS = "predicts forces directly and has no stress"


def pressure(
    source: Potential | Calculator,
    frames: Sequence[Atoms],
    temperature: float | None = None,
    reference: float | None = None,
    name: str = "",
    split: str = "",
    failure: str = "",
) -> Result:
    """Mean pressure of a trajectory, or at given structures.

    `P = 2 K / (3 V) - tr(stress) / 3`, in GPa. The kinetic energy K comes from the velocities of
    the frames; without them from `temperature`, with the centre of mass at rest; without that the
    pressure is that of the atoms at rest. Which one it was is in the provenance (`kinetic`).

    Args:
        source: a potential (batched) or any ASE calculator.
        frames: periodic in three directions, in their order in time.
        temperature: K, for frames without velocities.
        reference: GPa, of the same frames or simulation by DFT.
        name: of the structure; its formula if empty.
        split: `id:NAME` or `ood:NAME`; `name` if empty.
        failure: why the run that made the frames failed: there is no pressure then.

    Returns:
        `pressure` with a 95 % interval of the sampling noise (block bootstrap of at least four
        frames), and `pressure_error` if there is a reference. A model that predicts forces
        directly has none: no value, and a note.

    Raises:
        DataError: no frames, frames without a volume, or unknown elements.
    """
    if not frames and not failure:
        raise DataError("there are no frames to take the pressure of")
    if not all(frame.pbc.all() for frame in frames):
        raise DataError("pressure needs structures that are periodic in three directions")
    hardware, provenance = stamp(source)
    values, note = np.zeros(0), failure
    direct = provenance.get("force_mode") == "direct"
    if direct:  # whether its run failed or not
        failure, note = "", f"not applicable: {model_name(source)} {NO_STRESS}"
    kinetic, origin = kinetic_part(frames, temperature)
    if not failure and not direct:
        try:
            stresses = energies_and_stresses(source, frames)[1]
            values = kinetic + virial_part(stresses)
        except (ConfigError, PropertyNotImplementedError, NotImplementedError) as error:
            note = f"not applicable: {error}"
    name = name or (frames[0].get_chemical_formula() if frames else "")
    return Result(
        indicator="pressure",
        model=model_name(source),
        dataset=name,
        split=split or name,
        metrics=_metrics(values, reference, note),
        curves={"pressure": values, "reference": reference},
        failure=failure,
        hardware=hardware,
        provenance=provenance | {"kinetic": origin, "n_frames": len(values)},
    )


def virial_part(stresses: np.ndarray) -> np.ndarray:
    """What the forces contribute to the pressure, GPa: stresses (n, 3, 3) in eV/Å³ to (n,)."""
    return -EV_PER_A3_IN_GPA * np.trace(stresses, axis1=1, axis2=2) / 3


def kinetic_part(frames: Sequence[Atoms], temperature: float | None) -> tuple[np.ndarray, str]:
    """Kinetic part of the pressure of every frame, GPa, and where it comes from."""
    volumes = np.array([frame.get_volume() for frame in frames])
    if frames and all(frame.has("momenta") for frame in frames):
        energies = np.array([frame.get_kinetic_energy() for frame in frames])
        return EV_PER_A3_IN_GPA * 2 * energies / (3 * volumes), "velocities"
    if temperature is not None:
        moving = np.array([len(frame) - 1 for frame in frames])
        energies = 1.5 * moving * ase.units.kB * temperature
        return EV_PER_A3_IN_GPA * 2 * energies / (3 * volumes), f"{temperature:g} K"
    return np.zeros(len(frames)), "none: atoms at rest"


def _metrics(values: np.ndarray, reference: float | None, note: str) -> list[Metric]:
    mean = float(values.mean()) if len(values) else None
    low = high = None
    if len(values) >= MIN_FRAMES:
        low, high = interval_95(resampled(values[:, None], 0)[:, 0])
    metrics = [Metric(name="pressure", value=mean, unit="GPa", low=low, high=high, note=note)]
    if reference is not None:
        error = None if mean is None else mean - reference
        bounds = [None if b is None else b - reference for b in (low, high)]
        metrics.append(
            Metric(
                name="pressure_error",
                value=error,
                unit="GPa",
                low=bounds[0],
                high=bounds[1],
                note=note,
            )
        )
    return metrics
