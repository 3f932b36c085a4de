"""What the embedded networks have to show before anybody uses it, measured on images that no network was trained on."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from . import data, package
from .settings import SEED, Run

GUIDANCE = 3.0  # of generation
STUDENT = 2.262  # 97.5 % quantile of Student's t for differences between ten classes


@dataclass(frozen=True)
class Gate:
    """A measured number, and the bounds between which it has to lie."""

    name: str
    value: float
    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        low = [f"at least {self.low:g}"] if self.low > -math.inf else []
        high = [f"at most {self.high:g}"] if self.high < math.inf else []
        passed = "pass" if self.low <= self.value <= self.high else "FAIL"
        return f"{passed}  {self.name}: {self.value:.4g} ({' and '.join(low + high) or 'no bound'})"

    def plain(self) -> dict[str, Any]:
        bounds = {k: v for k, v in (("low", self.low), ("high", self.high)) if abs(v) < math.inf}
        return {"name": self.name, "value": round(self.value, 5), **bounds}


def gates_tiny(run: Run) -> None:
    """Measure the gates of `tiny`."""
    _measure(run, "tiny", psnr=23.5)


def gates_sd3(run: Run) -> None:
    """Measure the gates of `tiny-sd3`."""
    _measure(run, "tiny-sd3", psnr=26.0)


@torch.no_grad()
def _measure(run: Run, name: str, psnr: float) -> None:
    """Print each gate and write all that are known so far, so that a time limit costs only the last ones."""
    torch.manual_seed(SEED + 4)
    bench, found = Bench(run, name), []
    for gate in bench.gates(psnr):
        print(f"{name}: {gate}", flush=True)
        found.append(gate.plain())
        about = {"pool": bench.pool, "draws": bench.draws, "device": run.device.type}
        path = run.weights / f"gates-{name}.json"
        path.write_text(json.dumps({**about, "gates": found}, indent=2, ensure_ascii=False) + "\n")


@dataclass
class Bench:
    """A pipeline and a classifier under test, with what several gates need."""

    run: Run
    name: str
    real: dict[str, Tensor] = field(default_factory=dict)
    distances: dict[tuple[str, int], list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pool, self.draws = self.run.settings.gate_pool, self.run.settings.gate_draws
        self.sizes, self.steps = self.run.settings.gate_sizes, self.run.settings.gate_steps

    @cached_property
    def subject(self) -> package.Subject:
        return package.subject(self.run.weights / self.name, self.run.device)

    @cached_property
    def network(self) -> Any:
        return package.trained_classifier(self.run.weights / "classifier").to(self.run.device)

    @cached_property
    def images(self) -> dict[str, Tensor]:
        return data.held_out_images(self.run)

    @cached_property
    def clean(self) -> dict[str, Tensor]:
        return {name: self._in_parts(self.subject.encode, x) for name, x in self.images.items()}

    @cached_property
    def inverted(self) -> dict[str, Tensor]:
        def invert(name: str, clean: Tensor) -> Tensor:
            return self._in_parts(lambda z: self.subject.invert(z, name, self.steps), clean)

        return {name: invert(name, clean) for name, clean in self.clean.items()}

    def gates(self, psnr: float) -> Iterator[Gate]:
        yield Gate("VAE, PSNR in dB", self.psnr(), low=psnr)
        yield Gate("real images classified right", self.right(self.images), low=0.985)
        yield Gate("images from noise classified right", self.right(self.from_noise), low=0.95)
        exact = self.run.settings.exact_steps
        norm, error = self.norm_and_round_trip()
        yield Gate(f"norm of inverted latents over √L, {exact} steps", norm, low=0.97, high=1.03)
        yield Gate(f"round trip, {exact} steps at guidance 1, RMSE per std", error, high=0.05)
        yield Gate("R² of the channel means of fix/0 centroids against √N", self.growth(), low=0.97)
        largest = self.sizes[0]
        flat, chm, noise = (_mean(self.frechet(method, largest)) for method in ("fix/0", "fix/chm", "noise"))
        yield Gate(f"Fréchet distance at N = {largest}, fix/chm", chm)
        yield Gate(f"Fréchet distance at N = {largest}, fix/0 over fix/chm", flat / chm, low=2.5)
        yield Gate(f"Fréchet distance at N = {largest}, fix/chm over random latents", chm / noise, high=1.2)
        for size in self.sizes:
            excess = self.excess(size)
            yield Gate(f"Fréchet distance at N = {size}, fix/chm above fix/0 beyond the interval", excess, high=0)

    def psnr(self) -> float:
        errors = []
        for name, images in self.images.items():
            back = self._in_parts(self.subject.decode, self.clean[name])
            errors.append(((back.float() - images.float()) / 255).square().mean().item())
        return -10 * math.log10(_mean(errors))

    def right(self, images: dict[str, Tensor]) -> float:
        """Return the share of images that the classifier puts into their class."""
        rights = []
        for number, name in enumerate(data.CLASSES):
            guesses = self._in_parts(lambda x: self.network(data.to_network(x)).argmax(1), images[name])
            rights.append((guesses == number).float().mean().item())
        return _mean(rights)

    @cached_property
    def from_noise(self) -> dict[str, Tensor]:
        """Images of each class from `draws` random latents."""
        shape, rng = self.clean[data.CLASSES[0]].shape[1:], torch.Generator().manual_seed(SEED)
        noise = {name: torch.randn(self.draws, *shape, generator=rng) for name in data.CLASSES}
        return {name: self._generated(z, name) for name, z in noise.items()}

    def norm_and_round_trip(self) -> tuple[float, float]:
        norms, errors = [], []
        for name in data.CLASSES:
            z0 = self.clean[name][:32]
            z = self.subject.invert(z0, name, self.run.settings.exact_steps)
            back = self.subject.generate(z, name, self.run.settings.exact_steps, guidance=1.0)
            norms.append(z.flatten(1).norm(dim=1).mean().item() / math.sqrt(z[0].numel()))
            errors.append((back - z0).square().mean().item() / z0.var().item())
        return _mean(norms), math.sqrt(_mean(errors))

    def growth(self) -> float:
        """Return R² of a fit of √N to the channel means of `fix/0` centroids, averaged over classes."""
        sizes, fits = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= self.sizes[0]], []
        for z in self.inverted.values():
            means = torch.stack([self._centroids(z, n, "fix/0").mean((0, 2, 3)) for n in sizes])  # [N, C]
            root = torch.tensor(sizes).sqrt().to(means)[:, None]
            slope = (root * means).sum(0) / root.square().sum()
            residual, spread = (means - slope * root).square().sum(), (means - means.mean(0)).square().sum()
            fits.append(1 - (residual / spread).item())
        return _mean(fits)

    def frechet(self, method: str, size: int) -> list[float]:
        """Return the Fréchet distance of `draws` mixtures of `size` latents to real images, for each class."""
        if (method, size) in self.distances:
            return self.distances[method, size]
        distances = []
        for name in data.CLASSES:
            if method == "noise":
                made = self.from_noise[name]
            else:
                made = self._generated(self._centroids(self.inverted[name], size, method), name)
            distances.append(package.frechet_distance(self._features(made), self._real(name)))
        self.distances[method, size] = distances
        return distances

    def excess(self, size: int) -> float:
        """Return by how much `fix/chm` is worse than `fix/0`, less the half-width of the interval over classes."""
        pairs = zip(self.frechet("fix/chm", size), self.frechet("fix/0", size), strict=True)
        differences = torch.tensor([chm - flat for chm, flat in pairs])
        return (differences.mean() - STUDENT * differences.std() / math.sqrt(len(differences))).item()

    def _real(self, name: str) -> Tensor:
        if name not in self.real:
            self.real[name] = self._features(self.images[name])
        return self.real[name]

    def _features(self, images: Tensor) -> Tensor:
        return self._in_parts(lambda x: self.network.features(data.to_network(x)), images)

    def _generated(self, z: Tensor, name: str) -> Tensor:
        made = self._in_parts(lambda part: self.subject.generate(part, name, self.steps, GUIDANCE), z)
        return self._in_parts(self.subject.decode, made)

    def _centroids(self, z: Tensor, size: int, method: str) -> Tensor:
        """Return `draws` mixtures of `size` latents each, drawn without replacement; the same draws for all methods."""
        rows = [torch.randperm(len(z), generator=torch.Generator().manual_seed(k))[:size] for k in range(self.draws)]
        weights = torch.zeros(self.draws, len(z)).scatter_(1, torch.stack(rows), 1 / size)
        return package.mixtures(z, weights, method)

    def _in_parts(self, work: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Apply `work` to a few rows at once."""
        return torch.cat([work(part.to(self.run.device)) for part in x.split(self.run.settings.gate_batch)])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
