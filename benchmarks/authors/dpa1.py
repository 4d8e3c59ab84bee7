"""DPA-1 of deepmd-kit, its PyTorch backend, in float32; the sizes of our `paper` preset.

    pip install torch==2.13.0 mpich e3nn numpy scipy pyyaml dargs h5py wcmatch einops packaging \
        ml_dtypes mendeleev array-api-compat lmdb msgpack
    pip install --no-deps deepmd-kit==3.2.0
    rm $VIRTUAL_ENV/lib/python3*/site-packages/deepmd/lib/libdeepmd_op_pt.so

The wheel's compiled operators are built for another torch; DPA-1 with attention does not use them.
`sel`, the neighbours an atom has room for, is the largest number there is: the least work for the
authors' code, which also computes what stands in empty slots.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch


def build(data: dict[str, torch.Tensor]) -> tuple[torch.nn.Module, Callable[..., Any]]:
    """The model and `evaluate(training) -> energy, forces`; all frames have the same size."""
    os.environ.setdefault("DP_INTERFACE_PREC", "low")
    from deepmd.pt.model.descriptor.dpa1 import DescrptDPA1  # type: ignore[import-not-found]
    from deepmd.pt.model.task.ener import EnergyFittingNet  # type: ignore[import-not-found]

    n_frames = len(data["cell"])
    n_atoms = len(data["numbers"]) // n_frames
    ghost_atom, translation, nlist = ghosts(data, n_frames, n_atoms)
    elements, types = torch.unique(data["numbers"], return_inverse=True)
    types = types.view(n_frames, n_atoms)
    all_types = torch.cat([types, types.gather(1, ghost_atom)], dim=1)
    descriptor = DescrptDPA1(
        6.0,
        0.5,
        nlist.shape[2],
        len(elements),
        neuron=[25, 50, 100],
        axis_neuron=16,
        tebd_dim=8,
        attn=128,
        attn_layer=2,
        attn_dotr=True,
        smooth_type_embedding=True,
        set_davg_zero=True,
        precision="float32",
    )
    fitting = EnergyFittingNet(
        len(elements),
        descriptor.get_dim_out(),
        neuron=[240, 240, 240],
        resnet_dt=True,
        mixed_types=True,
        precision="float32",
    )
    model = torch.nn.ModuleList([descriptor, fitting])

    def evaluate(training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        positions = data["positions"].float().view(n_frames, n_atoms, 3).requires_grad_()
        images = positions.gather(1, ghost_atom[:, :, None].expand(-1, -1, 3)) + translation
        everywhere = torch.cat([positions, images], dim=1)
        described = descriptor(everywhere, all_types, nlist)[0]
        energy = fitting(described, types)["energy"].sum(dim=(1, 2))
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=training)
        return energy, -gradient.view(-1, 3)

    return model, evaluate


def ghosts(
    data: dict[str, torch.Tensor], n_frames: int, n_atoms: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images of atoms outside the cell, and neighbours counted through atoms and images.

    Returns:
        Atom of each image, (n_frames, n_images); its translation, (n_frames, n_images, 3);
        neighbours, -1 in empty slots, (n_frames, n_atoms, sel).
    """
    count = torch.bincount(data["center"], minlength=n_frames * n_atoms)
    first = torch.cumsum(count, 0) - count
    rank = torch.arange(len(data["center"])) - first[data["center"]]
    nlist = torch.full((n_frames, n_atoms, int(count.max())), -1)
    frames = []
    for k in range(n_frames):
        mine = data["system"][data["center"]] == k
        neighbor = data["neighbor"][mine] - k * n_atoms
        image = torch.cat([neighbor[:, None], data["shifts"][mine].long()], dim=1)
        outside = image[:, 1:].any(dim=1)
        unique, inverse = torch.unique(image[outside], dim=0, return_inverse=True)
        index = neighbor.clone()
        index[outside] = n_atoms + inverse
        nlist[k, data["center"][mine] - k * n_atoms, rank[mine]] = index
        frames.append((unique[:, 0], (unique[:, 1:].double() @ data["cell"][k]).float()))
    pad = torch.nn.utils.rnn.pad_sequence
    atom, translation = (pad([frame[i] for frame in frames], batch_first=True) for i in range(2))
    return atom, translation, nlist
