"""An experiment: a config, and the model, data and networks that it names, each loaded when it is first used."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property, reduce
from operator import add
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from latentmix import gpu
from latentmix.config import Config
from latentmix.data import Dataset, Source, choose, load_dataset
from latentmix.data.prompts import Prompts
from latentmix.data.synthetic import Synthetic
from latentmix.errors import UserError
from latentmix.experiment.cache_keys import Layout, schedule_key
from latentmix.experiment.draws import (
    GAUSS,
    NOISE,
    Cell,
    dirichlet_weights,
    distinct_draws,
    random_latents,
    uniform_weights,
)
from latentmix.experiment.latents import PoolLatents, Rows
from latentmix.experiment.memo import cached_method
from latentmix.feature_networks import Network, Perceptual, clip_network, frechet_network, perceptual_network
from latentmix.inversion import INVERSIONS
from latentmix.inversion.base import Inversion
from latentmix.metrics import METRICS
from latentmix.models import attention, load_model
from latentmix.models import compile as compilation
from latentmix.models.protocol import Conditioning, Model, Text
from latentmix.profiling import timed
from latentmix.sampling import Schedule
from latentmix.settings import height_width

MAX_PAIRS = 50  # of images in a cell or class, whose perceptual distance is the diversity


class Experiment:
    """The parts of one run. Where results are kept is in `layout`; what is mixed is in `latents`."""

    reserved: tuple[str, ...] = ("all",)  # names that no class may have, as tables use them for averages
    measured_with: tuple[Literal["features", "clip"], ...] = ("features", "clip")  # settings that name its networks

    def __init__(self, config: Config) -> None:
        self.config = config
        self.lock: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext()  # among workers, by name

    def renewed(self) -> "Experiment":
        """Return the same experiment with nothing loaded."""
        return type(self)(self.config)

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
        float32 = settings.float32 if settings.float32_in == "both" else ()
        return load_model(self.config.model, self.device, float32, self.config.speed)

    @cached_property
    def inverter(self) -> Model:
        """Return the diffusion model in the precision of inversion: `model` itself, where that is the same."""
        settings = self.config.inversion
        if settings.float32_in == "both" or not settings.float32:
            return self.model
        model = load_model(self.config.model, self.device, settings.float32, self.config.speed)
        return self.model if model.identity == self.model.identity else model

    def finish_inverting(self) -> None:
        """Free the networks that only inversion uses."""
        if "inverter" in vars(self) and vars(self).pop("inverter") is not self.model:
            self._texts.clear()
            gpu.free_memory(self.device)

    @cached_property
    @timed("loading weights")
    def networks(self) -> dict[str, Network]:
        """Return the feature networks: `frechet` for Fréchet distances and precision, `clip` for CLIP metrics."""
        model, texts = self.config.model, any(METRICS[name].of_prompt for name in self.config.metrics)
        frechet = frechet_network(model.features, self.device)
        return {"frechet": frechet, "clip": clip_network(model.clip, self.device, texts)}

    @cached_property
    def perceptual(self) -> Perceptual:
        """Return the network that measures the distance between two images."""
        return perceptual_network(self.config.model.perceptual, self.device)

    @property
    def measures_diversity(self) -> bool:
        """Return whether pairs of images are compared."""
        return "diversity" in self.config.metrics

    def settle_compiling(self, evaluations: int) -> None:
        """Turn `speed.compile=auto` into true if it saves time over `evaluations` of the diffusion network."""
        speed, pixels = self.config.speed, math.prod(height_width(self.config.model.size))
        if speed.compile == "auto" and compilation.pays(evaluations, pixels, self.device):
            self.release()  # networks may have been loaded to determine the batch size
            self.config = replace(self.config, speed=replace(speed, compile=True))

    def release(self) -> None:
        """Free the memory of all networks, so that another model can use it. They are loaded again when needed."""
        for name in ("model", "inverter", "networks", "perceptual", "_texts", "latents", "gaussian_latents"):
            self.__dict__.pop(name, None)
        gpu.free_memory(self.device)

    def check(self, images: bool = True) -> None:
        """Raise UserError where settings do not fit: model, steps, classes and, if `images`, the pools."""
        _ = self.model, self.inversion_schedule, self.generation_schedule, self._titles
        for class_id in self.classes:
            if images:
                self.pool(class_id)
        if self.config.speed.attention != "auto":
            attention.check(self.config.speed.attention, self.device, self.model.dtype)
        if self.config.speed.compile is True:
            compilation.check(self.device)

    # The data

    @cached_property
    def data(self) -> Dataset:
        """Return the data set; for `synthetic` data, the images that the model itself generates."""
        config, data = self.config, load_dataset(self.config.data)
        if not isinstance(data, Synthetic):
            return data
        identity = {
            "model": self.model.identity,
            "size": config.model.size,
            "prompt": config.model.prompt,
            "guidance": config.guidance,
            "schedule": schedule_key(self.plain_schedule),
            "seed": config.seed,
            "noise": config.data.noise,
        }
        return data.made_by(identity, config.cache, config.seed)

    @property
    def folders_of_data(self) -> list[Path]:
        """Return the folders that this run writes images to instead of reading real ones: one for synthetic data."""
        return [self.data.folder] if isinstance(self.data, Synthetic) else []

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Return the identifiers of the run's classes."""
        return choose(self.data, self.config.data.classes, self.config.seed, self.reserved)

    @cached_property
    def _fetched_data(self) -> Dataset:
        """Return the data set, with all images of the run's classes on this machine."""
        self.data.fetch(self.classes)
        return self.data

    @cached_method
    def pool(self, class_id: str) -> list[Source]:
        """Return the images of a class that are inverted and mixed; see `prompted`."""
        return self.prompted(self._fetched_data.images(class_id, self.config.pool), class_id)

    def prompted(self, sources: list[Source], class_id: str) -> list[Source]:
        """Return images of a class with the prompts of their own that `data.prompts` has."""
        none = self.config.data.prompts is None
        return sources if none else self._prompts.given_to(sources, f"class {class_id!r}")

    @cached_property
    def _prompts(self) -> Prompts:
        """Return the prompts of images by file name."""
        return Prompts(Path(str(self.config.data.prompts)))

    @cached_method
    def references(self, class_id: str) -> list[Source]:
        """Return the real images of a class that generated images are compared with."""
        return self._fetched_data.images(class_id, self.config.data.reference)

    def class_of(self, name: str | None) -> str:
        """Return the identifier of a class of the run, by default the first one; raise UserError for any other."""
        class_id = self.classes[0] if name is None else self.data.resolve(name)
        if class_id not in self.classes:
            raise UserError(f"{class_id!r} is not among the classes of this run: {', '.join(self.classes)}")
        return class_id

    def title(self, class_id: str) -> str:
        """Return the name of a class in prompts and figures."""
        return self._titles.get(class_id) or self.data.title(class_id)

    @cached_property
    def _titles(self) -> dict[str, str]:
        """Return the titles that the config sets; raise UserError if one is for a class that does not exist."""
        return {self.data.resolve(name): title for name, title in (self.config.data.titles or {}).items()}

    # Cells

    def cells_of(self, class_id: str) -> list[Cell]:
        """Return the cells of a class, without the controls."""
        return [Cell(class_id, n, method) for n in self.config.n for method in dict.fromkeys(self.config.methods)]

    @property
    def cells(self) -> list[Cell]:
        """Return all cells without the controls, class by class: one class's latents are in memory at a time."""
        return [cell for class_id in self.classes for cell in self.cells_of(class_id)]

    @property
    def streams(self) -> dict[str, list[Cell]]:
        """Return groups of cells that are generated together, by name.

        The cells of a class share a prompt and a pool, so they form one stream. The controls `gauss` and `noise` form
        further ones.
        """
        mixed = {class_id: self.cells_of(class_id) for class_id in self.classes}
        plain = [Cell(class_id, 0, NOISE) for class_id in self.classes if "noise" in self.config.controls]
        if "gauss" in self.config.controls:
            mixed |= {f"{c}, {GAUSS}": [replace(cell, gaussian=True) for cell in cells] for c, cells in mixed.items()}
        return mixed | {str(cell): [cell] for cell in plain}

    @property
    def generated_cells(self) -> list[Cell]:
        """Return all cells, with the controls `gauss` and `noise`."""
        return [cell for cells in self.streams.values() for cell in cells]

    def draws(self, cell: Cell, most: int | None = None) -> Sequence[int]:
        """Return the numbers of a cell's draws, or of the first `most`; fewer where the pool has fewer subsets of N."""
        config = self.config
        count = config.draws if most is None else min(most, config.draws)
        if cell.method == NOISE or (config.weights != "uniform" and cell.n > 1):  # random weights are never the same
            return range(count)
        return distinct_draws(config.seed, cell.class_id, count, cell.n, config.pool)

    @property
    def few_draws(self) -> str:
        """Return the warning for a run in which some N has fewer draws than asked for."""
        draws, pool, every = self.config.draws, self.config.pool, self.config.weights == "uniform"
        counts = {n: math.comb(pool, n) for n in self.config.n if every or n == 1}  # random weights never repeat
        few = ", ".join(f"{count} of n={n}" for n, count in counts.items() if count < draws)
        more = f"draws={draws} is more than the subsets that pool={pool} images have"
        return f"{more}: {few}; each of these is drawn once"

    def weights(self, cell: Cell, draws: Sequence[int]) -> Tensor:
        """Return the weights [K, pool] of the images of the pool in K draws of a cell."""
        config = self.config
        drawn = config.seed, cell.class_id, draws, cell.n, config.pool
        return uniform_weights(*drawn) if config.weights == "uniform" else dirichlet_weights(*drawn, config.weights)

    @property
    def images_kept(self) -> int:
        """Return how many images of each cell a sweep keeps; diversity needs those of its pairs."""
        return max(self.config.keep, 2 * MAX_PAIRS) if self.measures_diversity else self.config.keep

    # Prompts

    def prompt(self, class_id: str) -> str:
        """Return the prompt of a class."""
        return self.config.model.prompt.format(self.title(class_id))

    @cached_property
    def _own_prompts(self) -> dict[str, str]:
        """Return the prompts of images that have one of their own, by image id."""
        if self.config.data.prompts is None:
            return {}
        return {source.id: source.prompt for name in self.classes for source in self.pool(name) if source.prompt}

    def conditioning(
        self, class_id: str, guidance: float, model: Model | None = None, ids: Sequence[str] = (), size: int = 1
    ) -> Conditioning:
        """Return the embedded prompt of a class and the empty prompt, with a guidance scale.

        Where images have prompts of their own, there is a row for each of `ids`, and the last is repeated up to `size`
        rows. Embeddings are in the precision of `model`, by default that of generation.
        """
        own, shared = self._own_prompts if ids else {}, self.prompt(class_id)
        prompts = [own.get(id_, shared) for id_ in ids] if own else [shared]
        if own:
            prompts += prompts[-1:] * (size - len(prompts))
        texts = self.embeddings([*map(self.prompt, self.classes), *own.values()], model or self.model)
        return Conditioning(reduce(add, [texts[prompt] for prompt in prompts]), texts[""], guidance)

    @cached_property
    def _texts(self) -> dict[str, dict[str, Text]]:
        """Return the embeddings that are in memory: precision of the model -> prompt -> embedding."""
        return {}

    def embeddings(self, prompts: Sequence[str], model: Model) -> dict[str, Text]:
        """Return embeddings by prompt, also of the empty prompt.

        All that are not cached are encoded at once, so that the text encoders are loaded once, and by one worker.
        """
        known, wanted = self._texts.setdefault(model.identity["precision"], {}), dict.fromkeys(["", *prompts])
        if unknown := [prompt for prompt in wanted if prompt not in known]:
            kept = self.layout.prompts({"model": model.identity})
            with self.lock("prompts"):
                cached = kept.ids()
                if missing := [prompt for prompt in unknown if prompt not in cached]:
                    texts = model.embed(missing)
                    for row, prompt in enumerate(missing):
                        kept.write([prompt], {"states": texts.states[row, None], "pooled": texts.pooled[row, None]})
            rows = kept.read()
            for prompt in unknown:
                known[prompt] = Text(*(rows[prompt][name][None].to(self.device) for name in ("states", "pooled")))
        return known

    def prompt_features(self, class_id: str) -> Tensor:
        """Return the CLIP embedding [1, D] of the prompt of a class."""
        network, prompt = self.networks["clip"], self.prompt(class_id)
        kept = self.layout.prompts(network.identity)
        if prompt not in kept.ids():
            if network.embed_text is None:
                raise ValueError("no metric of this run needs prompts")
            kept.write([prompt], {"features": network.embed_text(prompt).cpu()})
        return kept.gather([prompt], "features")

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

    # The cache, and the latents

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
            mixing={} if config.weights == "uniform" else {"weights": config.weights},
            generation={
                "guidance": config.guidance,
                "generation schedule": schedule_key(self.generation_schedule),
                **({} if self.inverter.identity == self.model.identity else {"generator": self.model.identity}),
            },
            prompt=self.prompt,
            pool_ids=lambda class_id: [source.id for source in self.pool(class_id)],
        )

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
            rows = range(len(self.pool(class_id)))
            return {"latents": random_latents(seed, f"gauss {class_id}", rows, shape).unbind()}

        return PoolLatents(read, {}, self.device)

    def noise(self, class_id: str, draws: Sequence[int]) -> Tensor:
        """Return standard Gaussian latents [K, C, h, w] for the control `noise`, float32 on the device."""
        shape = self.model.latent_shape(self.config.model.size)
        return random_latents(self.config.seed, f"noise {class_id}", draws, shape).to(self.device)
