"""The published architectures at their full size: random weights, or none at all on torch's meta device."""

import shutil
from pathlib import Path

import pytest
import torch

from latentmix.compose import compose
from latentmix.embedded import embedded_folder
from latentmix.errors import UserError
from latentmix.models import load_model
from latentmix.models.architectures import ARCHITECTURES, placeholder, random_network
from latentmix.models.protocol import Conditioning, Text
from latentmix.models.registry import family_of


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("sd15", 859_520_964),
        ("sd21", 865_910_724),
        ("sdxl", 2_567_463_684),
        ("sd35-medium", 2_243_171_520),
        ("sd35-large", 8_056_627_520),
        ("flux-dev", 11_901_408_320),
        ("flux-schnell", 11_891_178_560),
    ],
)
def test_denoisers_have_their_published_number_of_parameters(name: str, parameters: int) -> None:
    family = family_of(ARCHITECTURES / name)
    with torch.device("meta"):
        network = random_network(ARCHITECTURES / name / family.denoiser, family.networks[family.denoiser])
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert {p.dtype for p in network.parameters()} == {torch.float16}
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    ("name", "shape", "text_shape", "dtype"),
    [
        ("sd14", (4, 64, 64), (77, 768), torch.float16),
        ("sd15", (4, 64, 64), (77, 768), torch.float16),
        ("sd21-base", (4, 64, 64), (77, 1024), torch.float16),
        ("sd21", (4, 96, 96), (77, 1024), torch.float16),
        ("sdxl", (4, 128, 128), (77, 2048), torch.float16),
        ("sd35-medium", (16, 128, 128), (77 + 256, 4096), torch.bfloat16),
        ("sd35-large", (16, 128, 128), (77 + 256, 4096), torch.bfloat16),
        ("flux-dev", (16, 128, 128), (512, 4096), torch.bfloat16),
        ("flux-schnell", (16, 128, 128), (256, 4096), torch.bfloat16),
    ],
)
def test_a_model_that_is_not_here_can_be_planned_with(
    name: str, shape: tuple[int, ...], text_shape: tuple[int, int], dtype: torch.dtype
) -> None:
    config = compose([f"model={name}"]).model
    model = placeholder(config)
    assert model.latent_shape(config.size) == shape
    assert (model.text_shape, model.dtype) == (text_shape, dtype)
    assert model.identity == {"hub": config.hub, "revision": config.revision}
    assert len(model.schedule(50, config.spacing)) == 50
    family = family_of(ARCHITECTURES / str(config.architecture))
    assert (config.counterpart is None, config.spacing) == (family.flow, family.spacing)


def test_a_model_of_no_known_architecture_can_not_be_planned_with() -> None:
    config = compose(["model=sd15", "model.architecture=sd99"]).model
    with pytest.raises(UserError, match="flux-dev, flux-schnell, sd15, sd21, sd35-large, sd35-medium, sdxl"):
        placeholder(config)


@torch.no_grad()
def fill(network: torch.nn.Module) -> None:
    """Give a network weights that keep the scale of activations. A billion random numbers take long, so they repeat."""
    numbers = torch.randn(1 << 18, generator=torch.Generator().manual_seed(0))
    for weight in network.parameters():
        fan_in = max(1, weight[0].numel())
        times = -(-weight.numel() // len(numbers))
        weight.copy_((numbers / fan_in**0.5).repeat(times)[: weight.numel()].view_as(weight))


@pytest.mark.slow
def test_one_step_of_full_size_sd15_runs(tmp_path: Path) -> None:
    folder = shutil.copytree(embedded_folder("tiny"), tmp_path / "sd15")
    shutil.rmtree(folder / "unet")
    with torch.device("meta"):
        network = random_network(ARCHITECTURES / "sd15" / "unet", "diffusers.UNet2DConditionModel")
    fill(network.to_empty(device="cpu"))
    network.save_pretrained(folder / "unet")
    del network
    shutil.copy(ARCHITECTURES / "sd15" / "text_encoder" / "config.json", folder / "text_encoder")
    model = load_model(compose(["model=sd15", f"model.path={folder}"]).model, torch.device("cpu"))
    text, null = (Text(torch.randn(1, 77, 768), torch.empty(1, 0)) for _ in range(2))
    interval = model.schedule(50, "trailing")[25]
    z = torch.randn(1, *model.latent_shape(256))  # a quarter of the usual pixels
    with torch.no_grad():
        x0, eps = model.predict(z, interval.noisy, interval.timestep, Conditioning(text, null, 7.5))
    assert x0.shape == eps.shape == (1, 4, 32, 32)
    torch.testing.assert_close(interval.noisy.alpha * x0 + interval.noisy.sigma * eps, z, rtol=1e-4, atol=1e-4)
    assert eps.std() > 1e-3
