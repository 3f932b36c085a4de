"""The workbench: what all stages of a run share, each thing loaded when it is first needed and then kept."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentmix.cache import TensorCache, file_name, key
from latentmix.config import Config
from latentmix.data import Dataset, Source, choose, load_dataset
from latentmix.data.synthetic import Synthetic
from latentmix.errors import UserError
from latentmix.features import Network, Perceptual, clip_network, frechet_network, perceptual_network
from latentmix.inversion import INVERSIONS
from latentmix.inversion.base import Inversion, State
from latentmix.metrics import METRICS
from latentmix.mixing import Method, mixtures
from latentmix.models import attention, load_model
from latentmix.models import compile as compiled
from latentmix.models.protocol import Conditioning, Model, Text
from latentmix.profiling import timed
from latentmix.rng import generator, noise
from latentmix.sampling import Schedule

MAX_PAIRS = 50  # pairs of images at most, of a cell or a class, whose distances are the diversity
NOISE = Method("noise", "0")  # stands for no mixture, but random latents: a control, at n = 0


@dataclass(frozen=True, order=True)
class Cell:
    """One point of a curve before averaging over classes: a class, how many latents are mixed, and how."""

    class_id: str
    n: int
    method: Method

    @property
    def name(self) -> str:
        """The method's, as tables have it."""
        return "noise" if self.method == NOISE else str(self.method)

    def __str__(self) -> str:
        return f"{self.class_id}, noise" if self.method == NOISE else f"{self.class_id}, N = {self.n}, {self.name}"


class Experiment:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.batch = 32 if config.batch == "auto" else config.batch  # until `memory.settle` knows better

    @cached_property
    def device(self) -> torch.device:
        if self.config.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            torch.zeros(1, device=self.config.device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"device={self.config.device} can't be used: {str(error).splitlines()[0]}") from error
        return torch.device(self.config.device)

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    @cached_property
    def model(self) -> Model:
        return load_model(self.config.model, self.device, self.config.inversion.float32, self.config.speed)

    @cached_property
    def data(self) -> Dataset:
        config, data = self.config, load_dataset(self.config.data)
        if not isinstance(data, Synthetic):
            return data
        identity = {
            "model": self.model.identity,
            "size": config.model.size,
            "prompt": config.model.prompt,
            "guidance": config.guidance,
            "ladder": _identity(self.plain_schedule),
            "seed": config.seed,
            "noise": config.data.noise,
        }
        return data.made_by(identity, config.cache, config.seed)

    @cached_property
    @timed("loading weights")
    def networks(self) -> dict[str, Network]:
        """`frechet` and `clip`, for the two distances."""
        model, texts = self.config.model, any(METRICS[name].of_prompt for name in self.config.metrics)
        return {
            "frechet": frechet_network(model.features, self.device),
            "clip": clip_network(model.clip, self.device, texts),
        }

    @cached_property
    def perceptual(self) -> Perceptual:
        """For the distance between two images."""
        return perceptual_network(self.config.model.perceptual, self.device)

    @property
    def pairing(self) -> bool:
        """Whether pairs of images are to be compared."""
        return "diversity" in self.config.metrics

    @cached_property
    def classes(self) -> tuple[str, ...]:
        return choose(self.data, self.config.data.classes, self.config.seed)

    @cached_property
    def _fetched(self) -> Dataset:
        """The data, once all images of the run's classes are on this machine; what needs none asks for none."""
        self.data.fetch(self.classes)
        return self.data

    def check(self, images: bool = True) -> None:
        """Whatever may be wrong with the settings comes up here, before any work: model, steps, classes and, unless
        none will be read, images."""
        _ = self.model, self.inversion_schedule, self.generation_schedule, self._titles
        for class_id in self.classes:
            if images:
                self.pool(class_id)
        if self.config.speed.attention != "auto":
            attention.check(self.config.speed.attention, self.device, self.model.dtype)
        if self.config.speed.compile:
            compiled.check(self.device)

    @property
    def cells(self) -> list[Cell]:
        """Class by class, so that one class's latents are in memory at a time."""
        return [cell for class_id in self.classes for cell in self._cells(class_id)]

    def _cells(self, class_id: str) -> list[Cell]:
        return [Cell(class_id, n, method) for n in self.config.n for method in dict.fromkeys(self.config.methods)]

    @property
    def generated(self) -> list[Cell]:
        """The cells, and those of random latents where they are among the controls."""
        return [cell for cells in self.streams.values() for cell in cells]

    @property
    def streams(self) -> dict[str, list[Cell]]:
        """Cells that are generated together, by name: a class's, which have one prompt and one pool of latents, and
        random latents, which are made of none."""
        mixed = {class_id: self._cells(class_id) for class_id in self.classes}
        plain = [Cell(class_id, 0, NOISE) for class_id in self.classes if "noise" in self.config.controls]
        return mixed | {str(cell): [cell] for cell in plain}

    @cache  # noqa: B019 - a bench lives as long as its command
    def pool(self, class_id: str) -> list[Source]:
        """The images of a class that are inverted and mixed."""
        return self._fetched.images(class_id, self.config.pool)

    @cache  # noqa: B019
    def references(self, class_id: str) -> list[Source]:
        """The real images of a class that generated ones are measured against."""
        return self._fetched.images(class_id, self.config.data.reference)

    def release(self) -> None:
        """Let go of what takes memory, so that another model has it all; what is needed again is read again."""
        for name in ("model", "networks", "perceptual", "_embeddings", "_held"):
            self.__dict__.pop(name, None)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def prompt(self, class_id: str) -> str:
        return self.config.model.prompt.format(self.title(class_id))

    def title(self, class_id: str) -> str:
        """What prompts and figures call a class; UserError where another title is for a class that there is not."""
        return self._titles.get(class_id) or self.data.title(class_id)

    @cached_property
    def _titles(self) -> dict[str, str]:
        return {self.data.resolve(name): title for name, title in (self.config.data.titles or {}).items()}

    def conditioning(self, class_id: str, guidance: float) -> Conditioning:
        return Conditioning(self._embeddings[self.prompt(class_id)], self._embeddings[""], guidance)

    @cached_property
    def _embeddings(self) -> dict[str, Text]:
        """All prompts at once, and then from the cache, so that the text encoders come and go once."""
        identity = {"model": self.model.identity}
        kept = TensorCache(self.config.cache / "prompts" / key(identity), identity)
        wanted = dict.fromkeys(["", *(self.prompt(class_id) for class_id in self.classes)])
        there = kept.read()
        missing = [prompt for prompt in wanted if prompt not in there]
        if missing:
            made = self.model.embed(missing)
            for row, prompt in enumerate(missing):
                kept.write([prompt], {"states": made.states[row, None], "pooled": made.pooled[row, None]})
        rows = kept.read()

        def tensor(prompt: str, name: str) -> Tensor:
            return rows[prompt][name][None].to(self.device)

        return {prompt: Text(tensor(prompt, "states"), tensor(prompt, "pooled")) for prompt in wanted}

    def prompt_features(self, class_id: str) -> Tensor:
        """The embedding [1, D] in CLIP of the prompt that a class is generated with; from the cache, once it is
        there."""
        network, prompt = self.networks["clip"], self.prompt(class_id)
        kept = TensorCache(self.config.cache / "prompts" / key(network.identity), network.identity)
        if prompt not in kept.read():
            if network.describe is None:
                raise ValueError("no metric of this run takes prompts")
            kept.write([prompt], {"features": network.describe(prompt).cpu()})
        return kept.gather([prompt], "features")

    @cached_property
    def inversion_schedule(self) -> Schedule:
        return self._schedule(self.config.inversion.steps, self.config.inversion.spacing)

    @cached_property
    def generation_schedule(self) -> Schedule:
        return self._schedule(self.config.steps, self.config.spacing)

    @cached_property
    def plain_schedule(self) -> Schedule:
        """Of what is generated beside any inversion, and so is the same whichever a run has."""
        return self.model.schedule(self.config.steps, self.config.spacing)

    def _schedule(self, steps: int, spacing: str) -> Schedule:
        return self.model.schedule(steps * self.inversion.intervals_per_step, spacing)

    @property
    def inversion(self) -> Inversion:
        return INVERSIONS[self.config.inversion.kind]

    # Where things are kept. Identities hold whatever the bytes depend on, and nothing else.

    @cache  # noqa: B019
    def latents_identity(self, class_id: str) -> dict[str, object]:
        return {
            "model": self.model.identity,
            "size": self.config.model.size,
            "prompt": self.prompt(class_id),
            "inversion": self.inversion.identity(self.config.inversion),
            "ladder": _identity(self.inversion_schedule),
        }

    @cache  # noqa: B019
    def cell_identity(self, cell: Cell) -> dict[str, object]:
        if cell.method == NOISE:
            return {
                "model": self.model.identity,
                "size": self.config.model.size,
                "prompt": self.prompt(cell.class_id),
                "seed": self.config.seed,
                "class": cell.class_id,
                "control": cell.name,
                **self.generation_identity(),
            }
        return {
            "latents": self.latents_identity(cell.class_id),
            "pool": [source.id for source in self.pool(cell.class_id)],
            "seed": self.config.seed,
            "class": cell.class_id,
            "n": cell.n,
            **cell.method.identity,
            **self.generation_identity(),
        }

    def generation_identity(self) -> dict[str, object]:
        return {"guidance": self.config.guidance, "ladder": _identity(self.generation_schedule)}

    def latents(self, class_id: str) -> TensorCache:
        """`latents` at t = T with what else an inversion leaves, and `clean` ones; a row for each image of the pool."""
        identity = self.latents_identity(class_id)
        return TensorCache(self.config.cache / "latents" / key(identity), identity)

    @cache  # noqa: B019
    def cell_folder(self, cell: Cell) -> Path:
        return self.config.cache / "cells" / key(self.cell_identity(cell))

    def centroids(self, cell: Cell) -> TensorCache:
        """`latents`, a row for each draw."""
        return TensorCache(self.cell_folder(cell) / "centroids", self.cell_identity(cell))

    def features(self, cell: Cell, network: Network) -> TensorCache:
        """`features`, a row for each draw."""
        identity = {"cell": self.cell_identity(cell), "network": network.identity}
        return TensorCache(self.cell_folder(cell) / f"features-{key(network.identity)}", identity)

    def reference_features(self, class_id: str, network: Network) -> TensorCache:
        """`features`, a row for each real image of a class."""
        return self._of_references(class_id, network.identity)

    def distances(self, cell: Cell) -> TensorCache:
        """`distance`, a row for each pair of draws."""
        identity = {"cell": self.cell_identity(cell), "network": self.perceptual.identity}
        return TensorCache(self.cell_folder(cell) / f"distances-{key(self.perceptual.identity)}", identity)

    def reference_distances(self, class_id: str) -> TensorCache:
        """`distance`, a row for each pair of real images of a class."""
        return self._of_references(class_id, self.perceptual.identity)

    def _of_references(self, class_id: str, network: object) -> TensorCache:
        """A folder for each class, or each would read all classes' rows to find its own."""
        identity = {"network": network, "size": self.config.model.size}
        return TensorCache(self.config.cache / "references" / key(identity) / file_name(class_id), identity)

    @property
    def pictures(self) -> int:
        """How many pictures of each cell a sweep keeps: those of pairs are compared as they are kept."""
        return max(self.config.keep, 2 * MAX_PAIRS) if self.pairing else self.config.keep

    def image_path(self, cell: Cell, draw: int) -> Path:
        return self.cell_folder(cell) / "pictures" / f"{draw_id(draw)}.png"

    # What is mixed.

    def pool_latents(self, class_id: str) -> Tensor:
        """[pool, C, h, w] at t = T, from the cache; UserError where some are missing."""
        return self._inverted(class_id)["latents"]

    @timed("mixing")
    def mixed(self, class_id: str, weights: Tensor, method: Method) -> State:
        """Mixtures by weights [K, n] of a class's first n latents and of their companions, on the device."""
        inverted = {name: held[: weights.shape[1]] for name, held in self._inverted(class_id).items()}
        hows = {"latents": method, **{name: how or method for name, how in self.inversion.extras.items()}}
        return {name: mixtures(inverted[name], weights, [how])[0].to(self.device) for name, how in hows.items()}

    def noise(self, class_id: str, draws: Sequence[int]) -> Tensor:
        """Standard Gaussian latents [K, C, h, w], float32 on the device; a draw's are its own."""
        shape = self.model.latent_shape(self.config.model.size)
        rows = [noise(self.config.seed, f"noise {class_id}", draw, shape) for draw in draws]
        return torch.from_numpy(np.stack(rows)).to(self.device)

    def _inverted(self, class_id: str) -> State:
        """What the inversion left of a class's pool: latents on the device; companions, which may be large, not."""
        if class_id != self._held[0]:
            ids = [source.id for source in self.pool(class_id)]
            rows = self.latents(class_id).read()
            try:
                names = ["latents", *self.inversion.extras]
                held = {name: torch.stack([rows[id_][name] for id_ in ids]) for name in names}
            except KeyError:
                raise UserError(
                    f"not all images of {class_id!r} are inverted yet; run latentmix invert first"
                ) from None
            self._held = class_id, held | {"latents": held["latents"].to(self.device)}
        return self._held[1]

    _held: tuple[str | None, State] = None, {}

    def weights(self, cell: Cell, draws: Sequence[int]) -> Tensor:
        """Uniform weights of each draw's N images over the class's pool: [K, pool]."""
        drawn = [subset(self.config.seed, cell.class_id, draw, self.config.pool)[: cell.n] for draw in draws]
        rows = torch.zeros(len(draws), self.config.pool)
        return rows.scatter_(1, torch.from_numpy(np.stack(drawn)), 1 / cell.n).to(self.device)


def draw_id(draw: int) -> str:
    """A draw's name, as a row in the cache and as a picture."""
    return f"{draw:06d}"


def subset(seed: int, class_id: str, draw: int, pool: int) -> np.ndarray:
    """The pool in the order in which a draw takes it: its first N are the draw's images, so draws are nested in N, and
    the same for every method."""
    return generator(seed, class_id, draw).permutation(pool)


def _identity(schedule: Schedule) -> str:
    return key([[r.clean.alpha, r.clean.sigma, r.noisy.alpha, r.noisy.sigma, r.timestep] for r in schedule])
