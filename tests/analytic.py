"""A model in closed form: of data whose numbers are either of two values, with some spread. It needs no weights."""

import math

import torch
from torch import Tensor

from latentmix.models.protocol import Conditioning, Text, guided
from latentmix.sampling import Level, Schedule, discrete_schedule, timesteps


class TwoPeaks:
    """Every number of a clean latent is m + 0.4 or m − 0.4, with a standard deviation of 0.3.

    m is the mean of the prompt's states, so that prompts and guidance matter; the timestep moves it a little.
    """

    dtype = torch.float64

    def predict(self, z: Tensor, level: Level, timestep: float, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        variance = (0.3 * level.alpha) ** 2 + level.sigma**2

        def network(z: Tensor, text: Text) -> Tensor:
            """x0 and ε, stacked as channels."""
            middle = text.states.mean((1, 2)).view(-1, 1, 1, 1) + 0.05 * math.cos(timestep / 250)
            weight = torch.sigmoid(0.8 * level.alpha / variance * (z - level.alpha * middle))  # of the upper peak
            from_mean = z - level.alpha * (middle + 0.4 * (2 * weight - 1))
            x0 = middle + 0.4 * (2 * weight - 1) + 0.09 * level.alpha / variance * from_mean
            return torch.cat([x0, level.sigma / variance * from_mean], dim=1)

        x0, eps = guided(network, z, conditioning).chunk(2, dim=1)
        return x0, eps


def schedule(steps: int) -> Schedule:
    """Stable Diffusion 1.5's."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, dim=0)
    return discrete_schedule(alphas, timesteps(steps, "trailing"), first=alphas[0].item())


def text(value: float) -> Text:
    return Text(torch.full((1, 2, 3), value, dtype=torch.float64), torch.zeros(1, 0, dtype=torch.float64))


def clean_latents(images: int, shape: tuple[int, int, int] = (4, 8, 8)) -> Tensor:
    """Of the data, without random numbers, whose generator may change: fractional parts of multiples of √2."""
    count = images * math.prod(shape)
    u = (torch.arange(1, count + 1, dtype=torch.float64) * math.sqrt(2)).frac().view(images, *shape)
    peaks = torch.where((u * 1000).floor() % 2 == 0, 0.4, -0.4)
    return 0.3 + peaks + 0.3 * torch.erfinv(1.98 * u - 0.99)
