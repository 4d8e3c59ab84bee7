"""What a database of compositions costs in DFT samples, with and without transfer.

From scratch every composition needs M_s samples, `N_SL = M_s N0`. With transfer one does, and the
N0 - 1 others need m_t each, `N_TL = M_s + (N0 - 1) m_t`. The ratio R = N_SL / N_TL rises with N0
towards M_s / m_t and is close to it from N0 of that size on.

Transfer Learning of Potential Energy Surfaces for Efficient Atomistic Modeling of Doping and
Alloy, IEEE Electron Device Letters 41 (2020).
"""

from __future__ import annotations

from collections.abc import Sequence

from siliforce.errors import ConfigError


def samples_from_scratch(n_compositions: int, per_composition: float) -> float:
    """N_SL: every composition learned from nothing."""
    _check(n_compositions)
    return per_composition * n_compositions


def samples_with_transfer(n_compositions: int, for_source: float, per_target: float) -> float:
    """N_TL: the first composition learned from nothing, the others from it."""
    _check(n_compositions)
    return for_source + (n_compositions - 1) * per_target


def saving(n_compositions: int, for_source: float, per_target: float) -> float:
    """R = N_SL / N_TL."""
    return samples_from_scratch(n_compositions, for_source) / samples_with_transfer(
        n_compositions, for_source, per_target
    )


def measured_saving(
    for_sources: float, transferred: Sequence[float], scratch: Sequence[float]
) -> float:
    """R of a family whose members need different numbers of samples.

    Args:
        for_sources: samples of the source, or of all sources together.
        transferred: samples that each target was adapted on.
        scratch: samples that each target would need from nothing for the same error.

    Raises:
        ConfigError: no targets, or lists of different length.
    """
    if not transferred or len(transferred) != len(scratch):
        raise ConfigError(
            f"{len(transferred)} targets with transfer and {len(scratch)} from scratch: the saving "
            "compares the same targets, at least one"
        )
    return (for_sources + sum(scratch)) / (for_sources + sum(transferred))


def _check(n_compositions: int) -> None:
    if n_compositions < 1:
        raise ConfigError(f"{n_compositions} compositions: at least one is needed")
