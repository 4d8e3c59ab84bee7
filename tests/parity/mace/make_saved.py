"""Trains two tiny models with mace-torch's own script, and writes its files and its answers.

Run from the root of the checkout, in an environment of its own:

    pip install torch==2.13.0 && pip install mace-torch==0.3.16    # brings e3nn 0.4.4
    python -m tests.parity.mace.make_saved
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from ase.io import write

from tests.parity.saved_models import (
    ATOMIC_ENERGIES,
    CUTOFF,
    answers,
    pack,
    structures,
    training_frames,
)

HERE = Path(__file__).parent
OPTIONS = {
    "train_file": "train.xyz",
    "valid_fraction": "0.2",
    "E0s": str({8: ATOMIC_ENERGIES["O"], 14: ATOMIC_ENERGIES["Si"]}),
    "model": "ScaleShiftMACE",
    "max_ell": "2",
    "r_max": str(CUTOFF),
    "radial_MLP": "[8]",
    "MLP_irreps": "4x0e",
    "num_radial_basis": "6",
    "num_cutoff_basis": "5",
    "loss": "stress",
    "batch_size": "2",
    "valid_batch_size": "2",
    "max_num_epochs": "2",
    "lr": "0.05",
    "ema_decay": "0.9",
    "device": "cpu",
    "energy_key": "REF_energy",
    "forces_key": "REF_forces",
    "stress_key": "REF_stress",
}
SIZES = {
    "float64": {"hidden_irreps": "4x0e + 4x1o", "correlation": "3"},
    "float32": {"hidden_irreps": "3x0e", "correlation": "2"},
}


def main() -> None:
    """Write the files."""
    from mace.calculators import MACECalculator

    arrays = structures()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frames = training_frames()
        for atoms in frames:
            atoms.info["REF_energy"] = atoms.get_potential_energy()
            atoms.info["REF_stress"] = atoms.get_stress(voigt=False)
            atoms.arrays["REF_forces"] = atoms.get_forces()
            atoms.calc = None
        write(folder / "train.xyz", frames, format="extxyz")
        for dtype, sizes in SIZES.items():
            options = {**OPTIONS, **sizes, "name": dtype, "default_dtype": dtype}
            words = [f"--{key}={value}" for key, value in options.items()]
            subprocess.run(
                [sys.executable, "-m", "mace.cli.run_train", *words, "--ema"],
                cwd=folder,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            saved = folder / f"{dtype}.model"
            pack(saved, HERE / f"saved_{dtype}.model.xz")
            calculator = MACECalculator(model_paths=str(saved), device="cpu", default_dtype=dtype)
            arrays |= answers(calculator, dtype)
    np.savez_compressed(HERE / "saved.npz", **arrays)


if __name__ == "__main__":
    main()
