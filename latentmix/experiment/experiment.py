"""An experiment: a config, and the model, data and networks that it names, each loaded when it is first used."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Literal, Self

import torch
from torch import Tensor

from latentmix import gpu
from latentmix.config import Config
from latentmix.data import load_dataset
from latentmix.data.synthetic import Synthetic
from latentmix.experiment.cache_keys import Layout, schedule_key
from latentmix.experiment.cells import Cells
from latentmix.experiment.data import RunData
from latentmix.experiment.draws import random_latents
from latentmix.experiment.latents import PoolLatents, Rows
from latentmix.experiment.texts import Lock, Texts
from latentmix.feature_networks import Network, Perceptual, clip_network, frechet_network, load, perceptual_network
from latentmix.feature_networks.base import distinct
from latentmix.inversion import INVERSIONS
from latentmix.inversion.base import Inversion
from latentmix.metrics import METRICS
from latentmix.models import attention, load_model
from latentmix.models import compile as compilation
from latentmix.models.protocol import Model
from latentmix.profiling import timed
from latentmix.sampling import Schedule
from latentmix.settings import height_width


class Experiment:
    """The parts of one run: what is mixed is in `data`, `cells` and `latents`; where results are kept, in `layout`.

    One that is `only_planned` has stand-ins for a model and images of the hub that are not here. They suffice to plan.
    """

    measured_with: tuple[Literal["features", "clip"], ...] = ("features", "clip")  # settings that name its networks
    data_type: type[RunData] = RunData
    cells_type: type[Cells] = Cells

    def __init__(self, config: Config, only_planned: bool = False) -> None:
        self.config = config
        self.only_planned = only_planned
        self.lock: Lock = lambda name: nullcontext()

    def planned(self) -> Self:
        """Return the same experiment, only planned, with nothing loaded."""
        return type(self)(self.config, only_planned=True)

    # What is mixed

    @cached_property
    def data(self) -> RunData:
        """Return the run's classes and images; `synthetic` ones are those that the model itself generates."""
        dataset = load_dataset(self.config.data)
        if isinstance(dataset, Synthetic):
            dataset = dataset.made_by(self._synthesis, self.config.cache, self.config.seed)
        here = not self.only_planned or dataset.repository() is None
        return self.data_type(self.config, dataset if here else dataset.planned())

    @property
    def _synthesis(self) -> dict[str, object]:
        """Return what synthetic images depend on."""
        config = self.config
        return {
            "model": self.model.identity,
            "size": config.model.size,
            "prompt": config.model.prompt,
            "guidance": config.guidance,
            "schedule": schedule_key(self.plain_schedule),
            "seed": config.seed,
            "noise": config.data.noise,
        }

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the identifiers of the run's classes."""
        return self.data.classes

    @cached_property
    def cells(self) -> Cells:
        """Return the points of the run's curves, and their draws."""
        return self.cells_type(self.config, self.data)

    # The device and the networks

    @cached_property
    def device(self) -> torch.device:
        """Return the device to compute on; raise UserError if it cannot be used."""
        return gpu.find_device(self.config.device)

    @property
    def device_name(self) -> str:
        """Return the name of the GPU, or the type of the device."""
        return gpu.device_name(self.device)

    @cached_property
    def model(self) -> Model:
        """Return the diffusion model, in the precision of generation."""
        settings = self.config.inversion
        return self._model(settings.float32 if settings.float32_in == "both" else ())

    @cached_property
    def inverter(self) -> Model:
        """Return the diffusion model in the precision of inversion: `model` itself, where that is the same."""
        settings = self.config.inversion
        if settings.float32_in == "both" or not settings.float32:
            return self.model
        model = self._model(settings.float32)
        return self.model if model.identity == self.model.identity else model

    def _model(self, float32: tuple[str, ...]) -> Model:
        return load_model(self.config.model, self.device, float32, self.config.speed, self.only_planned)

    def finish_inverting(self) -> None:
        """Free the networks that only inversion uses."""
        if "inverter" in vars(self) and vars(self).pop("inverter") is not self.model:
            vars(self).pop("texts", None)
            gpu.free_memory(self.device)

    @cached_property
    @timed("loading weights")
    def networks(self) -> dict[str, Network]:
        """Return the feature networks: `frechet` for Fréchet distances and the like, `clip`, and metrics' own ones."""
        model, metrics = self.config.model, [METRICS[name] for name in self.config.metrics]
        frechet = {"frechet": frechet_network(model.features, self.device)} if "features" in self.measured_with else {}
        clip = clip_network(model.clip, self.device, any(metric.of_prompt for metric in metrics))
        return frechet | {"clip": clip} | {name: load(name, self.device) for name in self.own_networks}

    @property
    def own_networks(self) -> list[str]:
        """Return the names of the networks that metrics need besides `frechet` and `clip`."""
        return self.config.own_networks if "features" in self.measured_with else []

    @property
    def distinct_networks(self) -> list[Network]:
        """Return the feature networks, each once."""
        return [self.networks[name] for name in dict.fromkeys(distinct(self.networks).values())]

    @cached_property
    def perceptual(self) -> Perceptual:
        """Return the network that measures the distance between two images."""
        return perceptual_network(self.config.model.perceptual, self.device)

    def settle_compiling(self, evaluations: int) -> None:
        """Turn `speed.compile=auto` into true if it saves time over `evaluations` of the diffusion network."""
        speed, pixels = self.config.speed, math.prod(height_width(self.config.model.size))
        if speed.compile == "auto" and compilation.pays(evaluations, pixels, self.device):
            self.release()  # networks may have been loaded to determine the batch size
            self.config = replace(self.config, speed=replace(speed, compile=True))

    def release(self) -> None:
        """Free the memory of all networks, so that another model can use it. They are loaded again when needed."""
        for name in ("model", "inverter", "networks", "perceptual", "texts", "latents", "gaussian_latents"):
            vars(self).pop(name, None)
        gpu.free_memory(self.device)

    def check(self, images: bool = True) -> None:
        """Raise UserError where settings do not fit: model, steps, classes and, if `images`, the pools."""
        _ = self.model, self.inversion_schedule, self.generation_schedule, self.data.titles
        for class_id in self.classes:
            if images:
                self.data.pool(class_id)
        if self.config.speed.attention != "auto":
            attention.check(self.config.speed.attention, self.device, self.model.dtype)
        if self.config.speed.compile is True:
            compilation.check(self.device)

    # Schedules and the inversion

    @property
    def inversion(self) -> Inversion:
        """Return the inversion that the config names."""
        return INVERSIONS[self.config.inversion.kind]

    @cached_property
    def inversion_schedule(self) -> Schedule:
        """Return the noise levels of inversion."""
        settings = self.config.inversion
        return self.model.schedule(settings.steps * self.inversion.intervals_per_step, settings.spacing)

    @cached_property
    def generation_schedule(self) -> Schedule:
        """Return the noise levels of generation by the inversion's own sampler."""
        return self.model.schedule(self.config.steps * self.inversion.intervals_per_step, self.config.spacing)

    @cached_property
    def plain_schedule(self) -> Schedule:
        """Return the noise levels of plain generation, which do not depend on the inversion."""
        return self.model.schedule(self.config.steps, self.config.spacing)

    # The cache, and what is read from it

    @cached_property
    def layout(self) -> Layout:
        """Return the folders of this experiment."""
        config = self.config
        return Layout(
            root=config.cache,
            model=self.model.identity,
            inverter=self.inverter.identity,
            size=config.model.size,
            seed=config.seed,
            inversion={
                "inversion": self.inversion.identity(config.inversion),
                "schedule": schedule_key(self.inversion_schedule),
            },
            mixing=self.cells.identity,
            generation={
                "guidance": config.guidance,
                "generation schedule": schedule_key(self.generation_schedule),
                **({} if self.inverter.identity == self.model.identity else {"generator": self.model.identity}),
            },
            prompt=self.data.prompt,
            pool_ids=lambda class_id: [source.id for source in self.data.pool(class_id)],
        )

    @cached_property
    def texts(self) -> Texts:
        """Return the embeddings of the prompts."""
        return Texts(self.data, self.layout, self.device, lambda name: self.lock(name))

    @cached_property
    def latents(self) -> PoolLatents:
        """Return the inverted latents of the pools."""

        def read(class_id: str) -> Rows:
            kept, ids = self.layout.latents(class_id), list(self.layout.pool_ids(class_id))
            return {name: kept.rows(ids, name) for name in ("latents", *self.inversion.extras)}

        return PoolLatents(read, self.inversion.extras, self.device)

    @cached_property
    def gaussian_latents(self) -> PoolLatents:
        """Return standard Gaussian latents in place of the inverted ones, for the control `gauss`."""
        seed, shape = self.config.seed, self.model.latent_shape(self.config.model.size)

        def read(class_id: str) -> Rows:
            rows = range(len(self.data.pool(class_id)))
            return {"latents": random_latents(seed, f"gauss {class_id}", rows, shape).unbind()}

        return PoolLatents(read, {}, self.device)

    def noise(self, class_id: str, draws: Sequence[int]) -> Tensor:
        """Return standard Gaussian latents [K, C, h, w] for the control `noise`, float32 on the device."""
        shape = self.model.latent_shape(self.config.model.size)
        return random_latents(self.config.seed, f"noise {class_id}", draws, shape).to(self.device)
