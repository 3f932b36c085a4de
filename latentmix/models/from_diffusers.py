"""A caller's own diffusers pipeline as a `Model`, with its modules as they are: adapters, quantisation, offloading.

Families read a folder. So the pipeline's JSON files are written to a temporary one, and its modules are registered in
`loading` under the paths that they would have there. No module is copied, moved, cast or frozen.
"""

import json
import shutil
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from latentmix.errors import UserError
from latentmix.models.family import Family
from latentmix.models.loading import DTYPES, NETWORKS, TOKENIZERS
from latentmix.models.protocol import Model
from latentmix.models.registry import FAMILIES
from latentmix.models.settings import ModelConfig, SpeedConfig

AS_IT_IS = SpeedConfig(channels_last=False, shared_prefix=False, fused_norms=False)  # nothing that changes a module


class _Held:
    """A network of the caller; `to` returns it unchanged."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def __reduce__(self) -> Any:
        raise UserError("a pipeline of modules that were loaded can't be copied or pickled; call from_diffusers again")

    def to(self, *_: Any, **__: Any) -> Any:
        return self.network


class _HeldVAE(_Held):
    """A VAE of the caller, run in its own precision, but in float32 instead of float16 if its config upcasts."""

    def to(self, *_: Any, **__: Any) -> Any:
        return self

    def encode(self, pixels: Tensor) -> Any:
        """Return what `AutoencoderKL.encode` does, in float32."""
        with self._upcast() as network:
            mean = _without_nan(network.encode(pixels.to(network.dtype)).latent_dist.mean, network)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean.float()))

    def decode(self, latents: Tensor) -> Any:
        """Return what `AutoencoderKL.decode` does."""
        with self._upcast() as network:
            return SimpleNamespace(sample=_without_nan(network.decode(latents.to(network.dtype)).sample, network))

    @contextmanager
    def _upcast(self) -> Iterator[Any]:
        upcast = self.network.dtype == torch.float16 and self.network.config.get("force_upcast")
        if upcast:
            nn.Module.to(self.network, torch.float32)  # without the warning of diffusers' own `to`
        try:
            yield self.network
        finally:
            if upcast:
                nn.Module.to(self.network, torch.float16)


def _without_nan(x: Tensor, vae: Any) -> Tensor:
    """Return a VAE's output. Raises: UserError for NaN, which would become black."""
    if x.isnan().any():
        name, wide = str(vae.dtype).removeprefix("torch."), vae.dtype == torch.float32
        advice = "check its weights" if wide else "cast it: pipe.vae.to(torch.float32)"
        raise UserError(f"NaN came up in the pipeline's VAE in {name}; {advice}")
    return x


def family_of(pipe: Any) -> Family:
    """Return the family of a pipeline. Raises: UserError where latentmix knows none."""
    names = [cls.__name__ for cls in type(pipe).__mro__]
    known = next((name for name in names if name in FAMILIES), None)
    if known is None:
        found = f"a {names[0]} can't be used, only {', '.join(FAMILIES)}; take "
        if not hasattr(pipe, "components"):
            raise UserError(f"{found}one that diffusers has loaded; from_pretrained loads models by their name")
        instead = "the text-to-image pipeline of its modules: diffusers.AutoPipelineForText2Image.from_pipe(pipe)"
        raise UserError(f"{found}{instead}")
    return FAMILIES[known]


def device_of(pipe: Any) -> torch.device:
    """Return the device that a pipeline computes on, also where its modules are offloaded."""
    return torch.device(getattr(pipe, "_execution_device", pipe.device))


def model_from_diffusers(pipe: Any, config: ModelConfig) -> Model:
    """Return a model that computes with a pipeline's modules. Raises: UserError where these do not fit."""
    family, folder = family_of(pipe), Path(mkdtemp(prefix="latentmix-"))
    try:
        _register(pipe, family, folder)
        precision = _precision(getattr(pipe, family.denoiser), family.denoiser)
        with in_its_words(folder):
            model = family.build(folder, config, precision, device_of(pipe), AS_IT_IS)
    except BaseException:
        _forget(folder)
        raise
    vars(model)["identity"] = {"pipeline": type(pipe).__name__, "precision": str(model.dtype)}  # it is on no disk
    weakref.finalize(model, _forget, folder)
    return model


@contextmanager
def in_its_words(folder: Path) -> Iterator[None]:
    """Let errors in this context name the pipeline instead of its temporary folder."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(f"{folder}/", "the pipeline's ")) from error


def state_of(pipe: Any) -> list[Any]:
    """Return a value that differs once a pipeline has another module, scheduler, precision or device."""
    parts = [getattr(pipe, part, None) for part in family_of(pipe).parts]
    modules = [(id(part), str(getattr(part, "dtype", ""))) for part in parts]
    return [device_of(pipe), modules, dict(getattr(pipe.scheduler, "config", {}))]


def denoiser_and_vae(pipe: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configs of a pipeline's denoiser and VAE. Raises: UserError where a network's class is not known."""
    family = family_of(pipe)
    for part in family.parts:
        own = getattr(pipe, part, None)
        if own is None and part not in family.optional:
            raise UserError(f"the pipeline has no {part}; load it with one")
        if own is not None and part in family.networks:
            expected = family.networks[part].rpartition(".")[2]
            plain = getattr(own, "_orig_mod", own)  # of a network that torch compiled
            if expected not in [cls.__name__ for cls in type(plain).__mro__]:
                raise UserError(f"the pipeline's {part} is a {type(plain).__name__}; only a {expected} can be used")
    return dict(getattr(pipe, family.denoiser).config), dict(pipe.vae.config)


def _register(pipe: Any, family: Family, folder: Path) -> None:
    """Write the JSON files, and register the modules under the paths that they would have in the folder."""
    pipe.save_config(folder)
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": family.pipeline}))
    for part in family.parts:
        own, place = getattr(pipe, part, None), folder / part
        if own is None:
            continue
        if part == "scheduler":
            own.save_config(place)
        elif part in family.networks:
            writer = own if hasattr(own, "save_config") else own.config  # diffusers' networks, transformers'
            getattr(writer, "save_config" if writer is own else "save_pretrained")(place)
            NETWORKS[place] = (_HeldVAE if part == "vae" else _Held)(own)
        else:
            TOKENIZERS[place] = own


def _precision(denoiser: Any, part: str) -> str:
    """Return the name of a denoiser's dtype; float16 if it is none of `DTYPES`, as with quantised weights."""
    if denoiser.dtype == torch.float64:
        raise UserError(f"the pipeline's {part} is in float64; cast it: pipe.to(torch.float32)")
    dtype = denoiser.dtype if denoiser.dtype in DTYPES.values() else torch.float16
    return next(name for name, known in DTYPES.items() if known == dtype)


def _forget(folder: Path) -> None:
    for known in (NETWORKS, TOKENIZERS):
        for path in [path for path in known if path.parent == folder]:
            del known[path]
    shutil.rmtree(folder, ignore_errors=True)
