"""The next frames to label: of high predicted error, and unlike each other.

Frames are described by the fingerprint that finds copies (`siliforce.data.fingerprint`). One after
another the frame is taken whose predicted error, times its distance to the nearest frame that is
labelled or taken, is largest; distances beyond the typical one of the pool count as that. So a near
copy of what is known is worth little however uncertain it is, and an exact copy is never taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from scipy.spatial.distance import cdist, pdist

from siliforce.active.calibration import Calibration, calibrate, checked, labelled
from siliforce.active.rule import MEV, Outlook, outlook
from siliforce.active.spread import Ensemble, Method, ask, frame_rms, load_ensemble
from siliforce.data import Dataset, load_dataset
from siliforce.data.fingerprint import COPY, fingerprints
from siliforce.errors import ConfigError, DataError
from siliforce.files import write_atomic
from siliforce.generate.frames import to_extxyz
from siliforce.generate.sampling import CLOSEST
from siliforce.generate.structures import closest_approach
from siliforce.indicators.base import Metric, Result, model_name, stamp

INDICATOR = "uncertainty"
SAMPLE = 500
"""Frames from which the typical distance is taken."""


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Attributes:
        frames: to be labelled, most wanted first, with `predicted_force_error` (eV/Å) in `info`.
        outlook: of the whole pool.
        stop: whether its error is surely below the stated one; None if none was stated or nothing
            can be said.
        result: for the report.
    """

    frames: list[Atoms]
    outlook: Outlook
    stop: bool | None
    result: Result

    def write(self, path: str | Path) -> Path:
        """As extended XYZ, which `siliforce generate label` takes; atomic."""
        return write_atomic(path, to_extxyz(self.frames))


def choose(
    pool: Any,
    models: str | Path | Sequence[str | Path],
    n: int = 20,
    *,
    below: float | None = None,
    calibrate_on: Any = None,
    method: Method = "auto",
    device: torch.device | str = "cpu",
) -> Choice:
    """Choose the next frames to label.

    Args:
        pool: frames, labelled or not; labels are not looked at.
        models: run folders, model files, or the folder of an ensemble.
        n: how many.
        below: stated force error, eV/Å: where the pool's is surely below it, nothing is chosen.
        calibrate_on: frames with forces that no model was trained on; else those that the run
            folders hold out.
        method: `ensemble`, `last-layer` (of one model), or `auto`: what the models allow.

    Raises:
        ConfigError: a method that the models do not allow, nothing to choose.
        DataError: no held-out frames, unknown elements, no usable frame.
    """
    if n < 1:
        raise ConfigError(f"{n} frames: choose at least one")
    named = [models] if isinstance(models, str | Path) else list(models)
    ensemble = load_ensemble(named, method, device)
    frames = load_dataset(pool)
    rows = np.array([r for r in range(len(frames)) if sound(frames[r].to_atoms())], dtype=int)
    if len(rows) == 0:
        raise DataError(f"none of the {len(frames)} frames can be labelled: atoms overlap")
    usable = frames.subset(rows)
    held_frames = _held(ensemble, calibrate_on)
    held = labelled(ask(ensemble.members, held_frames))
    if not held.spread.max() > 0:
        raise DataError("the members agree exactly on all held-out frames: they are the same model")
    calibration = calibrate(held)
    answers = ask(ensemble.members, usable)
    found = outlook(calibration, answers.spread, len(usable), float(held.spread.max()))
    errors = frame_rms(calibration.map(answers.spread), answers.n_atoms)
    stop = None if below is None else found.stop(below)
    known = [d for d in (ensemble.train, ensemble.held, held_frames) if d is not None]
    taken = [] if stop else pick(errors, *_features(usable, known), n)
    atoms = [_atoms(usable, row, float(errors[row])) for row in taken]
    result = _result(ensemble, calibration, checked(held), found, below)
    result.provenance |= {
        "sentences": _sentences(ensemble, calibration, found, below, len(taken), n),
        "n_pool": len(frames), "n_overlapping": len(frames) - len(usable), "n_chosen": len(taken),
    }  # fmt: skip
    result.tables["chosen"] = [
        {"row": int(rows[r]), "error": MEV * float(errors[r]), "source": usable.sources[r]}
        for r in taken
    ]
    result.curves["pool"] = {"errors": (MEV * np.sort(errors)).tolist()}
    return Choice(atoms, found, stop, result)


def pick(errors: np.ndarray, features: np.ndarray, known: np.ndarray | None, n: int) -> list[int]:
    """Rows of the next frames, most wanted first; fewer than n where the rest are copies.

    Args:
        errors: predicted, (n_frames,).
        features: fingerprints, (n_frames, n_features).
        known: fingerprints of frames that are labelled already.
    """
    nearest = np.full(len(features), np.inf)
    if known is not None and len(known):
        nearest = cdist(features, known).min(axis=1)
    typical = max(_typical(features), COPY)
    rows: list[int] = []
    while len(rows) < n:
        worth = np.where(nearest < COPY, -np.inf, errors * np.minimum(nearest / typical, 1.0))
        best = int(worth.argmax())
        if worth[best] == -np.inf:
            break
        rows.append(best)
        nearest = np.minimum(nearest, np.linalg.norm(features - features[best], axis=1))
    return rows


def sound(atoms: Atoms) -> bool:
    """Whether atoms keep apart as far as any that were ever labelled."""
    return closest_approach(atoms) >= CLOSEST


def _typical(features: np.ndarray) -> float:
    """Median distance between frames."""
    some = features[:: 1 + len(features) // SAMPLE]
    return float(np.median(pdist(some))) if len(some) > 1 else 0.0


def _features(pool: Dataset, known: Sequence[Dataset]) -> tuple[np.ndarray, np.ndarray]:
    """Fingerprints of the pool and of what is labelled."""
    elements = tuple(sorted({z for part in (pool, *known) for z in part.elements}))
    own, *labelled_ones = (fingerprints(part, elements).values for part in (pool, *known))
    return own, np.concatenate(labelled_ones)


def _held(ensemble: Ensemble, named: Any) -> Dataset:
    held = ensemble.held if named is None else load_dataset(named)
    if held is None:
        raise DataError(
            "the models name no held-out frames that are still there: name some with forces, by "
            "--calibrate"
        )
    return held


def _atoms(pool: Dataset, row: int, error: float) -> Atoms:
    """A frame for the file, without its labels."""
    atoms = pool[row].to_atoms()
    facts = {
        "group": pool.groups[row],
        "config_type": pool.config_types[row],
        "pool_frame": pool.sources[row],
    }
    known = pool.all_tags[row] | facts
    atoms.info |= {key: value for key, value in known.items() if value != ""}
    atoms.info["predicted_force_error"] = round(error, 5)
    return atoms


def _result(
    ensemble: Ensemble,
    calibration: Calibration,
    quality: dict[str, Any],
    found: Outlook,
    below: float | None,
) -> Result:
    hardware, provenance = stamp(ensemble.members[0])
    upper = None if found.upper is None else MEV * found.upper
    metrics = [
        Metric(name="predicted_forces_rmse", value=MEV * found.error, unit="meV/Å",
               better="lower", high=upper),
        Metric(name="spearman", value=quality["spearman"], unit="", better="higher",
               note="rank correlation of predicted and true error, held-out atoms"),
        Metric(name="within", value=100 * quality["within"], unit="%",
               note="held-out atoms within the bound that 95 % should keep"),
        Metric(name="calibration_deviation", value=100 * quality["deviation"], unit="%",
               better="lower", note="of predicted from true error, mean over the bins"),
    ]  # fmt: skip
    return Result(
        indicator=INDICATOR,
        model=model_name(ensemble.members[0]),
        split="pool",
        metrics=metrics,
        tables={
            "reliability": [
                {"predicted": MEV * bin_["predicted"], "true": MEV * bin_["true"]}
                for bin_ in quality["reliability"]
            ]
        },
        hardware=hardware,
        provenance=provenance
        | {
            "method": ensemble.method,
            "n_members": len(ensemble.members),
            "calibration": calibration.to_json(),
            "below": below,
            "beyond": found.beyond,
        },
    )


def _sentences(
    ensemble: Ensemble,
    calibration: Calibration,
    found: Outlook,
    below: float | None,
    n_taken: int,
    n: int,
) -> list[str]:
    kind = {
        "ensemble": f"an ensemble of {len(ensemble.members)}",
        "last-layer": "the last layer's posterior",
    }[ensemble.method]
    sentences = [
        f"Pool: {found.sentence(below)}.",
        f"From {kind}, calibrated on {calibration.n_frames} held-out frames.",
    ]
    if found.beyond > 0.01:
        sentences.append(
            f"Warning: {100 * found.beyond:.0f} % of the atoms are less certain than any held-out "
            "one: there the predicted error is extrapolated."
        )
    if found.stop(below) if below is not None else False:
        return [*sentences, "No frame is chosen."]
    if n_taken < n:
        chosen = "1 frame is" if n_taken == 1 else f"{n_taken or 'no'} frames are"
        sentences.append(f"Only {chosen} chosen: the rest copy them, or labelled ones.")
    return sentences
