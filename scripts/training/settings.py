"""All sizes, batch sizes, learning rates and lengths of the training, for a CPU core and for a GPU."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

SEED = 2026

Round = tuple[int, float]  # steps, and the learning rate that they fall from


@dataclass(frozen=True)
class Stage:
    """How one network is trained.

    Without a time limit the rounds are run in turn. With one, a single round fills the time, at the learning rate of
    the first; its steps are not used.
    """

    batch: int
    rounds: tuple[Round, ...]
    decay: float  # of the average of the weights


@dataclass(frozen=True)
class Settings:
    """One column of the table: all that depends on the device."""

    half: bool  # bfloat16 autocast
    per_class: int  # training images of each class
    unet_views: int  # of each training image, as latents
    mmdit_views: int  # more, since no convolution tells an MMDiT that the plane is alike everywhere
    softened: int  # images of each class that the classifier also sees through the autoencoder
    statistics_batches: int  # of the classifier's batch normalisation, once its weights are averaged
    workers: int  # processes that draw images; 0 is one for each core
    mmdit_width: int
    mmdit_layers: int
    gate_pool: int  # held-out images of each class
    gate_draws: int  # mixtures of each class, size and method
    gate_sizes: tuple[int, ...]  # N at which methods are compared, the largest first
    gate_steps: int  # of generation and of the inversion of what is mixed
    exact_steps: int  # of norms of inverted latents and of round trips
    gate_batch: int
    stages: dict[str, Stage]


# With a time limit: the stages of a phase run side by side, and each phase takes its share of the time.
PHASES: tuple[tuple[float, tuple[str, ...]], ...] = (
    (0.06, ("images",)),
    (0.30, ("vae", "vae_sd3", "clip")),
    (0.50, ("unet", "transformer", "classifier")),
    (0.14, ("gates_tiny", "gates_sd3", "spectrum")),
)

CPU = Settings(
    half=False,
    per_class=2000,
    unet_views=1,
    mmdit_views=2,
    softened=500,
    statistics_batches=100,
    workers=1,
    mmdit_width=96,
    mmdit_layers=6,
    gate_pool=256,
    gate_draws=128,
    gate_sizes=(64, 8, 2),
    gate_steps=20,
    exact_steps=50,
    gate_batch=64,
    stages={
        "vae": Stage(4, ((1000, 2e-3), (500, 1e-3)), 0.998),
        "vae_sd3": Stage(4, ((1000, 1.5e-3), (4500, 1.5e-3)), 0.998),
        "classifier": Stage(32, ((1500, 3e-3),), 0.99),
        "clip": Stage(64, ((1500, 1e-3),), 0.995),
        "unet": Stage(32, ((7000, 1e-3), (8000, 1e-3)), 0.999),
        "transformer": Stage(32, ((6000, 1e-3), (12000, 1e-3)), 0.999),
    },
)

GPU = replace(
    CPU,
    half=True,
    per_class=4000,
    unet_views=2,
    mmdit_views=4,
    softened=2000,
    workers=0,
    mmdit_width=160,
    gate_pool=512,
    gate_sizes=(64, 8, 4, 2, 16, 32),
    gate_batch=512,
    stages={
        "vae": Stage(32, ((10000, 2e-3),), 0.998),
        "vae_sd3": Stage(32, ((10000, 2e-3),), 0.998),
        "classifier": Stage(256, ((6000, 3e-3),), 0.99),
        "clip": Stage(512, ((5000, 1e-3),), 0.995),
        "unet": Stage(256, ((10000, 1.2e-3),), 0.999),
        "transformer": Stage(192, ((10000, 1e-3),), 0.999),
    },
)

# For tests and trials of the script: everything as small as it can be.
SMOKE = replace(
    CPU,
    per_class=4,
    mmdit_views=2,
    softened=4,
    statistics_batches=2,
    mmdit_layers=1,
    gate_pool=2,
    gate_draws=2,
    gate_sizes=(2,),
    gate_steps=1,
    exact_steps=1,
    stages={name: Stage(4, ((2, 1e-3),), 0.9) for name in CPU.stages},
)

TABLE = {"cpu": CPU, "cuda": GPU, "smoke": SMOKE}


@dataclass(frozen=True)
class Run:
    """What the command line asks for."""

    settings: Settings
    device: torch.device
    work: Path  # drawn images and checkpoints
    weights: Path  # where finished networks are written, in float16, and where later stages and runs read them
    deadline: float | None = None  # time.time() at which a stage must have written its weights
    compiled: bool = False
