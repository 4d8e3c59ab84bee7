"""Piecewise evaluation and rows dealt to their owners."""

from __future__ import annotations

import pytest
import torch

from siliforce.nn import pieces
from siliforce.nn.pieces import in_pieces
from siliforce.nn.segments import Segments


def network(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x @ weight) * y


@pytest.mark.parametrize("n_rows", [0, 1, 10])
def test_pieces_are_the_whole(n_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 12)  # three rows at a time
    torch.manual_seed(0)
    inputs = [torch.randn(n_rows, 4), torch.randn(n_rows, 5), torch.randn(4, 5)]
    inputs = [x.double().requires_grad_() for x in inputs]
    inputs[1].requires_grad_(False)
    x, y, weight = inputs
    whole, cut = network(x, y, weight), in_pieces(network, 4, (x, y), (weight,))
    torch.testing.assert_close(cut, whole)
    expected = torch.autograd.grad(whole.square().sum(), [x, weight])
    torch.testing.assert_close(torch.autograd.grad(cut.square().sum(), [x, weight]), expected)


def test_segments_deal_every_row_to_its_owner() -> None:
    owner = torch.tensor([2, 0, 2, 2, 4, 0, 2, 2])
    values = torch.arange(1.0, 9.0)[:, None].expand(8, 3)
    segments = Segments.build(owner, n_owners=6, block=2)
    dealt = segments.deal(values)
    assert dealt.shape == (5, 6)  # atoms 0, 2, 2, 2, 4
    sums = torch.zeros(6).index_add(0, segments.owner, dealt.sum(1))
    expected = torch.zeros(6).index_add(0, owner, values.sum(1))
    torch.testing.assert_close(sums, expected)
    assert torch.equal(segments.row[segments.slot], torch.arange(8))


def test_segments_without_rows() -> None:
    segments = Segments.build(torch.zeros(0, dtype=torch.int64), n_owners=3, block=4)
    assert segments.deal(torch.zeros(0, 2)).shape == (0, 8)
