"""Inverted latents with the extras, settings and prompts of their inversion, which generation needs."""

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from latentmix.arrays import entries
from latentmix.errors import UserError
from latentmix.inversion import INVERSIONS
from latentmix.inversion.base import Inversion, InversionSettings, State
from latentmix.mixing import Method, mix
from latentmix.mixing.inputs import checked_weights

SHOWN = 4  # prompts in the repr
Prompt = str | Mapping[str, float]  # one, or several whose embeddings are mixed by these weights


@dataclass(frozen=True, eq=False, repr=False)
class Latents:
    """N inverted latents or mixtures of them, or a single one. `Pipeline.invert` makes them; `lm.mix` mixes them.

    `z.tensor` is [N, C, h, w], or [C, h, w] for a single one. `z[0]` is a single one, `z[[0, 2]]` two of them.
    """

    state: State  # `latents` [N, C, h, w] and the inversion's extras, a row for each
    prompts: tuple[Prompt, ...]  # one for each row
    inversion: Inversion
    settings: InversionSettings  # of the inversion
    guidance: float = 1.0  # of generation, unless `generate` is told otherwise
    single: bool = False

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickle. An inversion in `INVERSIONS` is pickled by name, as it may have lambdas."""
        name = next((name for name in INVERSIONS if INVERSIONS.get(name) is self.inversion), None)
        return vars(self) | {"inversion": name or self.inversion}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        kept = state["inversion"]
        vars(self).update(state, inversion=INVERSIONS[kept] if isinstance(kept, str) else kept)

    @property
    def rows(self) -> Tensor:
        """Return the latents [N, C, h, w]; N is 1 for a single one."""
        return self.state["latents"]

    @property
    def tensor(self) -> Tensor:
        """Return the latents [N, C, h, w], or [C, h, w] if they are a single one."""
        return self.rows[0] if self.single else self.rows

    def __repr__(self) -> str:
        shown = [str(prompt) for prompt in self.prompts[:SHOWN]] + ["..."] * (len(self) > SHOWN)
        about = f"{self.settings.name}, {self.settings.steps} steps"
        return f"<Latents {list(self.tensor.shape)} of {about}; prompts: {', '.join(shown)}>"

    def __len__(self) -> int:
        return len(self.rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Raise TypeError: numpy would otherwise look for entries of entries without end."""
        raise TypeError("latents with prompts are no array; take z.tensor, or z.tensor.cpu().numpy()")

    def __getitem__(self, index: Any) -> "Latents":
        """Return a single one for a number; several for a slice, a list of numbers, or a mask of True and False."""
        index = index.tolist() if hasattr(index, "tolist") else index  # of a tensor or an array
        single = not isinstance(index, slice) and not hasattr(index, "__iter__")
        chosen = [range(len(self))[operator.index(index)]] if single else _chosen(len(self), index)
        state = {name: x[chosen] for name, x in self.state.items()}
        return replace(self, state=state, prompts=tuple(self.prompts[i] for i in chosen), single=single)

    def __iter__(self) -> Iterator["Latents"]:
        return (self[index] for index in range(len(self)))

    def __add__(self, other: "Latents") -> "Latents":
        """Return the rows of both, which must be of one inversion."""
        if not isinstance(other, Latents):
            raise UserError(f"a {type(other).__name__} can't be joined to latents with prompts; join z.tensor to it")
        mine, others = ((z.inversion, z.settings, z.rows.shape[1:], z.state.keys()) for z in (self, other))
        if mine != others:
            raise UserError("latents of different inversions, settings or sizes can't be joined")
        state = {name: torch.cat([x, other.state[name].to(x)]) for name, x in self.state.items()}
        return replace(self, state=state, prompts=self.prompts + other.prompts, single=False)

    def to(self, device: str | torch.device) -> "Latents":
        """Return the latents and their extras on a device."""
        return replace(self, state={name: x.to(device) for name, x in self.state.items()})

    def mixed(self, weights: Any = None, method: str | Method = "fix/chm") -> "Latents":
        """Return what `lm.mix` does: a single mixture for weights [N], K of them for weights [K, N].

        Extras are mixed as their inversion says, prompts' embeddings by the weights.
        """
        if not len(self):
            raise ValueError("there are no latents to mix")
        w = checked_weights(self.rows.float(), weights)
        single, w = w.ndim == 1, w if w.ndim == 2 else w[None]
        extras = self.inversion.extras.items()
        state = {name: mix(self.state[name], w, own or method) for name, own in [("latents", None), *extras]}
        prompts = tuple(mixed_prompt(self.prompts, row) for row in w.tolist())
        return replace(self, state=state, prompts=prompts, single=single)


def joined(latents: Any) -> Any:
    """Return a list of `Latents` joined into one; anything else as `entries` does. Raises: UserError."""
    latents = latents if isinstance(latents, Latents) else entries(latents)
    if isinstance(latents, list) and latents and all(isinstance(one, Latents) for one in latents):
        return replace(reduce(add, latents), single=False)
    return latents


def mixed_prompt(prompts: tuple[Prompt, ...], weights: list[float]) -> Prompt:
    """Return a mixture of prompts: each text with its total weight, or a single text alone."""
    total: dict[str, float] = {}
    for prompt, weight in zip(prompts, weights, strict=True):
        for text, share in weighted(prompt).items():
            total[text] = total.get(text, 0.0) + weight * share
    total = {text: weight for text, weight in total.items() if weight > 0}
    return next(iter(total)) if len(total) == 1 else total


def weighted(prompt: Prompt) -> Mapping[str, float]:
    """Return the texts of a prompt and their weights."""
    return {prompt: 1.0} if isinstance(prompt, str) else prompt


def _chosen(count: int, index: Any) -> list[int]:
    """Return the rows that a slice, numbers or a mask choose. Raises: IndexError, TypeError, as a list does."""
    if isinstance(index, slice):
        return list(range(count)[index])
    entries = [entry.tolist() if hasattr(entry, "tolist") else entry for entry in index]
    if not entries or not all(isinstance(entry, bool) for entry in entries):
        return [range(count)[operator.index(entry)] for entry in entries]
    if len(entries) != count:
        raise IndexError(f"a mask of {len(entries)} can't choose among {count} latents; give one of {count}")
    return [row for row, chosen in enumerate(entries) if chosen]
