"""The stages of the gap-filling network: first guesses, pooling over days, attention over months, maps from tokens."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from etesian.networks.kriging import GAIN, REACH
from etesian.nn.attention import Mlp

Maps = Float[Tensor, "batch time channel lat lon"]

SMALL = 0.05
"""How large corrections of a guess and what it misses are beside the fields; networks are given them in this unit."""


_NEGLIGIBLE = 1e-12
"""Of a kernel: beside what is near, no such weight changes a single-precision sum. Products of a few of them are too
small for normal numbers, and with those that are not a CPU computes many times more slowly."""


_BLOCK = 16
"""Maps that a CPU convolves at a time; with other than whole blocks the backward pass takes three times as long."""


class Guess(NamedTuple):
    """A first guess.

    Attributes:
        values: of the fields.
        known: maps that tell how it came about: the guess, its corrections and logarithms of how much was observed,
            scaled to about 1.
        variance: of the error of the guess, where it is known.
    """

    values: Maps
    known: Float[Tensor, "batch time map lat lon"]
    variance: Maps | None = None

    def over(self, share: Float[Tensor, "batch time month"]) -> "Guess":
        """Return the guess of means over months; their variance is at most the mean of that of the times."""

        def mean(maps: Tensor) -> Tensor:
            return torch.einsum("btm,btkhw->bmkhw", share, maps)

        return Guess(mean(self.values), mean(self.known), None if self.variance is None else mean(self.variance))


class SuccessiveCorrections(nn.Module):
    """The method of successive corrections (Cressman 1959, Barnes 1964), with kernels that are learned.

    Begins with 0. In each pass the difference of the observations from the guess so far is smoothed by a Gaussian in
    space and time and added: with weights k and validity v, Σ k v (x − guess) / (Σ k v + λ). Passes with narrowing
    kernels first draw the large scales from afar, then the details from nearby; such iterations tend to optimal
    interpolation (Bratseth 1986, doi 10.1111/j.1600-0870.1986.tb00476.x). Each pass has its own widths and its own λ,
    the number of observations that would halve a correction. A time at which nothing is observed has no part in it.

    Args:
        scales: what to begin with, by pass: standard deviations of the kernel in grid points and in days, and λ.

    Raises:
        ValueError: if one of them is not positive.
    """

    def __init__(self, scales: Sequence[tuple[float, float, float]]) -> None:
        super().__init__()
        if min(value for scale in scales for value in scale) <= 0:
            raise ValueError(f"widths and numbers of observations must be positive, unlike those of {list(scales)}")
        self.logarithms = nn.Parameter(
            torch.tensor([tuple(scale) for scale in scales], dtype=torch.float32).log() / GAIN
        )

    def scales(self) -> Float[Tensor, "pass 3"]:
        """Return what was learned, by pass, as it was given."""
        return (GAIN * self.logarithms).exp()

    def forward(
        self,
        values: Maps,
        valid: Bool[Tensor, "batch time channel lat lon"],
        days: Float[Tensor, "batch time"],
        *,
        periodic: bool,
    ) -> Guess:
        """Guess the fields of all times.

        Args:
            values: zero where they are not valid.
            valid: where there is an observation.
            days: when, in days.
            periodic: whether the longitudes close the circle.
        """
        seen = valid.to(values.dtype)
        apart = days[:, :, None] - days[:, None, :]
        north = _distances(values.shape[-2], values, periodic=False)
        east = _distances(values.shape[-1], values, periodic=periodic)
        guess, known = torch.zeros_like(values), []
        for space, time, prior in self.scales():
            both = torch.stack([seen * (values - guess), seen], dim=2)
            summed = (_gaussian(apart, time) @ both.flatten(2)).view(-1, *both.shape[-2:])
            # One matrix for each map: for a single one that broadcasts, all maps would be copied the other way round.
            along = _gaussian(north, space).expand(len(summed), -1, -1)
            total, weight = torch.bmm(along, summed @ _gaussian(east, space)).view_as(both).unbind(2)
            correction = total / (weight + prior)
            guess = guess + correction
            known += [correction / SMALL, torch.log1p(weight) - 1]
        return Guess(guess, torch.cat([guess, *known], dim=2))


class DailyRefinement(nn.Module):
    """What a guess of each time misses, by convolutions over neighbouring times and points; begins as zero.

    Works at half the resolution, for what is missed is smooth. Times at which nothing was observed enter as if there
    were none.

    Args:
        channels: of the fields.
        known: maps that tell of the guess.
        width: channels within.
    """

    def __init__(self, channels: int, known: int, width: int) -> None:
        super().__init__()
        inputs = [known + 2 * channels, *[width] * (REACH[0] - 1)]
        self.convolutions = nn.ModuleList(nn.Conv3d(given, width, 3) for given in inputs)
        self.leave = nn.Conv3d(width, channels, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(
        self, guess: Guess, values: Maps, valid: Bool[Tensor, "batch time channel lat lon"], *, periodic: bool
    ) -> Maps:
        """Return what is to be added to the guess."""
        seen = valid.to(values.dtype)
        parts = (guess.known, seen * (values - guess.values) / SMALL, seen)
        halves = [F.avg_pool2d(part.flatten(0, 1), 2, ceil_mode=True) for part in parts]
        given = sum(half.shape[1] for half in halves)
        halves.append(halves[-1].new_zeros(1).expand(len(seen) * seen.shape[1], -given % _BLOCK, *halves[-1].shape[2:]))
        hidden = torch.unflatten(torch.cat(halves, dim=1), 0, values.shape[:2]).transpose(1, 2)
        kept = valid.flatten(2).any(-1)[:, None, :, None, None].to(values.dtype)
        for number, convolution in enumerate(self.convolutions):
            assert isinstance(convolution, nn.Conv3d)
            maps = _padded_in_space(kept * hidden, periodic)
            weight = F.pad(convolution.weight, (0, 0, 0, 0, 0, 0, 0, maps.shape[1] - convolution.in_channels))
            more = F.gelu(F.conv3d(maps, weight, convolution.bias, padding=(1, 0, 0)))
            hidden = hidden + more if number else more
        return SMALL * _doubled(self.leave(hidden).transpose(1, 2), values.shape[-2:], periodic)


def _padded_in_space(maps: Float[Tensor, "batch map time lat lon"], periodic: bool) -> Tensor:
    if not periodic:
        return F.pad(maps, (1, 1, 1, 1, 0, 0), mode="replicate")
    maps = torch.cat([maps[..., -1:], maps, maps[..., :1]], dim=-1)
    return F.pad(maps, (0, 0, 1, 1, 0, 0), mode="replicate")


def _doubled(coarse: Tensor, size: torch.Size, periodic: bool) -> Tensor:
    """Interpolate to twice the rows and columns, at most so many of them."""
    maps = F.pad(coarse.flatten(0, 1), (1, 1, 0, 0), mode="circular" if periodic else "replicate")
    fine = F.interpolate(maps, scale_factor=2.0, mode="bilinear")[..., : size[0], 2 : 2 + size[1]]
    return torch.unflatten(fine, 0, coarse.shape[:2])


def observed_mean(
    values: Maps, valid: Bool[Tensor, "batch time channel lat lon"], group: Bool[Tensor, "batch time month"]
) -> Guess:
    """Return the mean of what was observed in each month, 0 where nothing was."""
    member = group.to(values.dtype)
    number = torch.einsum("btm,btchw->bmchw", member, valid.to(values.dtype))
    mean = torch.einsum("btm,btchw->bmchw", member, values) / number.clamp(min=1)
    return Guess(mean, torch.cat([mean, torch.log1p(number)], dim=2))


def _gaussian(distance: Tensor, width: Tensor) -> Tensor:
    near = torch.exp(-0.5 * (distance / width).square())
    return torch.where(near > _NEGLIGIBLE, near, 0)


def _distances(size: int, like: Tensor, *, periodic: bool) -> Float[Tensor, "point point"]:
    place = torch.arange(size, device=like.device, dtype=like.dtype)
    apart = (place[:, None] - place).abs()
    return torch.minimum(apart, size - apart) if periodic else apart


class DayPooling(nn.Module):
    """Weighted means of the tokens of each place over the days of a month, with learned scores of a token.

    Works on a list of tokens rather than on all days at all places, so that days on which nothing was seen of a place
    cost nothing and have no weight.

    Args:
        dim: width of a token.
        heads: number of scores; each gives a mean, which a linear map joins if there are several.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.scorer = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, heads))
        self.join = nn.Linear(heads * dim, dim) if heads > 1 else nn.Identity()

    def forward(
        self, tokens: Float[Tensor, "token dim"], slot: Int64[Tensor, " token"], slots: int
    ) -> Float[Tensor, "slot dim"]:
        """Pool the tokens that share a slot; a slot without tokens gives what zeros give.

        Args:
            tokens: of a place on a day.
            slot: number of its place and month.
            slots: how many there are.
        """
        scores = self.scorer(tokens).float()
        where = slot[:, None].expand_as(scores)
        highest = scores.new_zeros(slots, scores.shape[1]).scatter_reduce(0, where, scores.detach(), "amax")
        weight = (scores - highest[slot]).exp()
        total = weight.new_zeros(highest.shape).index_add(0, slot, weight)
        weight = weight / total[slot]
        means = [
            tokens.new_zeros(slots, tokens.shape[1]).index_add(0, slot, (one[:, None] * tokens).to(tokens.dtype))
            for one in weight.unbind(1)
        ]
        return self.join(torch.cat(means, dim=1))  # type: ignore[no-any-return]


class MonthMixing(nn.Module):
    """Pre-norm transformer block over the months of each place; months in which nothing was seen of it are no keys.

    Args:
        dim: width of a token.
        heads: number of attention heads.
        mlp_ratio: hidden width of the MLP over `dim`.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(
        self, tokens: Float[Tensor, "place month dim"], seen: Bool[Tensor, "place month"]
    ) -> Float[Tensor, "place month dim"]:
        """Let the months of a place attend to one another, each also to itself."""
        query, key, value = self.qkv(self.norm1(tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        itself = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
        mask = (seen[:, None, :] | itself)[:, None]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
        tokens = tokens + self.out(mixed)
        return tokens + self.mlp(self.norm2(tokens))  # type: ignore[no-any-return]


class MapDecoder(nn.Module):
    """Maps from tokens: a linear map, an up-convolution whose kernels overlap, and convolutions at full resolution.

    Args:
        dim: width of a token.
        patch: rows and columns that a token stands for.
        hidden: channels behind the linear map; half as many at full resolution.
        overlap: points by which a kernel reaches into the neighbouring patches.
        given: maps that are known at full resolution and enter the convolutions.
        outputs: maps that come out.
    """

    def __init__(self, dim: int, patch: tuple[int, int], hidden: int, overlap: int, given: int, outputs: int) -> None:
        super().__init__()
        self.patch, self.overlap = patch, overlap
        self.project = nn.Linear(dim, hidden)
        kernel = (patch[0] + 2 * overlap, patch[1] + 2 * overlap)
        self.spread = nn.ConvTranspose2d(hidden, hidden // 2, kernel, stride=patch)
        self.refine = self.make_refine(hidden // 2, given, outputs)

    def make_refine(self, width: int, given: int, outputs: int) -> nn.Module:
        """Return what follows the up-convolution."""
        return Refine(width, given, outputs)

    def forward(
        self,
        tokens: Float[Tensor, "map row column dim"],
        known: Float[Tensor, "map known lat lon"],
        *,
        periodic: bool,
    ) -> Float[Tensor, "map output lat lon"]:
        """Decode; on a grid that goes round the globe without a seam."""
        latent = self.project(tokens).permute(0, 3, 1, 2)
        rows, columns = (n * p for n, p in zip(latent.shape[2:], self.patch, strict=True))
        reach = -(-self.overlap // self.patch[1]) if periodic else 0
        if reach:
            latent = F.pad(latent, (reach, reach, 0, 0), mode="circular")
        left = self.overlap + reach * self.patch[1]
        fine = self.spread(latent)[:, :, self.overlap : self.overlap + rows, left : left + columns]
        return self.refine(torch.cat([fine, known.to(fine.dtype)], dim=1), periodic)  # type: ignore[no-any-return]


class Refine(nn.Module):
    """Two 3×3 convolutions on a residual branch, then a linear map that begins as zero."""

    def __init__(self, width: int, given: int, outputs: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(width + given, width, 3)
        self.again = nn.Conv2d(width, width, 3)
        self.leave = nn.Conv2d(width + given, outputs, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(self, maps: Tensor, periodic: bool) -> Tensor:
        """Convolve."""
        hidden = F.gelu(self.enter(_padded(maps, periodic)))
        hidden = hidden + F.gelu(self.again(_padded(hidden, periodic)))
        return self.leave(torch.cat([hidden, maps[:, hidden.shape[1] :]], dim=1))  # type: ignore[no-any-return]


def _padded(maps: Tensor, periodic: bool) -> Tensor:
    if not periodic:
        return F.pad(maps, (1, 1, 1, 1), mode="replicate")
    return F.pad(F.pad(maps, (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1), mode="replicate")
