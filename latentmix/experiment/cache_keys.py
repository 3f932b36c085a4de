"""The folders of an experiment in the cache, and their keys.

A folder is named by a key: a hash of everything that its contents depend on, and of nothing else. So results of
different settings are never mixed up, and runs share the results that their settings have in common.
In a folder, results are found by an image's own identity (`image_id` in data/image_files.py) or the number of a draw.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentmix.experiment.cached_method import cached_method
from latentmix.experiment.draws import NOISE, Cell, draw_id
from latentmix.feature_networks import Network, Perceptual
from latentmix.sampling import Schedule
from latentmix.storage import TensorCache, file_name, key

Identity = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Layout:
    """The folders of one experiment, from the values that its results depend on."""

    root: Path  # the cache
    model: Mapping[str, str]  # the model's identity, in the precision of generation
    inverter: Mapping[str, str]  # the same, in the precision of inversion
    size: int | str
    seed: int
    inversion: Identity  # the inversion, its settings and its schedule
    mixing: Identity  # the kind of weights, unless they are uniform
    generation: Identity  # guidance and schedule of generation
    prompt: Callable[[str], str]  # of a class
    pool_ids: Callable[[str], Sequence[str]]  # ids of the images of a class that are inverted
    used: set[Path] = field(default_factory=set)  # folders that were asked for, which `latentmix cache` keeps

    # Identities

    @cached_method
    def latents_identity(self, class_id: str) -> Identity:
        """Return what the inverted latents of a class depend on."""
        return self.latents_identity_of(self.prompt(class_id))

    def latents_identity_of(self, prompt: str) -> Identity:
        """Return what latents that are inverted under a prompt depend on, besides their images."""
        return {"model": self.inverter, "size": self.size, "prompt": prompt, **self.inversion}

    @cached_method
    def cell_identity(self, cell: Cell) -> Identity:
        """Return what the images of a cell depend on."""
        common = {"seed": self.seed, "class": cell.class_id, **self.generation}
        plain = {"model": self.model, "size": self.size, "prompt": self.prompt(cell.class_id)}
        if cell.method == NOISE:
            return {**plain, "control": "noise", **common}
        mixed = {"n": cell.n, "method": cell.method.identity, **self.mixing, **common}
        pool = list(self.pool_ids(cell.class_id))
        if cell.gaussian:
            return {**plain, "control": "gauss", "pool": len(pool), **mixed}
        return {"latents": self.latents_identity(cell.class_id), "pool": pool, **mixed}

    # Folders

    def latents(self, class_id: str) -> TensorCache:
        """Return `latents` at t = T, `clean` latents and the inversion's extras: a row for each image of the pool."""
        return self.latents_of(self.prompt(class_id))

    def latents_of(self, prompt: str) -> TensorCache:
        """Return the latents that are inverted under a prompt: a row for each image, whatever its class."""
        return self._tensors("latents", self.latents_identity_of(prompt))

    def frames(self, identity: Identity) -> Path:
        """Return the folder of the frames of a morph: a PNG for each mixture."""
        return self._used("frames", {"morph": identity, **self.generation})

    @cached_method
    def cell_folder(self, cell: Cell) -> Path:
        """Return the folder of everything that is generated for a cell."""
        return self._used("cells", self.cell_identity(cell))

    def centroids(self, cell: Cell) -> TensorCache:
        """Return mixed `latents` and extras: a row for each draw."""
        return TensorCache(self.cell_folder(cell) / "centroids", self.cell_identity(cell))

    def features(self, cell: Cell, network: Network) -> TensorCache:
        """Return `features` of generated images: a row for each draw."""
        return self._of_cell(cell, "features", network)

    def distances(self, cell: Cell, network: Perceptual) -> TensorCache:
        """Return the perceptual `distance` within each pair of draws."""
        return self._of_cell(cell, "distances", network)

    def image_path(self, cell: Cell, draw: int) -> Path:
        """Return the file of a generated image."""
        return self.cell_folder(cell) / "images" / f"{draw_id(draw)}.png"

    def references(self, class_id: str, network: Network | Perceptual) -> TensorCache:
        """Return `features` of the real images of a class, or the `distance` within pairs of them.

        Each class has a folder of its own, so that reading one class does not read all.
        """
        identity = {"network": network.identity, "size": self.size}
        return TensorCache(self._used("references", identity, file_name(class_id)), identity)

    def reconstructions(self, class_id: str) -> TensorCache:
        """Return `images` and errors of the round trip: a row for each image of the pool."""
        return self._tensors("reconstructions", {"latents": self.latents_identity(class_id), **self.generation})

    def prompts(self, encoder: Mapping[str, Any]) -> TensorCache:
        """Return embeddings of prompts by one text encoder: a row for each prompt."""
        return self._tensors("prompts", dict(encoder))

    def probes(self, identity: Identity) -> TensorCache:
        """Return `clean` latents that were generated from latents with an offset."""
        return self._tensors("probes", {"model": self.model, "size": self.size, "seed": self.seed, **identity})

    def _tensors(self, kind: str, identity: Identity) -> TensorCache:
        return TensorCache(self._used(kind, identity), identity)

    def _used(self, kind: str, identity: Identity, *more: str) -> Path:
        folder = self.root.joinpath(kind, key(identity), *more)
        self.used.add(folder)
        return folder

    def _of_cell(self, cell: Cell, kind: str, network: Network | Perceptual) -> TensorCache:
        identity = {"cell": self.cell_identity(cell), "network": network.identity}
        return TensorCache(self.cell_folder(cell) / f"{kind}-{key(network.identity)}", identity)


def schedule_key(schedule: Schedule) -> str:
    """Return a key of a schedule's noise levels and timesteps."""
    return key([[i.clean.alpha, i.clean.sigma, i.noisy.alpha, i.noisy.sigma, i.timestep] for i in schedule])
