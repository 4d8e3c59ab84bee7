"""Frames along edges, rows of Wigner matrices and sums over the sphere."""

from __future__ import annotations

import pytest
import torch
from e3nn import o3

from siliforce.nn.o3.frames import POLE, FrameHarmonics, bisector_frames
from siliforce.nn.o3.sphere import gauss_points, harmonics_at, sphere_grid


def unit_vectors() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    axes = torch.eye(3, dtype=torch.float64)
    random = torch.randn(20, 3, dtype=torch.float64, generator=generator)
    opposite = -torch.tensor(POLE[1], dtype=torch.float64) + 1e-4 * random[:3]
    return torch.nn.functional.normalize(torch.cat([random, axes, -axes, opposite]), dim=1)


def test_frames_are_rotations_to_the_y_axis() -> None:
    vectors = unit_vectors()
    frames = bisector_frames(vectors)
    torch.testing.assert_close(frames[:, 1], vectors, rtol=0, atol=1e-10)
    eye = torch.eye(3, dtype=torch.float64).expand_as(frames)
    torch.testing.assert_close(frames @ frames.transpose(1, 2), eye, rtol=0, atol=1e-14)
    assert (torch.linalg.det(frames) > 0.99).all()


def test_frame_opposite_to_the_pole_is_finite() -> None:
    opposite = -torch.tensor(POLE[1:2], dtype=torch.float64).requires_grad_()
    frames = bisector_frames(opposite)
    torch.testing.assert_close(frames[:, 1], opposite, rtol=0, atol=1e-14)
    (gradient,) = torch.autograd.grad(frames.sum(), opposite)
    assert torch.isfinite(gradient).all()


def test_rows_are_those_of_wigner_matrices() -> None:
    """Harmonics of turned points are rows of Wigner matrices times harmonics of the points."""
    l_max, frames = 6, bisector_frames(unit_vectors())
    rows = FrameHarmonics(l_max).double()(frames)
    points = unit_vectors()[:10]
    turned = torch.einsum("exy,py->epx", frames, points)
    expected = o3.spherical_harmonics(list(range(l_max + 1)), turned, False)
    harmonics = o3.spherical_harmonics(list(range(l_max + 1)), points, False)
    for degree in range(l_max + 1):
        part = slice(degree**2, (degree + 1) ** 2)
        ours = torch.einsum("emi,pi->epm", rows[:, :, part], harmonics[:, part])
        zero = degree * (degree + 1)
        for k, m in enumerate((0, -1, 1) if degree else (0,)):
            torch.testing.assert_close(ours[:, :, k], expected[:, :, zero + m], rtol=0, atol=1e-9)
    assert (rows[:, 1:, 0] == 0).all()


@pytest.mark.parametrize("l_max", [1, 3, 6])
def test_grid_projects_to_what_it_evaluates(l_max: int) -> None:
    values, project = sphere_grid(l_max)
    eye = torch.eye((l_max + 1) ** 2, dtype=torch.float64)
    torch.testing.assert_close(project.t() @ values, eye, rtol=0, atol=1e-13)


def test_gauss_points_integrate() -> None:
    points, weights = gauss_points(4)
    degree = 7
    mean = weights @ harmonics_at(points, degree)
    mean[0] -= (4 * torch.pi) ** -0.5
    assert mean.abs().max() < 1e-14
    torch.testing.assert_close(weights.sum().item(), 1.0)
    assert (weights @ harmonics_at(points, degree + 1)).abs()[1:].max() > 1e-3
