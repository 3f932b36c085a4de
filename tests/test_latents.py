"""`lm.Latents`: which rows an index chooses, and how rows are kept, joined and mixed."""

from typing import Any

import numpy as np
import pytest
import torch

import latentmix as lm
from latentmix.inversion import INVERSIONS


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
