"""Holds fairchem's DimeNet++, which the benchmark used, against PyTorch Geometric's.

Run from the root of the checkout, in the environment of `tests/parity/gemnet/make_reference.py`:

    python -m tests.parity.dimenet_pp.compare_fairchem

Both have their own layers; they get the weights of `reference.npz`, evaluate its structures by the
same calls, and the largest differences are printed; weights that only fairchem's has are zero.
(SchNet needs no such comparison: fairchem's is a subclass of PyTorch Geometric's.) What fairchem
does around the layers is not compared: it leaves the angles out of the derivative, so that its
forces are not the gradient of its energy.
"""

from __future__ import annotations

import numpy as np
import torch_geometric.nn.models
from benchmarks.authors.gemnet_t import stand_ins

from tests.parity.dimenet_pp.make_reference import build, evaluate
from tests.parity.schnet.make_reference import structures


def main() -> None:
    """Print the largest differences in energies and forces over all structures."""
    stand_ins()
    from fairchem.core.models.dimenet_plus_plus import DimeNetPlusPlus

    geometric = build()
    torch_geometric.nn.models.DimeNetPlusPlus = DimeNetPlusPlus
    fairchem = build.__wrapped__()
    missing, unknown = fairchem.load_state_dict(geometric.state_dict(), strict=False)
    assert not unknown
    for name in missing:
        fairchem.get_parameter(name).data.zero_()
    differences = []
    for atoms in structures().values():
        pairs = zip(evaluate(geometric, atoms), evaluate(fairchem, atoms), strict=True)
        differences.append([np.abs(a - b).max() for a, b in pairs])
    energy, force = np.max(differences, axis=0)
    kinds = f"{type(geometric).__module__} and {type(fairchem).__module__}"
    print(f"{kinds}: {energy:.1e} eV, {force:.1e} eV/Å, {len(differences)} structures")
    print(f"only in the second, set to zero: {', '.join(missing)}")


if __name__ == "__main__":
    main()
