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
from siliforce.transfer.saved import INVERSE, Amount, Bound, Number, Saved


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


def measured_saving(for_sources: float, members: Sequence[Saved]) -> Amount | None:
    """R of a family whose members need different numbers of samples.

    The ends of its interval are those of all members at once: rather wide than narrow.

    Args:
        for_sources: samples of the source, or of all sources together.
        members: samples of each target with transfer and from nothing, for the same error.

    Returns:
        R; None if one member is only bounded from above and another from below.

    Raises:
        ConfigError: no targets.
    """
    if not members:
        raise ConfigError("the saving of a family needs at least one target")
    if {">", "<"} <= {m.ratio.value.bound for m in members}:
        return None

    def ratio(pairs: Sequence[tuple[Number, Number]], leading: Bound) -> Number:
        scratch, transfer = (
            for_sources + sum(n.value for n in side) for side in zip(*pairs, strict=True)
        )
        bounds = {(one / other).bound for one, other in pairs}
        known: tuple[Bound, ...] = (leading, INVERSE[leading], "")
        return Number(scratch / transfer, next(b for b in known if b in bounds))

    value = ratio([(m.scratch.value, m.transfer.value) for m in members], ">")
    if any(m.ratio.low is None for m in members):
        return Amount(value)
    ends = [(m.scratch, m.transfer) for m in members]
    low = ratio([(s.low or s.value, t.high or t.value) for s, t in ends], "<")
    return Amount(value, low, ratio([(s.high or s.value, t.low or t.value) for s, t in ends], ">"))


def _check(n_compositions: int) -> None:
    if n_compositions < 1:
        raise ConfigError(f"{n_compositions} compositions: at least one is needed")
