"""`lm.Latents`: which rows an index chooses, and how rows are kept, joined and mixed."""

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import latentmix as lm
from latentmix.inversion import INVERSIONS
from latentmix.inversion.base import Inversion, State


def latents(*prompts: str, kind: str = "ddim") -> lm.Latents:
    inversion = INVERSIONS[kind]
    settings = inversion.settings(name=kind, kind=kind, steps=2, guidance=1.0, spacing="trailing")
    rows = torch.arange(len(prompts)).float().view(-1, 1, 1, 1).expand(-1, 4, 2, 2)
    return lm.Latents({"latents": rows + torch.randn(4, 2, 2)}, prompts, inversion, settings)


Z = latents("a", "b", "c")


@pytest.mark.parametrize(
    ("index", "prompts"),
    [
        ([True, False, True], "ac"),
        (np.array([True, False, True]), "ac"),
        (torch.tensor([True, False, True]), "ac"),
        ([np.True_, np.False_, np.True_], "ac"),
        ([False] * 3, ""),
        ([], ""),
        ([2, 0, -1], "cac"),
        (np.array([2, 1]), "cb"),
        (torch.tensor([2, 1]), "cb"),
        ([np.int64(2), torch.tensor(1)], "cb"),
        (slice(1, None), "bc"),
        (1, "b"),
        (np.int64(1), "b"),
        (np.array(1), "b"),
        (torch.tensor(-2), "b"),
    ],
)
def test_an_index_chooses_rows_as_it_does_of_an_array(index: Any, prompts: str) -> None:
    chosen = Z[index]
    assert chosen.prompts == tuple(prompts) and chosen.single == (prompts == "b")
    assert torch.equal(chosen.rows, Z.rows[["abc".index(prompt) for prompt in prompts]])


@pytest.mark.parametrize(
    ("index", "error"),
    [
        (3, IndexError),
        ([0, 3], IndexError),
        ([True, False], IndexError),
        (0.7, TypeError),
        ([0.7], TypeError),
        (np.array([0.0, 1.0]), TypeError),
        (torch.tensor(1.0), TypeError),
        (np.eye(3, dtype=bool), TypeError),
        ("a", TypeError),
        (None, TypeError),
    ],
)
def test_what_is_no_index_is_refused(index: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        _ = Z[index]


def test_a_list_of_latents_is_mixed_as_their_rows_are() -> None:
    for given, expected in (([Z[0], Z[2]], Z[[0, 2]]), ((Z[:2], Z[2]), Z), ([Z[1]], Z[[1]])):
        mixed, same = lm.mix(given, method="nin/chm"), lm.mix(expected, method="nin/chm")
        assert torch.equal(mixed.tensor, same.tensor) and mixed.prompts == same.prompts and mixed.single


@pytest.mark.parametrize(
    ("given", "weights", "message"),
    [
        (Z[[]], None, "there are no latents to mix"),
        (Z, torch.zeros(0, 3), r"not \[0, 3\]"),
        (Z[:1], 1.0, "not one number"),
        (Z, [0.5, 0.5], r"not \[2\]"),
        ([Z[0], Z.tensor[1]], None, "not Latents"),
        (Z[0], Z[1], r"latents go in a list: lm.mix\(\[a, b\], \[0.5, 0.5\]\)"),
    ],
)
def test_what_cannot_be_mixed_is_refused(given: Any, weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lm.mix(given, weights)


def test_weights_of_16_bits_or_reversed_arrays_mix_latents() -> None:
    expected = lm.mix(Z[:2], [0.25, 0.75]).tensor
    assert torch.equal(lm.mix(Z[:2], np.array([0.75, 0.25])[::-1]).tensor, expected)
    torch.testing.assert_close(lm.mix(Z, torch.full((3,), 1 / 3, dtype=torch.bfloat16)).tensor, lm.mix(Z).tensor)


def inverted(*args: Any) -> State:
    return {"latents": args[1]}


def test_an_inversion_of_ones_own_is_pickled_by_its_functions() -> None:
    own = replace(Z, inversion=Inversion(inverted))
    loaded = pickle.loads(pickle.dumps(own))
    assert loaded.inversion == own.inversion and torch.equal(loaded.rows, own.rows)
    assert pickle.loads(pickle.dumps(Z)).inversion is Z.inversion


def test_latents_of_two_inversions_of_ones_own_are_not_joined() -> None:
    """Their settings may be the same."""
    first, second = (replace(Z, inversion=inversion) for inversion in (Inversion(inverted), Inversion(lambda *_: {})))
    assert len(first + replace(first, prompts=("d", "e", "f"))) == 6
    for call in (lambda: first + second, lambda: lm.mix([first, second])):
        with pytest.raises(lm.UserError, match="can't be joined"):
            call()
    with pytest.raises(lm.UserError, match=r"a Tensor can't be joined to latents with prompts; join z.tensor to it"):
        _ = Z + Z.tensor  # type: ignore[operator]


def test_latents_may_come_one_by_one() -> None:
    assert torch.equal(lm.mix(iter(Z)).tensor, lm.mix(Z).tensor)
    assert lm.mix(iter(Z)).prompts == lm.mix(Z).prompts


def test_an_array_of_latents_is_refused_with_what_to_take() -> None:
    for call in (lambda: np.asarray(Z), lambda: np.stack([Z[0], Z[1]])):
        with pytest.raises(TypeError, match=r"take z\.tensor"):
            call()


def test_latents_say_what_they_are() -> None:
    assert repr(Z) == "<Latents [3, 4, 2, 2] of ddim, 2 steps; prompts: a, b, c>"
    assert repr(Z[0]) == "<Latents [4, 2, 2] of ddim, 2 steps; prompts: a>"
    assert len(repr(latents(*"abcdefgh"))) < 100
