"""The embeddings of a run's prompts, each encoded once and kept in the cache."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import reduce
from operator import add

import torch
from torch import Tensor

from latentmix.experiment.cache_keys import Layout
from latentmix.experiment.data import RunData
from latentmix.feature_networks import Network
from latentmix.models.protocol import Conditioning, Model, Text

Lock = Callable[[str], AbstractContextManager[None]]  # among the workers of a run, by a name


class Texts:
    """Embeddings of prompts by the text encoders of a model, and by CLIP. `lock` keeps other workers from encoding."""

    def __init__(self, data: RunData, layout: Layout, device: torch.device, lock: Lock) -> None:
        self.data = data
        self.layout = layout
        self.device = device
        self.lock = lock
        self._known: dict[str, dict[str, Text]] = {}  # in memory: precision of the model -> prompt -> embedding

    def conditioning(
        self, class_id: str, guidance: float, model: Model, ids: Sequence[str] = (), size: int = 1
    ) -> Conditioning:
        """Return the embedded prompt of a class and the empty prompt, with a guidance scale, in the model's precision.

        Where images have prompts of their own, there is a row for each of `ids`, and the last is repeated up to `size`
        rows.
        """
        own, shared = self.data.own_prompts if ids else {}, self.data.prompt(class_id)
        prompts = [own.get(id_, shared) for id_ in ids] if own else [shared]
        if own:
            prompts += prompts[-1:] * (size - len(prompts))
        texts = self.embeddings([*map(self.data.prompt, self.data.classes), *own.values()], model)
        return Conditioning(reduce(add, [texts[prompt] for prompt in prompts]), texts[""], guidance)

    def embeddings(self, prompts: Sequence[str], model: Model) -> dict[str, Text]:
        """Return embeddings by prompt, also of the empty prompt.

        All that are not cached are encoded at once, so that the text encoders are loaded once, and by one worker.
        """
        known, wanted = self._known.setdefault(model.identity["precision"], {}), dict.fromkeys(["", *prompts])
        if unknown := [prompt for prompt in wanted if prompt not in known]:
            kept = self.layout.prompts({"model": model.identity})
            with self.lock("prompts"):
                cached = kept.ids()
                if missing := [prompt for prompt in unknown if prompt not in cached]:
                    texts = model.embed(missing)
                    for row, prompt in enumerate(missing):
                        kept.write([prompt], {"states": texts.states[row, None], "pooled": texts.pooled[row, None]})
            rows = kept.read()
            for prompt in unknown:
                known[prompt] = Text(*(rows[prompt][name][None].to(self.device) for name in ("states", "pooled")))
        return known

    def features(self, class_id: str, network: Network) -> Tensor:
        """Return the embedding [1, D] of the prompt of a class by CLIP."""
        prompt, kept = self.data.prompt(class_id), self.layout.prompts(network.identity)
        if prompt not in kept.ids():
            if network.embed_text is None:
                raise ValueError("no metric of this run needs prompts")
            kept.write([prompt], {"features": network.embed_text(prompt).cpu()})
        return kept.gather([prompt], "features")
