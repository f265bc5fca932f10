"""Patches cover every point once, and positions tell them apart."""

import numpy as np
import pytest
import torch

from etesian.core import Grid, Region
from etesian.core.errors import GridError
from etesian.nn.tokens import interpolate_position, locate_patches, patchify, sincos, sincos_2d, unpatchify


@pytest.mark.parametrize("patch", [(1, 1), (2, 2), (4, 2), (3, 5)])
@pytest.mark.parametrize("periodic", [True, False])
def test_fields_survive_being_cut_and_put_together(patch: tuple[int, int], periodic: bool) -> None:
    fields = torch.randn(2, 3, 17, 33)
    assert torch.equal(unpatchify(patchify(fields, patch, periodic=periodic), patch, (17, 33)), fields)


def test_patches_and_their_pixels_are_in_row_major_order() -> None:
    fields = torch.arange(16.0).view(1, 1, 4, 4)
    assert patchify(fields, (2, 2), periodic=False)[0, 1, 0].tolist() == [2, 3, 6, 7]
    assert patchify(fields, (1, 4), periodic=False)[0, 2, 0].tolist() == [8, 9, 10, 11]


def test_padding_continues_round_the_globe_or_repeats_the_edge() -> None:
    fields = torch.arange(9.0).view(1, 1, 3, 3)
    assert patchify(fields, (2, 2), periodic=True)[0, 1, 0].tolist() == [2, 0, 5, 3]
    assert patchify(fields, (2, 2), periodic=False)[0, 3, 0].tolist() == [8, 8, 8, 8]


GLOBE = Grid.equiangular(11.25)


def test_a_region_is_found_by_coordinate() -> None:
    rows, columns = locate_patches(Grid(GLOBE.latitude[4:8], GLOBE.longitude[10:16]), GLOBE, (2, 2))
    assert (rows.tolist(), columns.tolist()) == ([2, 3], [5, 6, 7])


@pytest.mark.parametrize("shift", [0, 360])
def test_a_region_may_cross_the_seam(shift: int) -> None:
    longitude = np.arange(-4, 4) * 11.25 + shift
    rows, columns = locate_patches(Grid(GLOBE.latitude, longitude), GLOBE, (2, 2))
    assert (len(rows), columns.tolist()) == (8, [14, 15, 0, 1])


def test_a_box_cut_out_of_the_globe_is_found() -> None:
    box = GLOBE.crop(Region(-45, 45, 330, 50))
    rows, columns = locate_patches(box, GLOBE, (2, 1))
    assert (rows.tolist(), columns.tolist()) == ([2, 3, 4, 5], [30, 31, 0, 1, 2, 3, 4])


def test_the_last_padded_patch_may_be_asked_for_alone() -> None:
    grid = Grid(np.arange(17.0), np.arange(33.0))
    rows, columns = locate_patches(Grid(grid.latitude[14:], grid.longitude[30:]), grid, (2, 2))
    assert (rows.tolist(), columns.tolist()) == ([7, 8], [15, 16])


def test_a_region_that_cuts_through_patches_is_refused_with_the_nearest_whole_ones() -> None:
    with pytest.raises(GridError, match=r"latitudes of the region cut .* such as -39\.375° to 16\.875°"):
        locate_patches(Grid(GLOBE.latitude[5:9], GLOBE.longitude), GLOBE, (2, 2))
    with pytest.raises(GridError, match=r"longitudes of the region cut .* such as 337\.5° to 11\.25°"):
        locate_patches(Grid(GLOBE.latitude, np.array([-11.25, 0, 11.25])), GLOBE, (2, 2))
    with pytest.raises(GridError, match="crosses the seam"):
        locate_patches(Grid(GLOBE.latitude, np.arange(-4, 4) * 11.25), GLOBE, (2, 3))


@pytest.mark.parametrize(
    "other",
    [
        Grid.equiangular(5.625),
        Grid(GLOBE.latitude[::2], GLOBE.longitude),
        Grid(GLOBE.latitude, GLOBE.longitude[:4] + 1),
        Grid(np.linspace(-80, 80, 40), GLOBE.longitude),
    ],
)
def test_a_grid_that_is_no_part_of_the_other_is_refused(other: Grid) -> None:
    with pytest.raises(GridError, match="no part of the network's grid"):
        locate_patches(other, GLOBE, (2, 2))
    assert locate_patches(GLOBE, GLOBE, (2, 2))[0].size == 8


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
