"""O(3) algebra: harmonics, couplings, convolutions and symmetric powers.

Features are (n, (l_max + 1)², n_channels): components by degree, channels last.
"""

from siliforce.nn.o3.convolution import Convolution, EdgeBlocks, Path, natural_paths
from siliforce.nn.o3.exact import ExactModule
from siliforce.nn.o3.linear import DegreeLinear, UnitMLP, split_degrees
from siliforce.nn.o3.spherical_harmonics import SphericalHarmonics
from siliforce.nn.o3.symmetric import SymmetricContraction, symmetric_basis
from siliforce.nn.o3.wigner import wigner_3j

__all__ = [
    "Convolution",
    "DegreeLinear",
    "EdgeBlocks",
    "ExactModule",
    "Path",
    "SphericalHarmonics",
    "SymmetricContraction",
    "UnitMLP",
    "natural_paths",
    "split_degrees",
    "symmetric_basis",
    "wigner_3j",
]
