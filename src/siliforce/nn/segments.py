"""Rows grouped by owner, in blocks of equal length: sums and products per owner become matrices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segments:
    """Rows (edges, say) dealt into blocks, each block owned by one atom, the last ones not full.

    Where counting them would mean waiting for the device, or a compiler would see a size that
    depends on data, the number of blocks is an upper bound that depends on shapes alone.

    Attributes:
        block: rows in a block.
        slot: where each row goes, (n_rows,).
        row: row in each slot, (n_blocks * block,); one past the last in unused ones.
        owner: of each block, (n_blocks,).
    """

    block: int
    slot: Tensor
    row: Tensor
    owner: Tensor

    @classmethod
    def build(cls, owner: Tensor, n_owners: int, block: int) -> Segments:
        """Deal rows to blocks.

        Args:
            owner: of each row, (n_rows,), in any order.
            n_owners: of them all.
            block: rows in a block.
        """
        n_rows = owner.shape[0]
        index = torch.arange(n_rows, device=owner.device)
        order = torch.argsort(owner, stable=True)
        count = owner.new_zeros(n_owners).index_add(0, owner, torch.ones_like(owner))
        first_row = count.cumsum(0) - count
        blocks_end = ((count + block - 1) // block).cumsum(0)
        rank = torch.zeros_like(order).index_copy(0, order, index) - first_row[owner]
        first_block = torch.cat([owner.new_zeros(1), blocks_end])[owner]
        slot = first_block * block + rank
        exact = owner.device.type == "cpu" and not torch.compiler.is_compiling()
        n_blocks = int(blocks_end[-1]) if exact else n_rows // block + n_owners
        row = owner.new_zeros(n_blocks * block).fill_(n_rows).index_copy(0, slot, index)
        blocks = torch.arange(n_blocks, device=owner.device)
        of_block = torch.searchsorted(blocks_end, blocks, right=True).clamp(max=n_owners - 1)
        return cls(block, slot, row, of_block)

    def deal(self, values: Tensor) -> Tensor:
        """(n_rows, ...) -> (n_blocks, block * values.shape[1], ...), zeros in unused slots."""
        zero = values.new_zeros(1, *values.shape[1:])
        dealt = torch.cat([values, zero]).index_select(0, self.row)
        return dealt.reshape(-1, self.block * values.shape[1], *values.shape[2:])
