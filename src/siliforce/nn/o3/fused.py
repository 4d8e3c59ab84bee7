"""The neighbour sum of `convolution`, and its first and second derivatives, in cache-sized pieces.

The sum is linear in radial weights R, features h and coupled harmonics T, so that all derivatives
are sums of the same kind:

    forward          A = sum_e R h T
    backward         of <G, A>:  dR = h (T G),  dh = R (T G),  dT = (R h) G
    second backward  of <a, dR> + <b, dh> + <c, dT>: the same with one factor exchanged

Products of edges x components x channels live for one piece of the edges only and never leave the
processor's cache. Left to automatic differentiation they would be written to memory dozens of
times, which is most of the time and memory of a training step.

Inside a piece components stand before slots: (n_blocks, components, BLOCK * n_channels). Every
elementwise product then runs over long contiguous rows, and (component, slot) is one index that a
matrix product can sum over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 16
"""Edges of one atom that are summed in one matrix product."""

PIECE = 160_000
"""Numbers in the largest temporary array of a piece (0.6 MB in float32)."""


@dataclass(frozen=True)
class Path:
    """A coupling of feature degree l1 and harmonic degree l2 to degree l3.

    Attributes:
        l1, l2, l3: the degrees.
        source: first component of the feature among all components.
        target: which of the outputs it belongs to.
    """

    l1: int
    l2: int
    l3: int
    source: int
    target: int

    @property
    def components(self) -> slice:
        """Components of the feature."""
        return slice(self.source, self.source + 2 * self.l1 + 1)


@dataclass(frozen=True)
class Plan:
    """Indices of a neighbour sum.

    Attributes:
        paths: the couplings.
        neighbor: of each slot, (n_blocks * BLOCK,).
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
        widest = max(2 * p.l1 + 1 for p in self.paths) * n_channels * BLOCK
        step = max(PIECE // widest, 1) if self.atom.device.type == "cpu" else max(n_blocks, 1)
        for start in range(0, n_blocks, step):
            yield Piece(self, start, min(start + step, n_blocks), n_channels)


class Piece:
    """A run of blocks: brings arrays into the layout of the products and back."""

    def __init__(self, plan: Plan, start: int, stop: int, n_channels: int) -> None:
        self.paths, self.n_channels, self.n_blocks = plan.paths, n_channels, stop - start
        self.slots = slice(start * BLOCK, stop * BLOCK)
        self.neighbor = plan.neighbor[self.slots]
        self.atom = plan.atom[start:stop]

    def neighbors(self, features: Tensor) -> Tensor:
        """Features of the neighbours, (n_blocks, n_components, BLOCK * n_channels)."""
        rows = features.index_select(0, self.neighbor)
        rows = rows.view(self.n_blocks, BLOCK, -1, self.n_channels).transpose(1, 2)
        return rows.reshape(self.n_blocks, -1, BLOCK * self.n_channels)

    def add_to_neighbors(self, values: Tensor, out: Tensor) -> None:
        """The reverse of `neighbors`: add to what the neighbours have."""
        rows = values.view(self.n_blocks, -1, BLOCK, self.n_channels)
        out.index_add_(0, self.neighbor, rows.transpose(1, 2).reshape(-1, *out.shape[1:]))

    def radial(self, weights: Tensor) -> tuple[Tensor, ...]:
        """(n_slots, n_paths * n_channels) -> per path (n_blocks, 1, BLOCK * n_channels)."""
        rows = weights[self.slots].view(-1, len(self.paths), self.n_channels).transpose(0, 1)
        return rows.reshape(len(self.paths), self.n_blocks, 1, -1).unbind(0)

    def write_radial(self, values: Sequence[Tensor], out: Tensor) -> None:
        """The reverse of `radial`."""
        rows = torch.stack(list(values)).view(len(self.paths), -1, self.n_channels)
        out[self.slots].view(-1, len(self.paths), self.n_channels).copy_(rows.transpose(0, 1))

    def coupled(self, coupled: Tensor) -> list[Tensor]:
        """(.., n_slots) -> per path (n_blocks, 2 l3 + 1, (2 l1 + 1) * BLOCK)."""
        sizes = [(2 * p.l1 + 1) * (2 * p.l3 + 1) for p in self.paths]
        rows = coupled[:, self.slots].unflatten(1, (-1, BLOCK)).transpose(0, 1).split(sizes, dim=1)
        return [
            r.reshape(self.n_blocks, 2 * p.l3 + 1, -1)
            for p, r in zip(self.paths, rows, strict=True)
        ]

    def write_coupled(self, values: Sequence[Tensor], out: Tensor) -> None:
        """The reverse of `coupled`."""
        rows = torch.cat([v.view(self.n_blocks, -1, BLOCK) for v in values], dim=1)
        out[:, self.slots].unflatten(1, (-1, BLOCK)).copy_(rows.transpose(0, 1))

    def atoms(self, summed: Tensor) -> list[Tensor]:
        """What the blocks' atoms have, per path (n_blocks, 2 l3 + 1, n_channels)."""
        rows = summed.index_select(0, self.atom)
        columns = rows.split([(2 * p.l3 + 1) * self.n_channels for p in self.paths], dim=1)
        return [c.view(self.n_blocks, -1, self.n_channels) for c in columns]

    def add_to_atoms(self, sums: Sequence[Tensor], out: Tensor) -> None:
        """The reverse of `atoms`: add to what the atoms have."""
        out.index_add_(0, self.atom, torch.cat([s.flatten(1) for s in sums], dim=1))

    def tall(self, values: Tensor) -> Tensor:
        """(n_blocks, m, BLOCK * n_channels) -> (n_blocks, m * BLOCK, n_channels)."""
        return values.view(self.n_blocks, -1, self.n_channels)

    def wide(self, values: Tensor) -> Tensor:
        """The reverse of `tall`."""
        return values.view(self.n_blocks, -1, BLOCK * self.n_channels)


def _sums(piece: Piece, radial: Tensor, features: Tensor, coupled: Tensor) -> list[Tensor]:
    """R h T summed in each block, per path (n_blocks, 2 l3 + 1, n_channels)."""
    h, r, t = piece.neighbors(features), piece.radial(radial), piece.coupled(coupled)
    return [t[k] @ piece.tall(r[k] * h[:, path.components]) for k, path in enumerate(piece.paths)]


def plain_sum(radial: Tensor, features: Tensor, coupled: Tensor, plan: Plan) -> Tensor:
    """`NeighborSum` in one piece and without derivatives of its own."""
    everything = Piece(plan, 0, plan.atom.shape[0], features.shape[2])
    sums = _sums(everything, radial, features, coupled)
    out = features.new_zeros(features.shape[0], plan.dim_out * features.shape[2])
    return out.index_add(0, plan.atom, torch.cat([s.flatten(1) for s in sums], dim=1))


class NeighborSum(torch.autograd.Function):
    """A = sum_e R h T, differentiable twice."""

    @staticmethod
    def forward(ctx: Any, radial: Tensor, features: Tensor, coupled: Tensor, plan: Plan) -> Tensor:
        """Sum over the edges of each atom.

        Args:
            ctx: of autograd.
            radial: R in slots, (n_slots, n_paths * n_channels).
            features: h, (n_atoms, n_components, n_channels).
            coupled: T in slots, (sum over paths (2 l3 + 1) (2 l1 + 1), n_slots).
            plan: indices.

        Returns:
            A, (n_atoms, sum over paths (2 l3 + 1) n_channels).
        """
        ctx.save_for_backward(radial, features, coupled)
        ctx.plan = plan
        out = features.new_zeros(features.shape[0], plan.dim_out * features.shape[2])
        for piece in plan.pieces(features.shape[2]):
            piece.add_to_atoms(_sums(piece, radial, features, coupled), out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of R, h, T."""
        needed = tuple(ctx.needs_input_grad[:3])
        saved = ctx.saved_tensors
        return *_NeighborSumBackward.apply(*saved, gradient.contiguous(), ctx.plan, needed), None


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
        d_radial = torch.empty_like(radial) if needed[0] else None
        d_features = torch.zeros_like(features) if needed[1] else None
        d_coupled = torch.empty_like(coupled) if needed[2] else None
        for piece in plan.pieces(features.shape[2]):
            h, g = piece.neighbors(features), piece.atoms(gradient)
            r, t = piece.radial(radial), piece.coupled(coupled)
            dh, dr, dt = torch.zeros_like(h), [], []
            for k, path in enumerate(plan.paths):
                h_k = h[:, path.components]
                u = piece.wide(t[k].transpose(1, 2) @ g[k])
                if d_radial is not None:
                    dr.append((u * h_k).sum(dim=1))
                if d_features is not None:
                    dh[:, path.components].addcmul_(u, r[k])
                if d_coupled is not None:
                    dt.append(g[k] @ piece.tall(r[k] * h_k).transpose(1, 2))
            if d_radial is not None:
                piece.write_radial(dr, d_radial)
            if d_features is not None:
                piece.add_to_neighbors(dh, d_features)
            if d_coupled is not None:
                piece.write_coupled(dt, d_coupled)
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
        d_radial, d_coupled = torch.empty_like(radial), torch.empty_like(coupled)
        d_features, d_gradient = torch.zeros_like(features), torch.zeros_like(gradient)
        for piece in plan.pieces(features.shape[2]):
            h, g = piece.neighbors(features), piece.atoms(gradient)
            r, t = piece.radial(radial), piece.coupled(coupled)
            ar, bh, ct = piece.radial(a), piece.neighbors(b), piece.coupled(c)
            dr, dh, dt, dg = [], torch.zeros_like(h), [], []
            for k, path in enumerate(plan.paths):
                h_k, b_k, dh_k = (x[:, path.components] for x in (h, bh, dh))
                u = piece.wide(t[k].transpose(1, 2) @ g[k])
                v = piece.wide(ct[k].transpose(1, 2) @ g[k])
                x = piece.tall(r[k] * h_k)
                y = piece.tall((ar[k] * h_k).addcmul_(r[k], b_k))
                dr.append((b_k * u).addcmul_(h_k, v).sum(dim=1))
                dh_k.addcmul_(ar[k], u).addcmul_(r[k], v)
                dt.append(g[k] @ y.transpose(1, 2))
                dg.append(torch.baddbmm(t[k] @ y, ct[k], x))
            piece.write_radial(dr, d_radial)
            piece.add_to_neighbors(dh, d_features)
            piece.write_coupled(dt, d_coupled)
            piece.add_to_atoms(dg, d_gradient)
        return d_radial, d_features, d_coupled, d_gradient, None, None
