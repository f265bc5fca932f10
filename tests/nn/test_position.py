"""Position embeddings and their interpolation."""

import numpy as np
import pytest
import torch

from etesian.core import Grid
from etesian.nn.position import interpolate_position, sincos, sincos_2d

COARSE = Grid.equiangular(22.5)


def test_sines_and_cosines_have_the_published_wavelengths() -> None:
    embedding = sincos(4, [0, 3])
    assert embedding[0].tolist() == [0, 0, 1, 1]
    assert np.allclose(embedding[1], [np.sin(3), np.sin(0.03), np.cos(3), np.cos(0.03)])


def test_the_first_half_of_a_plane_embedding_tells_the_column_and_the_second_the_row() -> None:
    embedding = sincos_2d(8, 3, 5)
    assert np.array_equal(embedding[:, :, :4], np.broadcast_to(sincos(4, range(5)), (3, 5, 4)))
    assert np.array_equal(embedding[:, :, 4:], np.broadcast_to(sincos(4, range(3))[:, None], (3, 5, 4)))


def test_interpolation_to_the_same_grid_changes_nothing() -> None:
    embedding = torch.randn(4, 8, 6)
    assert torch.equal(interpolate_position(embedding, COARSE, COARSE, (2, 2), (2, 2)), embedding)


def test_interpolation_to_patches_of_the_same_centres_changes_nothing() -> None:
    embedding = torch.randn(4, 8, 6)
    fine = Grid(np.arange(-90 + 11.25 / 2, 90, 11.25), np.arange(32) * 11.25 - 11.25 / 2)
    out = interpolate_position(embedding, COARSE, fine, (2, 2), (4, 4))
    assert torch.allclose(out, embedding, atol=1e-6)


def test_an_embedding_that_is_linear_in_latitude_stays_so_between_the_outermost_centres() -> None:
    centres = COARSE.latitude.reshape(4, 2).mean(axis=1)
    embedding = torch.tensor(centres)[:, None, None].expand(4, 8, 1)
    fine = Grid.equiangular(11.25)
    out = interpolate_position(embedding, COARSE, fine, (2, 2), (2, 2))
    expected = fine.latitude.reshape(8, 2).mean(axis=1).clip(centres.min(), centres.max())
    assert np.allclose(out[:, 0, 0].numpy(), expected)


def test_interpolation_is_periodic_in_longitude() -> None:
    embedding = torch.zeros(4, 8, 1)
    embedding[:, 0] = 1.0
    fine = Grid.equiangular(11.25)
    out = interpolate_position(embedding, COARSE, fine, (2, 2), (2, 2))[0, :, 0]
    assert out[-1] > 0
    assert float(out.sum()) == pytest.approx(2.0)


def test_dimensions_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(ValueError, match="even dimension, not 3"):
        sincos(3, [0])
    with pytest.raises(ValueError, match="multiple of 4, not 6"):
        sincos_2d(6, 2, 2)
