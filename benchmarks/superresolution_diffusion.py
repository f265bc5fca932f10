"""A small diffusion model as a reference beside benchmarks/superresolution.py, in whose folder it works.

As in CorrDiff (Mardani et al., arXiv 2309.15214), it learns what the generator of the squared error lacks, given that
generator's fields: a U-Net of the library diffusers, which is no part of etesian's environment, removes noise from it
(Karras et al. 2022, arXiv 2206.00364). One sample for each day held out, from a model for each seed, is judged as the
generators are.

    pip install diffusers
    python benchmarks/superresolution_diffusion.py [--steps 450] [--seeds 3] [--out runs/superresolution]
"""

import argparse
import time
from contextlib import chdir
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from superresolution import CHANNELS, COARSE, FINE, HELD_OUT, print_table, trained
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import etesian as et

PERIOD = ("2000-01-01", "2000-11-15")
VARIABLES = [channel.removesuffix("_850") for channel in CHANNELS]
BATCH, STEPS = 4, 18
LEAST, MOST = 0.01, 40.0
"""Noise that samples end and begin with, in standard deviations of what is lacking."""


def main() -> None:
    """Train and sample for each seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=450, help="of each training, about a second each")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/superresolution"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with chdir(options.out):
        names = trained(options.seeds)
        forecasts: dict[str, Any] = {name: f"{name}.zarr" for group in names.values() for name in group}
        names["diffusion"] = [f"diffusion{seed}" for seed in range(options.seeds)]
        for seed, name in enumerate(names["diffusion"]):
            forecasts[name] = diffused(et.load(f"runs/mse{seed}"), seed, options.steps, HELD_OUT)
        scores = et.evaluate(forecasts, FINE, baselines=[], structure=True, channels=CHANNELS)
    print_table(scores.isel(region=0, lead_time=0, map_lead_time=0), names)


def diffused(run: et.Run, seed: int, steps: int, days: tuple[str, str]) -> xr.Dataset:
    """Return samples of the fine fields of some days, from a model that is trained for so many steps."""
    torch.manual_seed(seed)
    with et.open("runs/data/planet42.zarr") as source:
        truth = _fields(source.sel(time=slice(*PERIOD)))
    mean = _fields(run.downscale(COARSE, PERIOD, grid=FINE))
    size, lacking = truth.std((0, 2, 3), keepdim=True), truth - mean
    error = lacking.std((0, 2, 3), keepdim=True)
    network = _network()
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.995))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    begun = time.process_time()
    for _ in range(steps):
        chosen = torch.randint(len(truth), (BATCH,))
        clean, given = lacking[chosen] / error, mean[chosen] / size
        sigma = 2 * torch.exp(1.2 * torch.randn(BATCH, 1, 1, 1) - 1.2)
        found = _denoised(network, clean + sigma * torch.randn_like(clean), sigma, given)
        loss = ((found - clean).square() * (1 + sigma**-2)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(network)
    print(f"diffusion {seed}: {time.process_time() - begun:.0f} s of training", flush=True)
    fine = run.downscale(COARSE, days, every=24, grid=FINE).sel(level=[850]).load()
    mean = _fields(fine)
    sample = mean + error * _sample(average.module.eval(), mean / size)
    dimensions = ("time", "level", "latitude", "longitude")
    return fine.assign({v: (dimensions, sample[:, i, None].numpy()) for i, v in enumerate(VARIABLES)})


def _fields(source: xr.Dataset) -> Tensor:
    arrays = [source[name].sel(level=850).transpose("time", "latitude", "longitude").values for name in VARIABLES]
    return torch.from_numpy(np.stack(arrays, axis=1))


def _network() -> nn.Module:
    from diffusers import UNet2DModel

    network: nn.Module = UNet2DModel(
        in_channels=4, out_channels=2, layers_per_block=1, block_out_channels=(32, 64, 64), norm_num_groups=8,
        down_block_types=("DownBlock2D",) * 3, up_block_types=("UpBlock2D",) * 3, add_attention=False,
    )  # fmt: skip
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.padding != (0, 0):
            module.padding_mode = "circular"  # Longitudes go round; beyond a pole comes what is far from it.
            module._reversed_padding_repeated_twice = [p for p in reversed(module.padding) for _ in range(2)]
    return network.to(memory_format=torch.channels_last)


def _denoised(network: nn.Module, noisy: Tensor, sigma: Tensor, given: Tensor) -> Tensor:
    """Return fields of unit variance without their noise, as the network sees them."""
    scale = (1 + sigma.square()).rsqrt()
    with torch.autocast("cpu", torch.bfloat16):
        seen = torch.cat([noisy * scale, given], dim=1).contiguous(memory_format=torch.channels_last)
        found = network(seen, sigma.flatten().log() / 4).sample.float()
    return noisy * scale**2 + sigma * scale * found


@torch.no_grad()
def _sample(network: nn.Module, given: Tensor) -> Tensor:
    """Return a sample for each field that is given, by the method of Heun."""
    ramp = torch.linspace(1, 0, STEPS)
    sigmas = torch.cat([(LEAST ** (1 / 7) + ramp * (MOST ** (1 / 7) - LEAST ** (1 / 7))) ** 7, torch.zeros(1)]).tolist()
    x = sigmas[0] * torch.randn_like(given)
    for sigma, after in pairwise(sigmas):
        slope = (x - _denoised(network, x, torch.full((len(x), 1, 1, 1), sigma), given)) / sigma
        ahead = x + (after - sigma) * slope
        if after:
            other = (ahead - _denoised(network, ahead, torch.full((len(x), 1, 1, 1), after), given)) / after
            ahead = x + (after - sigma) * (slope + other) / 2
        x = ahead
    return x


if __name__ == "__main__":
    main()
