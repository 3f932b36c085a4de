"""The autoencoders: 128 px to latents of 16 × 16 places, with 4 channels (`tiny`) and with 16 (`tiny-sd3`)."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import data
from .loop import rounds
from .saving import load, write_network
from .settings import SEED, Run

FLOOR = 0.1  # least variance that a direction of the latents should have, where their mean variance is 1
MEMORY = 400  # images over which variances of directions are averaged


def vae(run: Run) -> None:
    """Train the autoencoder of `tiny`, 4 channels."""
    _train(run, "vae", Path("tiny/vae"), 4)


def vae_sd3(run: Run) -> None:
    """Train the autoencoder of `tiny-sd3`, 16 channels. It starts from the other one, if there is one."""
    _train(run, "vae_sd3", Path("tiny-sd3/vae"), 16)


def _train(run: Run, name: str, folder: Path, channels: int) -> None:
    torch.manual_seed(SEED)
    network = autoencoder(channels)
    known = load(network, run.weights / folder)
    if not known:
        _borrow(network, run.weights / "tiny" / "vae")
    network = network.to(run.device, memory_format=torch.channels_last)
    images, batch = data.training_images(run), run.settings.stages[name].batch
    unused = Unused(channels, data.SIZE // 8, run.device)

    def losses() -> dict[str, Tensor]:
        x = data.to_network(data.rolled(data.pick(batch, images)[0]))
        posterior = network.encode(x).latent_dist
        error = network.decode(posterior.sample()).sample.float() - x
        mean, var, logvar = (t.float() for t in (posterior.mean, posterior.var, posterior.logvar))
        divergence = 0.5 * (mean**2 + var - 1 - logvar).mean()
        push, short = unused(mean)
        square = error.square().mean()
        total = square + 0.2 * error.abs().mean() + 5e-5 * divergence + 0.05 * push
        return {"loss": total, "psnr": -10 * (square / 4).log10(), "short": short, "kl": divergence}

    for _ in rounds(run, name, [network], losses, known=known):
        set_scale(network, images)
        write_network(network, run.weights / folder)


def autoencoder(channels: int) -> Any:
    """Return an AutoencoderKL, f8, without attention: all it does is local, wherever a thing lies in the frame."""
    from diffusers import AutoencoderKL
    from diffusers.models.resnet import ResnetBlock2D

    network = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),  # few channels where there are many pixels
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=data.SIZE,
        mid_block_add_attention=False,
    )
    with torch.no_grad():
        network.quant_conv.bias[channels:] = -6  # type: ignore[union-attr]  # a channel drowned early stays unused
        for block in network.modules():
            if isinstance(block, ResnetBlock2D):
                block.conv2.weight.zero_()  # each block starts as the identity
    return network


def _borrow(network: Any, folder: Path) -> None:
    """Take the weights of another autoencoder, except for layers that touch latents of another number of channels."""
    from diffusers import AutoencoderKL

    if (folder / "config.json").exists():
        known = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).state_dict()
        own = network.state_dict()
        network.load_state_dict({k: known[k] if known[k].shape == v.shape else v for k, v in own.items()})


class Unused:
    """A penalty on directions of the latents that fall short of `FLOOR`.

    A direction that the autoencoder leaves unused holds less variance than the least noise of the schedule, so that no
    inversion takes it to variance 1. Since the images are alike everywhere in the plane, so are the latents, and their
    principal directions are mixtures of channels at one spatial frequency. Their covariances are averaged over about
    the last `MEMORY` images; until there are so many, there is no penalty. The gradient is that of the logarithm of the
    variance, for directions below the floor alone.
    """

    def __init__(self, channels: int, side: int, device: torch.device):
        self.steps, self.kept = 0, 1.0
        self.mean = torch.zeros(channels, side, side, device=device)
        self.covariance = torch.zeros(side, side // 2 + 1, channels, channels, dtype=torch.complex64, device=device)
        self.count = torch.full((side // 2 + 1,), 2.0, device=device)  # of directions, real and imaginary part
        self.count[0] = self.count[-1] = 1
        self.total = channels * side * side

    def __call__(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Return the penalty on posterior means [B, C, H, W], and the mean shortfall in nats over all directions."""
        with torch.autocast(mean.device.type, enabled=False):
            scaled = mean / mean.var().sqrt()
            spectrum = torch.fft.rfft2(scaled - self.mean, norm="ortho")
            self._remember(scaled.detach(), spectrum.detach())
            if self.steps % 10 == 1:
                self.variances, self.directions = torch.linalg.eigh(self._unbiased())
            along = torch.einsum("bchw,hwck->bhwk", spectrum, self.directions.conj())
            now = (along.real**2 + along.imag**2).mean(0)
            low = (math.log(FLOOR) - (self.variances.clamp(min=0) + 1e-4).log()).relu()
            low *= self.kept < math.exp(-1)  # too few images show all directions as short
            weight = (low > 0) * self.count[None, :, None] / (self.variances.clamp(min=0) + 1e-4)
            return -(weight * now).sum() / self.total, (low * self.count[None, :, None]).sum() / self.total

    def _remember(self, scaled: Tensor, spectrum: Tensor) -> None:
        now = torch.einsum("bchw,bdhw->hwcd", spectrum, spectrum.conj()) / len(spectrum)
        self.steps += 1
        new = min(0.1, len(spectrum) / MEMORY)
        self.covariance.lerp_(now, new)
        self.kept *= 1 - new
        self.mean.lerp_(scaled.mean(0), max(1 / self.steps, new / 10))

    def _unbiased(self) -> Tensor:
        return self.covariance / (1 - self.kept)


@torch.no_grad()
def set_scale(network: Any, images: Tensor) -> None:
    """Write the scale of the latents into the configuration; also the shift, if there are 16 channels."""
    some = images[:: max(1, len(images) // 500)].split(50)
    sample = torch.cat([network.encode(data.to_network(part)).latent_dist.sample() for part in some])
    network.register_to_config(scaling_factor=round(1 / sample.std().item(), 5))
    if sample.shape[1] > 4:
        network.register_to_config(shift_factor=round(sample.mean().item(), 5))
