"""The autoencoders: 128 px to latents of 16 × 16 places, with 4 channels (`tiny`) and with 16 (`tiny-sd3`)."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import data
from .loop import rounds
from .muon import matrices
from .saving import load, write_network
from .settings import SEED, Run

NOISE = 0.1  # added to the 16 channels in training, relative to their standard deviation; see `_train`
FLOOR = 0.2  # least variance that a direction of the latents should have, where their mean variance is 1
MEMORY = 64  # images over which variances of directions are averaged
BATCH_SHARE = 0.25  # of the batch's own variances in those that are to be raised


def vae(run: Run) -> None:
    """Train the autoencoder of `tiny`, 4 channels."""
    _train(run, "vae", Path("tiny/vae"), 4, noise=0)


def vae_sd3(run: Run) -> None:
    """Train the autoencoder of `tiny-sd3`, 16 channels. It starts from the other one, if there is one."""
    _train(run, "vae_sd3", Path("tiny-sd3/vae"), 16, NOISE)


def _train(run: Run, name: str, folder: Path, channels: int, noise: float) -> None:
    """Train an autoencoder whose decoder sees latents with `noise` added, relative to their standard deviation.

    Sixteen channels hold more numbers than these images need. Without noise, most of them become functions of the
    others, known up to less than the least noise of the schedule: inversion then never brings them to variance 1.
    """
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
        z = posterior.sample()
        error = network.decode(z + noise * z.detach().std() * torch.randn_like(z)).sample.float() - x
        mean, var, logvar = (t.float() for t in (posterior.mean, posterior.var, posterior.logvar))
        divergence = 0.5 * (mean**2 + var - 1 - logvar).mean()
        short = unused(mean)
        square = error.square().mean()
        total = square + 0.2 * error.abs().mean() + 5e-5 * divergence + 0.2 * short
        return {"loss": total, "psnr": -10 * (square / 4).log10(), "short": short, "kl": divergence}

    for _ in rounds(run, name, [network], losses, matrices(network), known=known):
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
    """How far directions of the latents fall short of the variance `FLOOR`: the mean over all directions, in nats.

    A direction that the autoencoder leaves unused holds less variance than the least noise of the schedule, so that no
    inversion takes it to variance 1. Since the images are alike everywhere in the plane, so are the latents, and their
    principal directions are mixtures of channels at one spatial frequency. Covariances of the channels are averaged
    over about the last `MEMORY` images and over neighbouring frequencies. The variances that are returned to be raised
    are those of the batch and of earlier ones together, so that a direction is let go as soon as it is in use.
    """

    def __init__(self, channels: int, side: int, device: torch.device):
        self.steps, self.old = 0, 1.0
        self.mean = torch.zeros(channels, side, side, device=device)
        self.covariance = torch.zeros(side, side, channels, channels, dtype=torch.complex64, device=device)

    def __call__(self, mean: Tensor) -> Tensor:
        """Return the shortfall of posterior means [B, C, H, W]; 0 until `MEMORY` images are seen."""
        with torch.autocast(mean.device.type, enabled=False):
            scaled = mean / mean.var().sqrt()
            spectrum = torch.fft.fft2(scaled - self.mean, norm="ortho")
            self._remember(scaled.detach(), spectrum.detach())
            if self.steps % 4 == 1:
                self.variances, self.directions = torch.linalg.eigh(self._smooth())
            along = torch.einsum("bchw,hwck->bhwk", spectrum, self.directions.conj())
            now = (along.real**2 + along.imag**2).mean(0)
            variances = (1 - BATCH_SHARE) * self.variances.clamp(min=0) + BATCH_SHARE * now
            short = (math.log(FLOOR) - (variances + FLOOR / 100).log()).relu().mean()
            return short * (self.old < math.exp(-1))

    def _remember(self, scaled: Tensor, spectrum: Tensor) -> None:
        now = torch.einsum("bchw,bdhw->hwcd", spectrum, spectrum.conj()) / len(spectrum)
        new = min(0.25, len(spectrum) / MEMORY)
        self.steps, self.old = self.steps + 1, self.old * (1 - new)
        self.covariance.lerp_(now, new)
        self.mean.lerp_(scaled.mean(0), max(1 / self.steps, new / 100))

    def _smooth(self) -> Tensor:
        """Return the covariances, averaged over 3 × 3 frequencies."""
        shifts = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        moved = torch.stack([self.covariance.roll(shift, (0, 1)) for shift in shifts])
        return moved.mean(0) / (1 - self.old)


@torch.no_grad()
def set_scale(network: Any, images: Tensor) -> None:
    """Write the scale of the latents into the configuration; also the shift, if there are 16 channels."""
    some = images[:: max(1, len(images) // 500)].split(50)
    sample = torch.cat([network.encode(data.to_network(part)).latent_dist.sample() for part in some])
    network.register_to_config(scaling_factor=round(1 / sample.std().item(), 5))
    if sample.shape[1] > 4:
        network.register_to_config(shift_factor=round(sample.mean().item(), 5))
