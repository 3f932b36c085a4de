"""The drawn objects: images that depend on (class, index) alone, on a plane that repeats, with true captions."""

import random
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from latentmix.compose import compose
from latentmix.data import load_dataset
from latentmix.data.decoded_images import DECODED
from latentmix.data.drawn.objects import OBJECTS, box, disc, ellipse, line, polygon
from latentmix.data.drawn.scenes import TRAINING_START, caption, pink
from latentmix.data.things import CLASSES, EXPONENT, PALETTES, SIZE, Things, draw, scene
from latentmix.errors import UserError

Array = NDArray[np.float64]
SPACE = 0.02
AXIS = np.arange(-75, 76) * SPACE
X, Y = np.meshgrid(AXIS, AXIS)


@pytest.mark.parametrize("name", CLASSES)
def test_an_image_depends_on_class_and_index_alone(name: str) -> None:
    first = draw(name, 3)
    np.random.seed(0)
    random.seed(0)
    draw("star", 4)
    draw(name, 5)
    np.testing.assert_array_equal(draw(name, 3), first)
    assert caption(scene(name, 3), name) == caption(scene(name, 3), name)


def test_images_are_square_rgb_bytes_and_no_two_are_the_same() -> None:
    images = [draw(name, index) for name in CLASSES for index in (0, 1, TRAINING_START)]
    assert {(image.shape, image.dtype.name) for image in images} == {((SIZE, SIZE, 3), "uint8")}
    assert min(image.std(axis=(0, 1)).min() for image in images) > 5
    assert len({image.tobytes() for image in images}) == 3 * len(CLASSES)


def test_the_plane_repeats() -> None:
    """Neighbours across the frame differ no more than neighbours in the middle."""
    images = np.stack([draw(name, index) for name in CLASSES for index in range(10)]).astype(float)
    for axis in (1, 2):
        steps = np.abs(np.diff(images, axis=axis, append=images.take([0], axis))).mean((0, 3))
        means = steps.mean(1 - (axis - 1))
        assert means[-1] < 1.2 * means[:-1].mean()


def test_images_have_the_spectrum_of_photographs() -> None:
    """Amplitude falls a little faster than 1/f below half of the highest frequency, and few pixels are at an end."""
    images = np.stack([draw(name, index) for name in CLASSES for index in range(10)]).astype(float)
    grey = images.mean(-1) - images.mean((1, 2, 3))[:, None, None]
    assert -1.7 < slope(grey, highest=0.25) < -1.1
    assert ((images == 0) | (images == 255)).mean() < 0.1


def test_pink_noise_falls_with_frequency() -> None:
    texture = pink(np.random.default_rng(0).standard_normal((40, SIZE, SIZE)), EXPONENT)
    assert slope(texture, highest=1) == pytest.approx(-1.3, abs=0.03)
    assert np.abs(texture.mean((1, 2))).max() < 1e-6
    assert np.abs(texture.std((1, 2)) - 1).max() < 1e-6


def slope(images: Array, highest: float) -> float:
    """Return the exponent of the frequency that the mean amplitude of [n, 128, 128] follows."""
    f = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None])
    amplitude, used = np.abs(np.fft.rfft2(images)).mean(0), (f > 0) & (f < highest)
    return float(np.polyfit(np.log(f[used]), np.log(amplitude[used]), 1)[0])


@pytest.mark.parametrize("name", CLASSES)
def test_captions_name_the_class_the_colours_and_how_many_there_are(name: str) -> None:
    plural, counts = "fish" if name == "fish" else f"{name}s", set()
    for index in range(40):
        shown = scene(name, index)
        words = caption(shown, name).split()
        count = {"a": 1, "an": 1, "two": 2, "three": 3}[words[0]]
        assert len(shown.objects) == count
        assert (name if count == 1 else plural) in words
        assert f"{shown.ground.name()} ground" in " ".join(words)
        assert " ".join(words).startswith(f"{words[0]} {shown.objects[0].colours[0].name()} ")
        counts.add(count)
    assert counts == {1, 2, 3}


def test_objects_stand_anywhere_and_keep_their_distance() -> None:
    shown = [scene(name, index).objects for name in CLASSES for index in range(40)]
    places = np.array([(placed.x, placed.y) for objects in shown for placed in objects])
    quarters = np.unique(places > 0, axis=0, return_counts=True)[1]
    assert quarters.min() > 0.2 * len(places)
    pairs = [(a, b) for objects in shown for k, a in enumerate(objects) for b in objects[:k]]
    apart = [np.hypot(*(((np.array([a.x - b.x, a.y - b.y])) + 1) % 2 - 1)) for a, b in pairs]
    assert np.mean(apart) > 0.85  # two independent places are 0.77 apart, on average


def test_every_object_has_a_palette_with_a_colour_for_each_part() -> None:
    assert set(OBJECTS) == set(PALETTES)
    for name, parts in OBJECTS.items():
        assert {part.paint for part in parts} == set(range(1 + len(PALETTES[name].accents)))


@pytest.mark.parametrize("name", CLASSES)
def test_an_object_is_about_as_large_as_the_unit_circle(name: str) -> None:
    distance = np.minimum.reduce([part.distance(X, Y) for part in OBJECTS[name]])
    inside = distance < 0
    assert 0.8 < np.hypot(X, Y)[inside].max() < 1.2
    assert 0.6 < inside.sum() * SPACE**2 < 2.4


@pytest.mark.parametrize(
    ("distance", "inside", "outside", "far"),
    [
        (disc(0.1, 0, 0.5), (0.1, 0), (0.1, 0.75), 0.25),
        (ellipse(0, 0, 0.8, 0.4), (0.5, 0), (0, 0.41), 0.01),
        (box(0, 0, 0.4, 0.2, 0.1), (0.3, 0.1), (0.7, 0), 0.3),
        (line(-0.5, 0, 0.5, 0, 0.1), (0.5, 0.05), (0.8, 0), 0.2),
        (polygon([(-0.5, -0.5), (0.5, -0.5), (0, 0.5)], 0.0), (0, 0), (0, -0.7), 0.2),
    ],
)
def test_distances_are_negative_inside_and_true_outside(
    distance: Callable[[Array, Array], Array], inside: tuple[float, float], outside: tuple[float, float], far: float
) -> None:
    def at(x: float, y: float) -> float:
        return float(distance(np.array([x]), np.array([y]))[0])

    assert at(*inside) < 0
    assert at(*outside) == pytest.approx(far, abs=1e-3)


def test_the_data_set_is_found_by_its_name() -> None:
    data = load_dataset(compose(["data=things"]).data)
    assert isinstance(data, Things)
    assert data.classes() == CLASSES
    source = data.images("cup", 2)[1]
    np.testing.assert_array_equal(source.pixels(SIZE), draw("cup", 1))
    assert source.pixels(32).shape == (32, 32, 3)


def test_the_data_set_refuses_unknown_names_and_no_end() -> None:
    with pytest.raises(UserError, match="'cube'; try 'cup'; there are cup, fish"):
        Things().resolve("cube")
    with pytest.raises(UserError, match="say how many"):
        Things().images("cup")


def test_an_image_is_drawn_once_and_pixels_are_the_callers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    DECODED.clear()
    drawn: list[int] = []

    def counted(name: str, index: int) -> np.ndarray:
        drawn.append(index)
        return draw(name, index)

    monkeypatch.setattr(Things, "draw", staticmethod(counted))
    (plain,), (lit,) = Things().images("cup", 1), Things(light=12).images("cup", 1)
    first = plain.pixels(SIZE).copy()
    plain.pixels(SIZE)[:] = 0
    assert drawn == [0] and (plain.pixels(SIZE) == first).all()
    assert (lit.pixels(SIZE)[0] >= first[0]).all() and drawn == [0]
    DECODED.clear()
    assert (plain.pixels(SIZE) == first).all() and drawn == [0, 0]
