"""A package as somebody else may write it: one norm, mean, inversion, metric, model family and data set for latentmix.

`tests/test_plugins.py` installs it. `entry_points.txt` beside it says what latentmix finds under which name.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic.dataclasses import dataclass as settings_dataclass
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from latentmix import sampling
from latentmix.data import Dataset, Source
from latentmix.data.settings import DataConfig
from latentmix.inversion.base import Inversion, InversionSettings, State
from latentmix.metrics import Metric, mean
from latentmix.mixing import Mean, Norm
from latentmix.mixing.norms import divide
from latentmix.models.family import Family
from latentmix.models.protocol import Conditioning, Model, Text, guided, predictor
from latentmix.models.settings import ModelConfig, SpeedConfig
from latentmix.sampling import Level, Schedule
from latentmix.settings import STRICT, height_width
from latentmix.storage import key

# A norm and a mean: a line each.

LONGEST = Norm(lambda x: divide(x.e.max(), x.m), label="its norm that of the longest input")
ROWS = Mean(lambda z: z.mean(3, keepdim=True), "the mean of each row split off first")

# A metric.

SPREAD = Metric(
    "Distance from the mean", "lower", "frechet", lambda x, y: mean(torch.linalg.vector_norm(x - y.mean(0), dim=1))
)

# An inversion with a setting of its own.


@settings_dataclass(frozen=True, config=STRICT)
class DampedSettings(InversionSettings):
    damping: float = 0.0


@torch.no_grad()
def invert(model: Model, z0: Tensor, schedule: Schedule, cond: Conditioning, settings: DampedSettings) -> State:
    """Return what DDIM inversion does, shrunk by `damping`."""
    return {"latents": (1 - settings.damping) * sampling.invert(predictor(model, cond), z0, schedule)}


DAMPED = Inversion(invert, settings=DampedSettings)


# A data set.


class Stripes(Dataset):
    """Images of stripes, upright or level, at random places."""

    def classes(self) -> tuple[str, ...]:
        return ("level_stripes", "upright_stripes")

    def images(self, class_id: str, count: int | None = None) -> list[Source]:
        def pixels(index: int, size: int | str) -> np.ndarray:
            level, (height, width) = class_id == "level_stripes", height_width(size)
            stripe, start = 2 + index % 3, np.random.default_rng(index).integers(8)
            line = (np.arange(height if level else width) + start) // stripe % 2 * np.uint8(255)
            image = np.broadcast_to(line[:, None] if level else line, (height, width))
            return np.repeat(image[..., None], 3, axis=2).astype(np.uint8)

        ids = range(20 if count is None else count)
        return [Source(f"{class_id}/{index}", lambda size, index=index: pixels(index, size)) for index in ids]  # type: ignore[misc]


def stripes(config: DataConfig) -> Stripes:
    return Stripes()


# A model family: pixels are the latents, at a quarter of the size, and the network is one number.


class FlatModel:
    def __init__(self, folder: Path) -> None:
        self.dtype = torch.float32
        self.gain = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")["gain"]
        self.identity = {"weights": key(self.gain.tolist()), "precision": "float32"}
        self.text_shape = 4, 2

    def latent_shape(self, size: int | str) -> tuple[int, int, int]:
        height, width = height_width(size)
        return 3, height // 4, width // 4

    def schedule(self, steps: int, spacing: str) -> Schedule:
        alphas_cumprod = torch.linspace(0.99, 0.01, 1000)
        return sampling.discrete_schedule(alphas_cumprod, sampling.timesteps(steps, spacing, 1000), first=1.0)

    def embed(self, prompts: Sequence[str]) -> Text:
        rows = torch.tensor([[len(prompt), prompt.count("l")] for prompt in prompts]).float() / 20
        return Text(rows[:, None].expand(-1, 4, -1), rows[:, :0])

    def predict(self, z: Tensor, level: Level, timestep: float, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        def network(z: Tensor, text: Text) -> Tensor:
            return self.gain * z + 0.1 * text.states.mean((1, 2))[:, None, None, None]

        return sampling.from_epsilon(guided(network, z, conditioning), z, level)

    def encode(self, images: Tensor) -> Tensor:
        return avg_pool2d(images.float() / 127.5 - 1, 4)

    def decode(self, latents: Tensor) -> Tensor:
        return interpolate((latents.tanh() + 1) * 127.5, scale_factor=4.0).round().to(torch.uint8)


def build(folder: Path, config: ModelConfig, precision: str, device: torch.device, speed: SpeedConfig) -> Model:
    return FlatModel(folder)


FLAT = Family(
    pipeline="FlatPipeline",
    networks={"unet": "diffusers.UNet2DConditionModel"},
    others=(),
    denoiser="unet",
    flow=False,
    gpu_precision="float32",
    spacing="trailing",
    build=build,
)
