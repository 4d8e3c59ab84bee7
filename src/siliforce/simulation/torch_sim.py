"""Our potentials as models of torch-sim: its integrators, optimisers and autobatching run on them.

torch-sim is not needed otherwise. Its releases for Python 3.11 end with 0.3; newer ones need 3.12.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from siliforce.errors import ConfigError
from siliforce.potential import Potential
from siliforce.simulation.forces import SKIN
from siliforce.simulation.neighbors import SkinList, narrowed

try:
    from torch_sim.models.interface import ModelInterface
except ImportError as error:
    raise ConfigError("torch-sim is not installed: pip install torch-sim-atomistic") from error


class TorchSimModel(ModelInterface):
    """A potential behind torch-sim's interface.

    States are float64, whatever the precision of the network. Neighbour lists are kept between
    calls as in our own dynamics.
    """

    def __init__(
        self,
        potential: Potential | str | Path,
        device: torch.device | str = "cpu",
        compute_stress: bool | None = None,
        skin: float = SKIN,
    ) -> None:
        """Take a potential, or load a model file or run folder.

        Args:
            potential: one of ours, used where it is; or a path.
            device: for a path.
            compute_stress: by default wherever the model has a stress.
            skin: margin of the neighbour lists, Å.

        Raises:
            ModelFileError: a file that cannot be used.
            ConfigError: stress of a direct model.
        """
        super().__init__()
        if not isinstance(potential, Potential):
            potential = Potential.load(potential, device)
        self.potential = potential
        self._device, self._dtype = potential.device, torch.float64
        self._compute_forces = True
        self._compute_stress = potential.has_stress
        if compute_stress is not None:
            self._set_stress(compute_stress)
        self.pairs = SkinList(potential.cutoff, skin, potential.device)

    @property
    def compute_stress(self) -> bool:
        """Whether answers hold the stress."""
        return bool(self._compute_stress)

    @compute_stress.setter
    def compute_stress(self, value: bool) -> None:
        if value and not self.potential.has_stress:
            raise NotImplementedError(f"{self.potential.model.title} has no stress")
        self._compute_stress = value

    def _set_stress(self, value: bool) -> None:
        if value and not self.potential.has_stress:
            raise ConfigError(
                f"{self.potential.model.title} predicts forces directly and has no stress"
            )
        self._compute_stress = value

    def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
        """Energy (eV), forces (eV/Å) and stress (eV/Å³, tension positive) of a `SimState`.

        Raises:
            DataError: elements that the potential does not know, or overlapping atoms.
        """
        cell = state.row_vector_cell.to(torch.float64)
        n_systems = len(cell)
        periodic = torch.as_tensor(state.pbc, device=cell.device).expand(n_systems, 3)
        graph = self.pairs.follow(
            numbers=state.atomic_numbers.to(torch.int64),
            sizes=torch.bincount(state.system_idx, minlength=n_systems),
            positions=state.positions.to(torch.float64),
            cell=cell,
            pbc=periodic,
        )
        local = narrowed(
            graph, self.potential.cutoff, self.potential.model.needs, self.potential.dtype
        )
        found = self.potential(local, forces=True, stress=self.compute_stress)
        answer = {"energy": found.energy, "forces": found.forces}
        if self.compute_stress:
            answer["stress"] = found.stress
        return {name: value.detach().to(self._dtype) for name, value in answer.items()}
