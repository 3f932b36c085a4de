"""All that the training takes from latentmix besides the drawn objects: the classifier, and what the gates run."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .data import CLASSES, class_prompt


def classifier(classes: int) -> Any:
    """Return the classifier, untrained."""
    from latentmix.feature_networks import Classifier

    return Classifier(classes)


def trained_classifier(folder: Path) -> Any:
    """Return the classifier of a folder, in float32."""
    from latentmix.feature_networks import embedded_classifier

    return embedded_classifier(folder)


def fast_on_cpu(*networks: Any) -> None:
    """Run linear layers by oneDNN on a CPU, which is fast whoever made the processor."""
    from latentmix.models.linear import by_onednn

    for network in networks:
        by_onednn(network)


def frechet_distance(x: Tensor, y: Tensor) -> float:
    from latentmix.metrics import frechet_distance as distance

    return distance(x, y)


def mixtures(z: Tensor, weights: Tensor, method: str) -> Tensor:
    """Mix latents [P, C, h, w] with weights [K, P] by a method such as "fix/chm"."""
    from latentmix.mixing import mixtures as mix

    return mix(z, weights.to(z.device), [method])[0]


def return_of_gaussian_latents(variances: Tensor, steps: int, flow: bool) -> tuple[Tensor, Tensor]:
    """Return how an ideal model of Gaussian latents scales directions of these variances, all in float64.

    The first factor is of inverted latents, whose standard deviation should be 1; the second is of latents that were
    inverted and generated again, which should be 1. What is missing is due to the steps alone. The model is that of a
    rectified flow with shift 3, or else predicts ε on Stable Diffusion's levels.
    """
    from latentmix import sampling

    from .mmdit import SHIFT
    from .unet import stable_diffusion_scheduler

    if flow:
        schedule = sampling.flow_schedule(sampling.flow_sigmas(steps, "linspace", SHIFT))
    else:
        kept = stable_diffusion_scheduler().alphas_cumprod
        schedule = sampling.discrete_schedule(kept, sampling.timesteps(steps, "leading", offset=1), kept[0].item())
    trained = {interval.timestep: interval.noisy for interval in schedule}

    def predict(z: Tensor, level: sampling.Level, timestep: sampling.Timestep) -> tuple[Tensor, Tensor]:
        alpha, sigma = trained[timestep].alpha, trained[timestep].sigma  # of the level that the network is told
        optimal = z / (alpha**2 * variances + sigma**2)
        if flow:
            return sampling.from_velocity((sigma - alpha * variances) * optimal, z, level)
        return sampling.from_epsilon(sigma * optimal, z, level)

    clean = variances.double().sqrt()[:, None, None, None]
    variances = clean.square()
    inverted = sampling.invert(predict, clean, schedule)
    return inverted.flatten(), (sampling.generate(predict, inverted, schedule) / clean).flatten()


@dataclass(frozen=True)
class Subject:
    """A pipeline under test, with the prompts of all classes."""

    model: Any
    spacing: str
    prompts: dict[str, Any]

    def encode(self, images: Tensor) -> Tensor:
        clean: Tensor = self.model.encode(images)
        return clean

    def decode(self, latents: Tensor) -> Tensor:
        images: Tensor = self.model.decode(latents)
        return images

    def invert(self, clean: Tensor, name: str, steps: int) -> Tensor:
        """Return inverted latents, without guidance."""
        from latentmix.models.protocol import predictor
        from latentmix.sampling import invert

        return invert(predictor(self.model, self.prompts[name]), clean, self.model.schedule(steps, self.spacing))

    def generate(self, z: Tensor, name: str, steps: int, guidance: float) -> Tensor:
        from latentmix.models.protocol import predictor
        from latentmix.sampling import generate

        conditioning = replace(self.prompts[name], guidance=guidance)
        return generate(predictor(self.model, conditioning), z, self.model.schedule(steps, self.spacing))


def subject(folder: Path, device: torch.device) -> Subject:
    """Read the pipeline in a folder called `tiny` or `tiny-sd3`."""
    from latentmix.compose import compose
    from latentmix.models import load_model
    from latentmix.models.protocol import Conditioning

    settings = ["model.size=128", "model.precision=float32"]  # to measure errors of the networks, not of bfloat16
    config = compose([f"model={folder.name}", f"model.path='{folder}'", *settings]).model
    model = load_model(config, device)
    null = model.embed([""])
    prompts = {name: Conditioning(model.embed([class_prompt(name)]), null) for name in CLASSES}
    return Subject(model, config.spacing, prompts)
