"""Patches: cut and put together, padded, and found by coordinate."""

import numpy as np
import pytest
import torch

from etesian.core import Grid, Region
from etesian.core.errors import GridError
from etesian.nn.patch import locate_patches, patchify, unpatchify


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
