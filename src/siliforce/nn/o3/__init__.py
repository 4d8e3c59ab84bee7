"""O(3) algebra: harmonics, couplings, convolutions and symmetric powers.

Features are (n, n_components, n_channels): the components of one irrep after the other, channels
last. Where all are of natural parity that is (n, (l_max + 1)², n_channels).
"""

from siliforce.nn.o3.convolution import (
    Convolution,
    EdgeBlocks,
    Path,
    coupling_paths,
    natural_paths,
)
from siliforce.nn.o3.environment import EnvironmentProduct, environment
from siliforce.nn.o3.exact import ExactModule
from siliforce.nn.o3.fused import BLOCK
from siliforce.nn.o3.irreps import (
    SCALAR,
    Irrep,
    all_irreps,
    layers_of_irreps,
    natural_irreps,
    split_irreps,
)
from siliforce.nn.o3.linear import (
    DegreeLinear,
    Gate,
    TypedLinear,
    UnitMLP,
    select_product,
    split_degrees,
)
from siliforce.nn.o3.spherical_harmonics import SphericalHarmonics
from siliforce.nn.o3.symmetric import SymmetricContraction, symmetric_basis
from siliforce.nn.o3.wigner import wigner_3j

__all__ = [
    "BLOCK",
    "SCALAR",
    "Convolution",
    "DegreeLinear",
    "EdgeBlocks",
    "EnvironmentProduct",
    "ExactModule",
    "Gate",
    "Irrep",
    "Path",
    "SphericalHarmonics",
    "SymmetricContraction",
    "TypedLinear",
    "UnitMLP",
    "all_irreps",
    "coupling_paths",
    "environment",
    "layers_of_irreps",
    "natural_irreps",
    "natural_paths",
    "select_product",
    "split_degrees",
    "split_irreps",
    "symmetric_basis",
    "wigner_3j",
]
