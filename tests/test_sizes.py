"""The published architectures at their full size: random weights, or none at all on torch's meta device."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel

from latentmix.compose import compose
from latentmix.features import embedded_folder
from latentmix.models import load_model
from latentmix.models.protocol import Conditioning, Text
from latentmix.models.random_weights import SD15, SD35_MEDIUM, VAE_OF_SD
from latentmix.models.vae import VAE


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_sd15_has_its_859_million_parameters() -> None:
    with torch.device("meta"):
        assert parameters(UNet2DConditionModel(**SD15)) == 859_520_964


def test_sd35_medium_has_its_2_billion_parameters() -> None:
    with torch.device("meta"):
        assert parameters(SD3Transformer2DModel(**SD35_MEDIUM)) == pytest.approx(2.24e9, rel=0.005)


@pytest.mark.parametrize(
    ("name", "channels", "side"),
    [("sd14", 4, 64), ("sd15", 4, 64), ("sd21-base", 4, 64), ("sd21", 4, 96), ("sd35-medium", 16, 128)],
)
def test_latents_have_the_papers_shape(name: str, channels: int, side: int, tmp_path: Path) -> None:
    with torch.device("meta"):
        AutoencoderKL(**VAE_OF_SD, latent_channels=channels).save_config(tmp_path)
    size = compose([f"model={name}"]).model.size
    assert VAE(tmp_path, torch.device("cpu")).latent_shape(size, patch=2) == (channels, side, side)


@pytest.mark.slow
def test_one_step_of_full_size_sd15_runs(tmp_path: Path) -> None:
    folder = shutil.copytree(embedded_folder("tiny"), tmp_path / "sd15")
    shutil.rmtree(folder / "unet")
    torch.manual_seed(0)
    network = UNet2DConditionModel(**SD15).half()
    network.save_pretrained(folder / "unet")
    del network
    model = load_model(compose(["model=sd15", f"model.path={folder}"]).model, torch.device("cpu"))
    text, null = (Text(torch.randn(1, 77, 768), torch.empty(1, 0)) for _ in range(2))
    interval = model.schedule(50, "trailing")[25]
    z = torch.randn(1, *model.latent_shape(512))
    with torch.no_grad():
        x0, eps = model.predict(z, interval.noisy, interval.timestep, Conditioning(text, null, 7.5))
    assert x0.shape == eps.shape == (1, 4, 64, 64)
    torch.testing.assert_close(interval.noisy.alpha * x0 + interval.noisy.sigma * eps, z, rtol=1e-4, atol=1e-4)
    assert eps.std() > 1e-3
