"""The drawn shapes: images that depend on (class, index) alone, textures of the right spectrum, shapes in one piece."""

import random

import numpy as np
import pytest
from numpy.typing import NDArray

from latentmix.data.drawn.scenes import TRAINING_START, caption, pink
from latentmix.data.shapes import EXPONENT, SHAPES, SIZE, Shapes, draw, scene
from latentmix.data.things import Things

Array = NDArray[np.float64]
CLASSES = sorted(SHAPES)


def frequencies() -> Array:
    return np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None])


def slope(images: Array, highest: float) -> float:
    """The exponent of the power of the frequency that the mean amplitude of [n, 64, 64] follows."""
    amplitude, f = np.abs(np.fft.rfft2(images)).mean(0), frequencies()
    used = (f > 0) & (f < highest)
    return float(np.polyfit(np.log(f[used]), np.log(amplitude[used]), 1)[0])


# Images.


@pytest.mark.parametrize("name", CLASSES)
def test_an_image_depends_on_class_and_index_alone(name: str) -> None:
    first = draw(name, 3)
    np.random.seed(0)
    random.seed(0)
    draw("star", 4)
    draw(name, 5)
    np.testing.assert_array_equal(draw(name, 3), first)
    assert caption(scene(name, 3), name) == caption(scene(name, 3), name)


def test_images_are_square_rgb_bytes() -> None:
    for name in CLASSES:
        image = draw(name, 0)
        assert image.shape == (64, 64, 3)
        assert image.dtype == np.uint8
        assert image.std(axis=(0, 1)).min() > 10


def test_every_class_and_index_has_an_image_of_its_own() -> None:
    indices = [*range(8), TRAINING_START, TRAINING_START + 1]
    assert len({draw(name, index).tobytes() for name in CLASSES for index in indices}) == len(CLASSES) * len(indices)


@pytest.mark.parametrize("name", CLASSES)
def test_descriptions_name_the_class_and_how_many_there_are(name: str) -> None:
    plural = {"cross": "crosses"}.get(name, f"{name}s")
    counts = set()
    for index in range(60):
        count, *words = caption(scene(name, index), name).split()
        assert words[-1] == "ground"
        assert (name if count in ("a", "an") else plural) in words
        counts.add(count)
    assert counts - {"an"} == {"a", "two", "three"}


def test_descriptions_of_one_class_differ() -> None:
    assert len({caption(scene("ring", index), "ring") for index in range(60)}) > 10


def test_images_have_the_spectrum_of_photographs() -> None:
    """Amplitude falls a little faster than 1/f below half of the highest frequency, and few pixels are at an end."""
    images = np.stack([draw(name, index) for name in CLASSES for index in range(10)]).astype(float)
    assert -1.6 < slope(images.mean(-1) - images.mean((1, 2, 3))[:, None, None], highest=0.25) < -1.0
    assert ((images == 0) | (images == 255)).mean() < 0.1


# Textures.


@pytest.mark.parametrize("exponent", [0.5, EXPONENT, 2.0])
def test_pink_noise_falls_with_frequency_as_it_is_told(exponent: float) -> None:
    texture = pink(white(100), exponent)
    assert texture.shape == (100, SIZE, SIZE)
    assert slope(texture, highest=1) == pytest.approx(-exponent, abs=0.03)


def white(channels: int) -> Array:
    return np.random.default_rng(0).standard_normal((channels, SIZE, SIZE))


def test_pink_noise_has_zero_mean_and_unit_std_in_each_channel() -> None:
    texture = pink(white(5), EXPONENT)
    assert np.abs(texture.mean((1, 2))).max() < 1e-14
    assert np.abs(texture.std((1, 2)) - 1).max() < 1e-14
    assert np.abs(np.corrcoef(texture.reshape(5, -1)) - np.eye(5)).max() < 0.9  # and no two are the same


# Shapes.

SPACE = 0.01
AXIS = np.arange(-250, 251) * SPACE
X, Y = np.meshgrid(AXIS, AXIS)
RADIUS = np.hypot(X, Y)


@pytest.mark.parametrize("name", CLASSES)
def test_a_shape_is_inside_the_unit_circle_and_nothing_is_far_away(name: str) -> None:
    distance = SHAPES[name](X, Y)
    inside = distance < 0
    assert np.isfinite(distance).all()
    assert 0.75 < RADIUS[inside].max() < 1.02
    assert distance[RADIUS > 1.1].min() > 0.02
    assert 1 < inside.sum() * SPACE**2 < 2.2


@pytest.mark.parametrize("name", CLASSES)
def test_the_middle_is_inside_except_where_a_shape_has_none(name: str) -> None:
    middle, rim = SHAPES[name](np.zeros(1), np.zeros(1)), SHAPES[name](np.array([-0.65]), np.zeros(1))
    if name in ("ring", "crescent"):
        assert middle > 0.1
        assert rim < -0.05
    else:
        assert middle < -0.2


@pytest.mark.parametrize("name", CLASSES)
def test_shapes_have_a_mirror_axis(name: str) -> None:
    distance = SHAPES[name](X, Y)
    mirrored = distance[::-1] if name == "crescent" else distance[:, ::-1]
    np.testing.assert_allclose(distance, mirrored, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "turns"), [("triangle", 3), ("square", 4), ("cross", 4), ("star", 5), ("hexagon", 6)])
def test_shapes_look_the_same_after_a_turn(name: str, turns: int) -> None:
    cos, sin = np.cos(2 * np.pi / turns), np.sin(2 * np.pi / turns)
    away = RADIUS > 0.01  # the star's rays meet in the very middle
    turned = SHAPES[name](X * cos - Y * sin, X * sin + Y * cos)
    np.testing.assert_allclose(turned[away], SHAPES[name](X, Y)[away], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CLASSES)
def test_distances_are_continuous_and_no_steeper_than_distance(name: str) -> None:
    """Only the star's is not a distance: its rim waves, and in its middle, well inside, its rays meet."""
    distance = SHAPES[name](X, Y)
    steepest = 5.0 if name == "star" else 1.0
    for axis in (0, 1):
        rise = np.abs(np.diff(distance, axis=axis)) / SPACE
        if name == "star":
            rise = rise[np.delete(RADIUS > 0.25, 0, axis) & np.delete(RADIUS > 0.25, -1, axis)]
        assert rise.max() < steepest + 1e-9


@pytest.mark.parametrize("data", [Shapes, Things])
def test_light_from_above_is_the_same_slope_in_every_image(data: type[Shapes | Things]) -> None:
    class_id = data().classes()[0]
    (plain, lit), size = ([data(light).images(class_id, 2)[1] for light in (0.0, 30.0)]), 128
    assert (plain.id, lit.id) == (f"{class_id}/1", f"{class_id}/1 lit 30")
    before, after = (source.pixels(size).astype(float) for source in (plain, lit))
    slope = np.broadcast_to(np.linspace(30, -30, size)[:, None, None], before.shape)
    within = (before + slope > 0) & (before + slope < 255)
    np.testing.assert_allclose((after - before)[within], slope[within], atol=0.51)


def test_shapes_differ_from_each_other() -> None:
    inside = [SHAPES[name](X, Y) < 0 for name in CLASSES]
    for index, a in enumerate(inside):
        for b in inside[:index]:
            assert (a ^ b).sum() * SPACE**2 > 0.1
