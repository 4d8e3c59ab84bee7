"""The neighbour sum of `convolution`, and its first and second derivatives, in cache-sized pieces.

The sum is linear in radial weights R, features h and coupled harmonics T, so that all derivatives
are sums of the same kind:

    forward          A = sum_e R h T
    backward         of <G, A>:  dR = h (T G),  dh = R (T G),  dT = (R h) G
    second backward  of <r, dR> + <η, dh> + <τ, dT>, the same with one factor exchanged

Products of edges x components x channels live for one piece of the edges only and never leave the
processor's cache. Left to automatic differentiation they would be written to memory dozens of
times, which is most of the time of a training step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

PIECE = 160_000
"""Numbers in the largest temporary array of a piece (0.6 MB in float32)."""


@dataclass(frozen=True)
class Path:
    """A coupling of feature degree l1 and harmonic degree l2 to degree l3."""

    l1: int
    l2: int
    l3: int


@dataclass(frozen=True)
class Plan:
    """Indices of a neighbour sum.

    Attributes:
        paths: the couplings.
        neighbor: of each slot, (n_slots,); slots come in blocks of equal size.
        atom: that the block belongs to, (n_blocks,).
    """

    paths: tuple[Path, ...]
    neighbor: Tensor
    atom: Tensor

    @property
    def dim_out(self) -> int:
        """Output components over all couplings."""
        return sum(2 * p.l3 + 1 for p in self.paths)

    def pieces(self, n_channels: int) -> Iterator[Piece]:
        """Runs of blocks, short ones on a CPU and one of all blocks elsewhere."""
        n_blocks = self.atom.shape[0]
        size = self.neighbor.shape[0] // max(n_blocks, 1)
        widest = max(2 * p.l1 + 1 for p in self.paths) * n_channels * size
        step = max(PIECE // widest, 1) if self.atom.device.type == "cpu" else max(n_blocks, 1)
        for start in range(0, n_blocks, step):
            stop = min(start + step, n_blocks)
            yield Piece(self, slice(start, stop), slice(start * size, stop * size), n_channels)


@dataclass(frozen=True)
class Piece:
    """Views of a run of blocks; everything per coupling is (n_blocks, ..)."""

    plan: Plan
    blocks: slice
    slots: slice
    n_channels: int

    @property
    def n_blocks(self) -> int:
        return self.blocks.stop - self.blocks.start

    def gather(self, features: Tensor) -> list[Tensor]:
        """Of the neighbours, per degree (n_slots, 2 l + 1, n_channels)."""
        rows = features.index_select(0, self.plan.neighbor[self.slots])
        l_max = round(features.shape[1] ** 0.5) - 1
        return [rows[:, d * d : (d + 1) ** 2] for d in range(l_max + 1)]

    def radial(self, weights: Tensor) -> tuple[Tensor, ...]:
        """Per coupling (n_slots, 1, n_channels)."""
        return weights[self.slots].view(-1, len(self.plan.paths), 1, self.n_channels).unbind(1)

    def coupled(self, coupled: Tensor) -> list[Tensor]:
        """Per coupling (n_blocks, slots per block * (2 l1 + 1), 2 l3 + 1)."""
        sizes = [(2 * p.l1 + 1) * (2 * p.l3 + 1) for p in self.plan.paths]
        columns = coupled[self.slots].split(sizes, dim=1)
        return [
            c.reshape(self.n_blocks, -1, 2 * p.l3 + 1)
            for p, c in zip(self.plan.paths, columns, strict=True)
        ]

    def spread(self, summed: Tensor) -> list[Tensor]:
        """What the blocks' atoms hold, per coupling (n_blocks, 2 l3 + 1, n_channels)."""
        rows = summed.index_select(0, self.plan.atom[self.blocks])
        columns = rows.split([(2 * p.l3 + 1) * self.n_channels for p in self.plan.paths], dim=1)
        return [c.reshape(self.n_blocks, -1, self.n_channels) for c in columns]

    def sums(self, radial: Tensor, features: Tensor, coupled: Tensor) -> Tensor:
        """R h T summed in each block, (n_blocks, dim_out * n_channels)."""
        h, r, t = self.gather(features), self.radial(radial), self.coupled(coupled)
        products = [
            t[k].transpose(1, 2) @ self.block(r[k] * h[path.l1])
            for k, path in enumerate(self.plan.paths)
        ]
        return torch.cat([p.flatten(1) for p in products], dim=1)

    def scatter(self, gradients: list[Tensor], out: Tensor) -> None:
        """Add what belongs to neighbours to them."""
        out.index_add_(0, self.plan.neighbor[self.slots], torch.cat(gradients, dim=1))

    def block(self, values: Tensor) -> Tensor:
        """(n_slots, m, n_channels) -> (n_blocks, slots per block * m, n_channels)."""
        return values.view(self.n_blocks, -1, self.n_channels)

    def slot(self, values: Tensor, path: Path) -> Tensor:
        """The reverse of `block` for the feature components of a coupling."""
        return values.view(-1, 2 * path.l1 + 1, self.n_channels)


def plain_sum(radial: Tensor, features: Tensor, coupled: Tensor, plan: Plan) -> Tensor:
    """`NeighborSum` in one piece and without derivatives of its own."""
    n_blocks, n_slots = plan.atom.shape[0], plan.neighbor.shape[0]
    everything = Piece(plan, slice(0, n_blocks), slice(0, n_slots), features.shape[2])
    out = features.new_zeros(features.shape[0], plan.dim_out * features.shape[2])
    return out.index_add(0, plan.atom, everything.sums(radial, features, coupled))


class NeighborSum(torch.autograd.Function):
    """A = sum_e R h T, differentiable twice."""

    @staticmethod
    def forward(ctx: Any, radial: Tensor, features: Tensor, coupled: Tensor, plan: Plan) -> Tensor:
        """Sum over the edges of each atom.

        Args:
            ctx: of autograd.
            radial: R in slots, (n_slots, n_paths * n_channels).
            features: h, (n_atoms, (l_in + 1)², n_channels).
            coupled: T in slots, (n_slots, sum over paths (2 l1 + 1) (2 l3 + 1)).
            plan: indices.

        Returns:
            A, (n_atoms, sum over paths (2 l3 + 1) n_channels).
        """
        ctx.save_for_backward(radial, features, coupled)
        ctx.plan = plan
        n_channels = features.shape[2]
        out = features.new_zeros(features.shape[0], plan.dim_out * n_channels)
        for piece in plan.pieces(n_channels):
            sums = piece.sums(radial, features, coupled)
            out.index_add_(0, plan.atom[piece.blocks], sums)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of R, h, T."""
        needed = tuple(ctx.needs_input_grad[:3])
        return *_NeighborSumBackward.apply(*ctx.saved_tensors, gradient, ctx.plan, needed), None


class _NeighborSumBackward(torch.autograd.Function):
    """dR, dh, dT of <G, A>."""

    @staticmethod
    def forward(
        ctx: Any,
        radial: Tensor,
        features: Tensor,
        coupled: Tensor,
        gradient: Tensor,
        plan: Plan,
        needed: tuple[bool, bool, bool],
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(radial, features, coupled, gradient)
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        d_radial, d_features, d_coupled = (
            x.new_zeros(x.shape) if need else None
            for x, need in zip((radial, features, coupled), needed, strict=True)
        )
        for piece in plan.pieces(features.shape[2]):
            h, g = piece.gather(features), piece.spread(gradient)
            r, t = piece.radial(radial), piece.coupled(coupled)
            dh = [torch.zeros_like(x) for x in h] if needed[1] else []
            dr = piece.radial(d_radial) if d_radial is not None else ()
            dt = []
            for k, path in enumerate(plan.paths):
                u = piece.slot(t[k] @ g[k], path)
                if needed[0]:
                    torch.sum(u * h[path.l1], dim=1, keepdim=True, out=dr[k])
                if needed[1]:
                    dh[path.l1].addcmul_(u, r[k])
                if needed[2]:
                    dt.append(piece.block(r[k] * h[path.l1]) @ g[k].transpose(1, 2))
            if d_features is not None:
                piece.scatter(dh, d_features)
            if d_coupled is not None:
                _write(dt, d_coupled[piece.slots])
        return d_radial, d_features, d_coupled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of R, h, T, G of <a, dR> + <b, dh> + <c, dT>."""
        radial, features, coupled, gradient = ctx.saved_tensors
        plan: Plan = ctx.plan
        a, b, c = (
            torch.zeros_like(x) if y is None else y.contiguous()
            for x, y in zip((radial, features, coupled), cotangents, strict=True)
        )
        out = [torch.zeros_like(x) for x in (radial, features, coupled, gradient)]
        for piece in plan.pieces(features.shape[2]):
            h, g = piece.gather(features), piece.spread(gradient)
            r, t = piece.radial(radial), piece.coupled(coupled)
            ar, bh, ct = piece.radial(a), piece.gather(b), piece.coupled(c)
            dr, dh = piece.radial(out[0]), [torch.zeros_like(x) for x in h]
            dt, sums = [], []
            for k, path in enumerate(plan.paths):
                l1 = path.l1
                u, v = piece.slot(t[k] @ g[k], path), piece.slot(ct[k] @ g[k], path)
                x, y = piece.block(r[k] * h[l1]), piece.block(ar[k] * h[l1] + r[k] * bh[l1])
                torch.sum(bh[l1] * u + h[l1] * v, dim=1, keepdim=True, out=dr[k])
                dh[l1].addcmul_(ar[k], u).addcmul_(r[k], v)
                dt.append(y @ g[k].transpose(1, 2))
                sums.append(t[k].transpose(1, 2) @ y + ct[k].transpose(1, 2) @ x)
            piece.scatter(dh, out[1])
            _write(dt, out[2][piece.slots])
            flat = torch.cat([s.flatten(1) for s in sums], dim=1)
            out[3].index_add_(0, plan.atom[piece.blocks], flat)
        return *out, None, None


def _write(parts: list[Tensor], out: Tensor) -> None:
    """Per coupling (n_blocks, slots * (2 l1 + 1), 2 l3 + 1) -> columns of (n_slots, ..)."""
    torch.cat([p.reshape(out.shape[0], -1) for p in parts], dim=1, out=out)
