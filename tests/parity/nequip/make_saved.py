"""Trains tiny models with nequip's own script, and writes its checkpoints and its answers.

Run from the root of the checkout, in an environment of its own:

    pip install torch==2.13.0 nequip==0.19.1 nequip-allegro==0.8.3 ase==3.29.0
    python -m tests.parity.nequip.make_saved

NequIP in float64 with the average of its weights, whose answers the checkpoint's are, and in
float32; Allegro in float64.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

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

PARITY = Path(__file__).parents[1]
TYPES = ["O", "Si"]
SHARED: dict[str, Any] = {
    "seed": 1,
    "type_names": TYPES,
    "r_max": CUTOFF,
    "avg_num_neighbors": "${training_data_stats:num_neighbors_mean}",
    "per_type_energy_scales": "${training_data_stats:forces_rms}",
    "per_type_energy_shifts": ATOMIC_ENERGIES,
}
NEQUIP: dict[str, Any] = SHARED | {
    "_target_": "nequip.model.NequIPGNNModel",
    "num_layers": 3,
    "l_max": 1,
    "parity": True,
    "num_features": 4,
    "radial_mlp_depth": 1,
    "radial_mlp_width": 6,
    "num_bessels": 5,
    "bessel_trainable": True,
}
ALLEGRO: dict[str, Any] = SHARED | {
    "_target_": "allegro.model.AllegroModel",
    "num_layers": 2,
    "l_max": 1,
    "parity": True,
    "num_scalar_features": 6,
    "num_tensor_features": 4,
    "radial_chemical_embed": {
        "_target_": "allegro.nn.TwoBodyBesselScalarEmbed",
        "num_bessels": 5,
    },
    "scalar_embed_mlp_hidden_layers_width": 8,
    "allegro_mlp_hidden_layers_width": 8,
    "readout_mlp_hidden_layers_width": 5,
}
MODELS = {
    "nequip/saved_float64": (
        NEQUIP | {"model_dtype": "float64"},
        "nequip.train.EMALightningModule",
    ),
    "nequip/saved_float32": (
        NEQUIP | {"model_dtype": "float32", "parity": False, "bessel_trainable": False},
        "nequip.train.NequIPLightningModule",
    ),
    "allegro/saved_float64": (
        ALLEGRO | {"model_dtype": "float64"},
        "nequip.train.EMALightningModule",
    ),
}


def configuration(model: dict[str, Any], module: str) -> dict[str, Any]:
    """Of `nequip-train`."""
    loader = {"_target_": "torch.utils.data.DataLoader", "batch_size": 2}
    return {
        "run": ["train"],
        "data": {
            "_target_": "nequip.data.datamodule.ASEDataModule",
            "seed": 1,
            "split_dataset": {"file_path": "train.xyz", "train": 7, "val": 2},
            "transforms": [
                {
                    "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
                    "model_type_names": TYPES,
                },
                {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": CUTOFF},
            ],
            "train_dataloader": loader,
            "val_dataloader": loader,
            "stats_manager": {
                "_target_": "nequip.data.CommonDataStatisticsManager",
                "type_names": TYPES,
            },
        },
        "trainer": {
            "_target_": "lightning.Trainer",
            "accelerator": "cpu",
            "max_epochs": 3,
            "logger": False,
            "enable_progress_bar": False,
            "callbacks": [
                {
                    "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "dirpath": ".",
                    "filename": "best",
                    "monitor": "val0_epoch/weighted_sum",
                    "save_last": True,
                }
            ],
        },
        "training_module": {
            "_target_": module,
            "loss": {
                "_target_": "nequip.train.EnergyForceStressLoss",
                "coeffs": {"total_energy": 1.0, "forces": 1.0, "stress": 1.0},
            },
            "val_metrics": {"_target_": "nequip.train.EnergyForceStressMetrics"},
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.03},
            "model": model,
        },
    }


def main() -> None:
    """Write the files."""
    from nequip.integrations.ase import NequIPCalculator

    arrays: dict[str, dict[str, np.ndarray]] = {}
    for name, (model, module) in MODELS.items():
        package, kind = name.split("/")
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            write(folder / "train.xyz", training_frames(), format="extxyz")
            content = json.dumps(configuration(model, module), indent=1)
            (folder / "config.yaml").write_text(content)
            script = "from nequip.scripts.train import main; main()"
            subprocess.run([sys.executable, "-c", script, "-cn", "config"], cwd=folder, check=True)
            saved = folder / "last.ckpt"
            pack(saved, PARITY / package / f"{kind}.ckpt.xz")
            dtype = kind.removeprefix("saved_")
            found = answers(NequIPCalculator._from_saved_model(saved), dtype)
            arrays.setdefault(package, structures()).update(found)
    for package, content in arrays.items():
        np.savez_compressed(PARITY / package / "saved.npz", **content)


if __name__ == "__main__":
    main()
