"""Small networks: derivatives, and least squares against what linear algebra says."""

from __future__ import annotations

import torch

from siliforce.transfer import networks

SIZES = (3, 5, 4, 1)


def draw(n: int, n_samples: int, sizes=SIZES) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    start = networks.random_parameters(sizes, n, generator)
    x = torch.randn(n, n_samples, sizes[0], generator=generator, dtype=torch.float64)
    return start, x


def test_answers_are_those_of_plain_layers() -> None:
    start, x = draw(2, 6)
    assert start.shape == (2, networks.n_parameters(SIZES))
    first, rest = start[1, :15].reshape(3, 5), start[1, 15:]
    h = torch.tanh(x[1] @ first + rest[:5])
    h = torch.tanh(h @ rest[5:25].reshape(5, 4) + rest[25:29])
    torch.testing.assert_close(networks.predict(start, x, SIZES)[1], h @ rest[29:33] + rest[33])
    torch.testing.assert_close(networks.hidden(start, x, SIZES)[-1][1], h)


def test_jacobian_is_the_derivative() -> None:
    start, x = draw(2, 6)
    answer, slopes = networks.jacobian(start, x, SIZES)
    torch.testing.assert_close(answer, networks.predict(start, x, SIZES))
    for k in range(2):
        one = x[k : k + 1]
        numeric = torch.autograd.functional.jacobian(
            lambda p, one=one: networks.predict(p[None], one, SIZES)[0], start[k]
        )
        torch.testing.assert_close(slopes[k], numeric)


def test_without_hidden_layers_the_fit_is_ridge_regression() -> None:
    start, x = draw(3, 20, (3, 1))
    y = torch.sin(x).sum(2)
    decay = torch.tensor([1e-6, 1e-2, 1.0], dtype=torch.float64)
    found = networks.fit(start, x, y, decay, (3, 1))
    assert found.converged.all()
    ones = torch.cat([x, torch.ones(3, 20, 1, dtype=torch.float64)], 2)
    matrix = ones.mT @ ones / 20 + decay[:, None, None] * torch.eye(4, dtype=torch.float64)
    expected = torch.linalg.solve(matrix, ones.mT @ y[..., None] / 20).squeeze(2)
    torch.testing.assert_close(found.parameters, expected, rtol=1e-6, atol=1e-8)


def test_each_network_is_fitted_on_its_own() -> None:
    start, x = draw(3, 12)
    y = torch.sin(x).sum(2)
    decay = torch.full((3,), 1e-6, dtype=torch.float64)
    together = networks.fit(start, x, y, decay, SIZES, 40)
    rows = [slice(k, k + 1) for k in range(3)]
    alone = [networks.fit(start[r], x[r], y[r], decay[r], SIZES, 40) for r in rows]
    torch.testing.assert_close(together.loss, torch.cat([a.loss for a in alone]), rtol=0.05, atol=0)
    before = (networks.predict(start, x, SIZES) - y).square().mean(1)
    assert (together.loss < 0.02 * before).all()
