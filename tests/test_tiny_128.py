"""`tiny-128` and the networks that measure it belong together: it draws what it is asked for, as diffusers does."""

import functools

import numpy as np
import pytest
import torch
from torch import Tensor

from latentmix.compose import compose
from latentmix.data.things import CLASSES, draw
from latentmix.embedded import embedded_folder
from latentmix.feature_networks import clip_network, embedded_classifier, frechet_network, perceptual_network
from latentmix.models import load_model
from latentmix.models.protocol import Conditioning, predictor
from latentmix.sampling import generate

CPU = torch.device("cpu")
SHOWN = ("fish", "house", "umbrella")


@functools.cache
def real(name: str) -> Tensor:
    return torch.from_numpy(np.stack([draw(name, index) for index in range(8)])).permute(0, 3, 1, 2)


@functools.cache
def made() -> dict[str, Tensor]:
    """Four images from noise of each class."""
    model = load_model(compose(["model=tiny-128"]).model, CPU)
    null, z = model.embed([""]), torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    found = {}
    for name in SHOWN:
        asked = predictor(model, Conditioning(model.embed([f"a photo of a {name}"]), null, guidance=3.0))
        found[name] = model.decode(generate(asked, z, model.schedule(20, "trailing")))
    return found


def named(images: Tensor) -> list[str]:
    network = embedded_classifier(embedded_folder("things/classifier"))
    return [CLASSES[i] for i in network(images.float() / 127.5 - 1).argmax(1).tolist()]


def test_the_classifier_knows_every_class() -> None:
    right = [guess == name for name in CLASSES for guess in named(real(name))]
    assert np.mean(right) > 0.95


def test_images_from_noise_show_what_was_asked_for() -> None:
    right = [guess == name for name, images in made().items() for guess in named(images)]
    assert {images.shape for images in made().values()} == {(4, 3, 128, 128)}
    assert np.mean(right) > 0.8


def test_diffusers_makes_the_same_image() -> None:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(embedded_folder("things/tiny"), dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = pipe.scheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    z = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0))[:1]
    theirs = pipe("a photo of a fish", latents=z, num_inference_steps=20, guidance_scale=3.0, output_type="np").images
    ours = made()["fish"][0].permute(1, 2, 0).numpy() / 255
    assert np.abs(ours - theirs[0]).mean() < 0.01


@pytest.mark.parametrize("make", [frechet_network, clip_network, perceptual_network])
def test_its_networks_are_not_those_of_the_shapes(make: object) -> None:
    assert callable(make)
    own, other = make("things", CPU), make("embedded", CPU)
    assert (own.name, other.name) == ("things", "embedded")
    assert own.identity["weights"] != other.identity["weights"]


def test_its_clip_puts_images_beside_their_names() -> None:
    clip = clip_network("things", CPU)
    assert clip.embed_text is not None
    texts = torch.cat([clip.embed_text(f"a photo of a {name}") for name in CLASSES])
    texts = texts / texts.norm(dim=1, keepdim=True)
    right = [guess == i for i, name in enumerate(CLASSES) for guess in (clip.extract(real(name)) @ texts.T).argmax(1)]
    assert np.mean(right) > 0.9
