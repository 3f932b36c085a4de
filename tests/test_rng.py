"""Random numbers that depend on nothing but what they are for."""

from hashlib import sha256

import numpy as np
import pytest

from latentmix.rng import generator, noise


def test_noise_is_gaussian_and_of_a_things_own() -> None:
    names = [(0, "a", 0), (0, "a", 1), (0, "b", 0), (1, "a", 0)]
    rows = np.stack([noise(*name, (64, 64)) for name in names])
    assert rows.dtype == np.float32
    assert np.abs(np.corrcoef(rows.reshape(4, -1)) - np.eye(4)).max() < 0.1
    assert (rows.mean(), rows.std()) == pytest.approx((0, 1), abs=0.03)
    assert np.array_equal(rows[1], noise(0, "a", 1, (64, 64)))


def test_a_larger_one_begins_as_a_smaller_one() -> None:
    assert np.array_equal(noise(3, "x", 2, (8,)), noise(3, "x", 2, (4, 4)).ravel()[:8])


def test_what_was_drawn_by_earlier_versions_is_drawn_still() -> None:
    """Caches would not be found wrong, but hold something else, if this changed."""
    word = int.from_bytes(sha256(b"star").digest()[:8])
    expected = np.random.Generator(np.random.Philox(np.random.SeedSequence([7, word, 11])))
    assert generator(7, "star", 11).permutation(50).tolist() == expected.permutation(50).tolist()
