"""The ASE calculator: one potential, or an ensemble with its spread."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from siliforce.errors import ConfigError, DataError, ModelFileError
from siliforce.hardware import choose_device, keep_freed_memory
from siliforce.potential import Potential, Prediction
from siliforce.simulation.domain import OutsideRangeWarning, outside_range
from siliforce.simulation.neighbors import SkinList, narrowed

Source = Potential | str | Path

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class SiliforceCalculator(Calculator):
    """Energy, free energy, energies of atoms, forces and stress for ASE.

    With several potentials the results are their means, and `results` also holds the sample
    standard deviations over the members: `energy_std` (eV), `forces_std` (n_atoms, 3; eV/Å) and,
    where there is one, `stress_std` (Voigt, eV/Å³). They show where the members disagree; they
    are not calibrated errors.

    Attributes:
        potentials: the members.
        neighbors: the neighbour list, kept between calls.
    """

    implemented_properties: ClassVar[list[str]] = [
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
    ]

    def __init__(
        self,
        potential: Source | Sequence[Source],
        device: str = "auto",
        dtype: str | torch.dtype | None = None,
        skin: float = 0.5,
        warn: bool = True,
        **kwargs: Any,
    ) -> None:
        """Load what is given as a path.

        Args:
            potential: a potential, a model file or a run folder; or several for an ensemble, or
                the folder of a run with several seeds.
            device: `auto` takes an accelerator if there is one.
            dtype: of the networks, `float32` or `float64`; that of the model file if not given.
            skin: margin of the neighbour list, Å.
            warn: once, when a structure lies far outside the training data.

        Raises:
            ModelFileError: a file that cannot be used.
            ConfigError: no member, members of different elements, or no such device.
        """
        super().__init__(**kwargs)
        sources = members_of(potential)
        if not sources:
            raise ConfigError("an ensemble needs at least one potential")
        place = choose_device(device)
        if place.type == "cpu":
            keep_freed_memory()
        self.potentials = [_load(source, place, dtype) for source in sources]
        elements = {frozenset(p.species.symbols) for p in self.potentials}
        if len(elements) > 1:
            listed = "; ".join(" ".join(sorted(e)) for e in elements)
            raise ConfigError(f"the members of an ensemble know different elements: {listed}")
        self.neighbors = SkinList(max(p.cutoff for p in self.potentials), skin, place)
        self._warn = warn

    @property
    def has_stress(self) -> bool:
        """False if a member predicts forces directly."""
        return all(p.has_stress for p in self.potentials)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill `results`; energy and forces always, stress when asked for.

        Raises:
            DataError: unknown elements, overlapping atoms, NaN positions, a cell without volume.
            ConfigError: stress of a direct model or of a structure without a volume.
        """
        super().calculate(atoms, list(properties), list(system_changes))
        structure = self.atoms
        stress = "stress" in properties
        if len(structure) == 0:
            raise DataError("the structure holds no atoms")
        if stress and not structure.pbc.all():
            raise ConfigError(
                f"stress needs a cell that is periodic in three directions; pbc is "
                f"{structure.pbc.tolist()}"
            )
        self.potentials[0].check_elements(structure.numbers)
        searches = self.neighbors.searches
        graph = self.neighbors.update(structure)
        if self._warn and self.neighbors.searches > searches:
            self._warn_outside(structure, graph)
        members = []
        for potential in self.potentials:
            local = narrowed(graph, potential.cutoff, potential.model.needs, potential.dtype)
            members.append(_arrays(potential(local, forces=True, stress=stress)))
        self.results = _combined(members)

    def _warn_outside(self, atoms: Atoms, graph: Any) -> None:
        reasons = outside_range(self.potentials[0].card, atoms, graph)
        if reasons:
            self._warn = False
            warnings.warn(
                "this structure lies far outside the training data, so the answer may be "
                f"meaningless: {'; '.join(reasons)}. Said once; label such structures and "
                "train on them",
                OutsideRangeWarning,
                stacklevel=2,
            )


def members_of(potential: Source | Sequence[Source]) -> list[Source]:
    """The potentials named: one, several, or those of an ensemble's folder.

    Raises:
        ModelFileError: the folder's list of members is damaged.
    """
    if isinstance(potential, Potential):
        return [potential]
    if not isinstance(potential, str | Path):
        return list(potential)
    manifest = Path(potential) / "ensemble.json"
    if not manifest.is_file():
        return [potential]
    try:
        return [manifest.parent / name for name in json.loads(manifest.read_text())["members"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{manifest}: damaged ({error})") from error


def _load(source: Source, device: torch.device, dtype: str | torch.dtype | None) -> Potential:
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise ConfigError(f"dtype '{dtype}' is not known; allowed: {', '.join(DTYPES)}")
        dtype = DTYPES[dtype]
    if not isinstance(source, Potential):
        return Potential.load(source, device, dtype)
    if dtype is not None and dtype != source.dtype:
        source = copy.deepcopy(source).set_dtype(dtype)  # the caller's own stays as it is
    return source.to(device).eval()


def _arrays(prediction: Prediction) -> dict[str, np.ndarray]:
    """One system's results under ASE's names."""
    assert prediction.forces is not None
    found = {
        "energy": prediction.energy[0],
        "energies": prediction.atom_energies,
        "forces": prediction.forces.detach().double(),
    }
    arrays = {name: value.detach().cpu().numpy() for name, value in found.items()}
    if prediction.stress is not None:
        stress = prediction.stress[0].detach().double().cpu().numpy()
        arrays["stress"] = full_3x3_to_voigt_6_stress(stress)
    return arrays


def _combined(members: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Mean over the members, and their sample standard deviation if there are several."""
    stacked = {name: np.stack([m[name] for m in members]) for name in members[0]}
    results: dict[str, Any] = {name: values.mean(axis=0) for name, values in stacked.items()}
    if len(members) > 1:
        for name in ("energy", "forces", "stress"):
            if name in stacked:
                results[f"{name}_std"] = stacked[name].std(axis=0, ddof=1)
    for name in ("energy", "energy_std"):
        if name in results:
            results[name] = float(results[name])
    results["free_energy"] = results["energy"]
    return results
