"""A training step of AtmoDist's encoder beside its layers written plainly, with every edge padded by a copy.

Prints processor seconds of one thread for features, their gradients and nothing else, in turns, the least of each, for
vorticity and divergence in patches of 160×160 points as in the paper's data.

    python benchmarks/atmodist.py [--points 160] [--batch 16] [--rounds 5]
"""

import argparse
import time
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from etesian.networks.atmodist import ResidualEncoder, SameConv, pad_same


class Plain(SameConv):
    """The same convolution of a padded copy."""

    def forward(self, input: Tensor) -> Tensor:
        """Pad with zeros and convolve."""
        return nn.Conv2d.forward(self, pad_same(input, self.kernel_size[0], self.stride[0]))


def plainly(encoder: ResidualEncoder, maps: Tensor) -> Tensor:
    """Return the features of the last layer, one after the other."""
    features = max_pool2d(pad_same(encoder.stem(maps), 3, 2, value=-torch.inf), 3, 2)
    for stage in encoder.stages:
        features = stage(features)
    return features


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=160)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder = ResidualEncoder(2)
    plain = deepcopy(encoder)
    for module in plain.modules():
        if isinstance(module, SameConv):
            module.__class__ = Plain
    maps = torch.randn(options.batch, 2, options.points, options.points)
    for name, half in (("float32", False), ("bfloat16", True)):
        least = {"plain": float("inf"), "etesian": float("inf")}
        for _ in range(options.rounds):
            for which in least:
                begin = time.process_time()
                with torch.autocast("cpu", enabled=half, dtype=torch.bfloat16):
                    features = plainly(plain, maps) if which == "plain" else encoder(maps)
                features.float().square().mean().backward()
                least[which] = min(least[which], time.process_time() - begin)
        ratio = least["plain"] / least["etesian"]
        print(f"{name}: plain {least['plain']:.3f} s, etesian {least['etesian']:.3f} s a step, {ratio:.2f}× faster")


if __name__ == "__main__":
    main()
