"""Reference data from a user's own AIMD trajectories and DFT scans."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from siliforce.data.frame import Frame
from siliforce.data.read import ImportReport, ReadOptions, read_frames
from siliforce.data.reference import (
    UNITS,
    Coordinate,
    Curves,
    EnergyCurve,
    EnergyVolume,
    Pressure,
    Reference,
    Start,
)
from siliforce.errors import DataError
from siliforce.indicators import adf, rdf, vdos
from siliforce.indicators.distributions import MIN_FRAMES, resampled
from siliforce.indicators.pressure import kinetic_part, virial_part

SHAPE_TOLERANCE = 1e-3
"""Relative: by how much a scaled cell may differ in shape from the others."""


def make_reference(
    name: str,
    aimd: Mapping[str, str | Path],
    eos: Mapping[str, str | Path],
    pec: Mapping[str, str | Path],
    skip: int = 0,
    temperature: float | None = None,
    ood: Sequence[str] = (),
    interval: float | None = None,
    **facts: str,
) -> Reference:
    """A reference from files in any format that siliforce reads.

    Args:
        name: of the material.
        aimd: start -> trajectory. Its first frame is the start; its curves are averages over the
            frames from `skip` on, and their noise comes from a block bootstrap of the same. If all
            these frames have stresses, it has a pressure too.
        eos: structure -> frames of one cell scaled isotropically, with energies.
        pec: curve -> frames along one coordinate, with energies: `distance` (Å) or `angle`
            (degree) of each frame by that name in the file; of two atoms it is measured.
        skip: first frames of every trajectory that are not averaged.
        temperature: K; where it is not given, it is read from the start's name (`a-1200K`) or from
            the frames.
        ood: starts and structures outside the training distribution.
        interval: between two frames of every trajectory, fs; with it there is a vibrational density
            of states, from the velocities if the frames have them, else from the positions.
        facts: source, licence, level_of_theory.

    Raises:
        DataError: files that do not hold this; each says what is missing.
    """
    unknown = set(ood) - {*aimd, *eos}
    if unknown:
        raise DataError(
            f"out of distribution: {', '.join(sorted(unknown))} is neither a start nor a "
            f"structure; there are {', '.join([*aimd, *eos]) or 'none'}"
        )
    starts = [
        start_from_frames(key, _frames(path), skip, temperature, key in ood, interval)
        for key, path in aimd.items()
    ]
    return Reference(
        name=name,
        starts=starts,
        eos=[energy_volume(key, _frames(path), key in ood) for key, path in eos.items()],
        pec=[energy_curve(key, _frames(path)) for key, path in pec.items()],
        bulk_modulus_noise=None,  # of one's own DFT nobody knows it yet
        **facts,
    )


def start_from_frames(
    name: str,
    frames: Sequence[Frame],
    skip: int = 0,
    temperature: float | None = None,
    ood: bool = False,
    interval: float | None = None,
) -> Start:
    """A start with the curves, and their noise, of a trajectory; see `make_reference`.

    Raises:
        DataError: no frames are left, or no temperature is known.
    """
    if skip >= len(frames):
        raise DataError(f"{name}: {len(frames)} frames, of which {skip} are to be left out")
    kelvin = temperature or _temperature(name, frames)
    images = [_moving(frame) for frame in frames[skip:]]
    pairs, angles = rdf.radial(images), adf.angular(images)
    pressure, pressure_noise = _pressure(frames[skip:], images, kelvin)
    try:
        vibrations, vibrations_noise = _vibrations(images, interval)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    return Start(
        name=name,
        atoms=frames[0].to_atoms(),
        temperature=kelvin,
        ood=ood,
        rdf=pairs.curves(),
        adf=angles.curves(),
        pressure=pressure,
        vdos=vibrations,
        noise=rdf.KIND.noise(pairs) | adf.KIND.noise(angles) | pressure_noise | vibrations_noise,
    )


def _moving(frame: Frame) -> Atoms:
    """Structure, and velocities where they are known."""
    atoms = frame.to_atoms()
    if frame.velocities is not None:
        atoms.set_velocities(frame.velocities)
    return atoms


def _pressure(
    frames: Sequence[Frame], images: Sequence[Atoms], temperature: float
) -> tuple[Pressure | None, dict[str, float]]:
    """Mean pressure with its noise; nothing unless every frame has a stress."""
    stresses = [frame.stress for frame in frames if frame.stress is not None]
    if len(stresses) < len(frames):
        return None, {}
    virial = virial_part(np.stack(stresses))
    values = (virial + kinetic_part(images, temperature)[0])[:, None]
    error, noise = None, {}
    if len(values) >= MIN_FRAMES:
        error = float(resampled(values, 0).std())
        difference = np.abs(resampled(values, 1) - resampled(values, 2))
        noise = {"pressure_error": float(difference.mean())}
    return Pressure(float(values.mean()), error, float(np.sqrt(np.mean(virial**2)))), noise


def _vibrations(
    images: Sequence[Atoms], interval: float | None
) -> tuple[Curves | None, dict[str, float]]:
    """Density of states with its noise; nothing without the time between frames."""
    if interval is None:
        return None, {}
    if all(image.has("momenta") for image in images):
        return vdos.density_of_states(images, interval), vdos.noise(images, interval)
    moving = vdos.with_velocities(images, interval)
    found = vdos.undamped(vdos.density_of_states(moving, interval), interval)
    return found, vdos.noise(moving, interval)


def energy_volume(name: str, frames: Sequence[Frame], ood: bool = False) -> EnergyVolume:
    """Points of an equation of state; the frame of lowest energy has scale 1.

    Raises:
        DataError: fewer than five frames, no energies, or not one cell scaled isotropically.
    """
    energies = _energies(name, frames)
    if len(frames) < 5:
        raise DataError(f"{name}: an equation of state needs five frames, not {len(frames)}")
    lowest = frames[int(energies.argmin())]
    volumes = np.array([abs(np.linalg.det(frame.cell)) for frame in frames])
    if not volumes.all():
        raise DataError(f"{name}: frames without a cell have no volume")
    scales = np.round((volumes / abs(np.linalg.det(lowest.cell))) ** (1 / 3), 6)
    for frame, scale in zip(frames, scales, strict=True):
        same = np.array_equal(frame.numbers, lowest.numbers)
        if not same or not _alike(frame.cell / scale, lowest.cell):
            raise DataError(
                f"{name}: {frame.source} is not the cell of {lowest.source} scaled isotropically"
            )
    order = np.argsort(volumes)
    points = np.stack([scales, volumes, energies], axis=1)[order]
    return EnergyVolume(name, lowest.to_atoms(), points, ood)


def energy_curve(name: str, frames: Sequence[Frame]) -> EnergyCurve:
    """Points of a potential energy curve, in the order of the coordinate.

    Raises:
        DataError: fewer than three frames, no energies, or no coordinate.
    """
    energies = _energies(name, frames)
    if len(frames) < 3:
        raise DataError(f"{name}: a curve needs three frames, not {len(frames)}")
    coordinate, x = _coordinate(name, frames)
    order = np.argsort(x)
    if not np.diff(x[order]).all():
        raise DataError(f"{name}: two frames have the same {coordinate}")
    images = [frames[k].to_atoms() for k in order]
    return EnergyCurve(name, coordinate, x[order], energies[order], images)


def _coordinate(name: str, frames: Sequence[Frame]) -> tuple[Coordinate, np.ndarray]:
    kinds: tuple[Coordinate, ...] = ("distance", "angle")
    for kind in kinds:
        values = [frame.tags.get(kind) for frame in frames]
        if all(isinstance(v, float) for v in values):
            return kind, np.array(values, dtype=float)
    if all(frame.n_atoms == 2 for frame in frames):
        measured = [f.to_atoms().get_distance(0, 1, mic=bool(f.pbc.any())) for f in frames]
        return "distance", np.array(measured)
    units = " or ".join(f"{kind} ({unit})" for kind, unit in UNITS.items())
    raise DataError(
        f"{name}: every frame of a cluster needs its {units}, by that name, in the file"
    )


def _frames(path: str | Path) -> list[Frame]:
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file")
    return list(read_frames(path, ReadOptions(), ImportReport()))


def _energies(name: str, frames: Sequence[Frame]) -> np.ndarray:
    energies = np.array([frame.energy for frame in frames])
    missing = [f.source for f, e in zip(frames, energies, strict=True) if not np.isfinite(e)]
    if missing:
        raise DataError(f"{name}: no energy in {', '.join(missing[:3])}; label these frames first")
    return energies


def _temperature(name: str, frames: Sequence[Frame]) -> float:
    named = re.search(r"(\d+(?:\.\d+)?)K$", name)
    if named:
        return float(named[1])
    known = {frame.tags.get("temperature") for frame in frames}
    if len(known) == 1 and isinstance(value := known.pop(), float):
        return value
    raise DataError(f"{name}: at what temperature? Give it, or name the start '{name}-1200K'")


def _alike(cell: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(cell - other).max() < SHAPE_TOLERANCE * np.abs(other).max())


def summary(reference: Reference) -> list[str]:
    """Lines for a terminal: what a reference holds, and the noise of its curves."""
    lines = [f"{reference.name}: licence {reference.licence}; {reference.level_of_theory}"]
    for start in reference.starts:
        noise = ", ".join(f"{key} {value:.3g}" for key, value in start.noise.items())
        lines.append(f"  start {start.split:<28} {_what(start.atoms)}; noise: {noise or 'unknown'}")
        if start.pressure is not None:
            about = "" if start.pressure.error is None else f" ± {start.pressure.error:.2g}"
            lines.append(f"    pressure {start.pressure.mean:.3g}{about} GPa")
        if start.vdos is not None:
            lines.append(f"    density of states, {start.vdos.x[1]:.2g} THz apart")
    for scan in reference.eos:
        low, high = scan.points[:, 0].min(), scan.points[:, 0].max()
        lines.append(f"  eos   {scan.split:<28} {_what(scan.atoms)}; scales {low:g} to {high:g}")
    for curve in reference.pec:
        lines.append(
            f"  pec   {curve.name:<28} {_what(curve.images[0])}; {len(curve.x)} points, "
            f"{curve.x[0]:g} to {curve.x[-1]:g} {curve.unit}"
        )
    return lines


def _what(atoms: Atoms) -> str:
    return atoms.get_chemical_formula()
