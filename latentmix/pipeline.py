"""`Pipeline`: invert, mix and generate in a few lines of Python, with the same functions as the command line."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache, reduce
from operator import add
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from latentmix.arguments import (
    check_loaded,
    check_pairs,
    count_of,
    for_each,
    for_morph,
    guidance_of,
    plain_latents,
    seed_of,
    size_of,
)
from latentmix.compose import compose, in_one_list
from latentmix.config import Config
from latentmix.data.caller_images import read_pictures
from latentmix.errors import UserError
from latentmix.experiment.draws import random_latents
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.generation import refuse_nan
from latentmix.feature_networks import perceptual_network
from latentmix.gpu import is_out_of_memory, tf32
from latentmix.images import to_pil
from latentmix.inversion import INVERSIONS
from latentmix.inversion.base import Inversion, InversionSettings, State, image_names
from latentmix.isolation import alone
from latentmix.latents import Latents, Prompt, joined, weighted
from latentmix.mixing import Method
from latentmix.model_names import native_size, nearest_preset, overrides_for
from latentmix.models import check_size, load_model, of_latents
from latentmix.models.from_diffusers import (
    denoiser_and_vae,
    device_of,
    family_of,
    in_its_words,
    model_from_diffusers,
    state_of,
)
from latentmix.models.protocol import Conditioning, Model, Text
from latentmix.morphing.path import frame_weights
from latentmix.presets import Presets
from latentmix.runner.progress import CountedSteps, Progress, bar, shown
from latentmix.sampling import Schedule
from latentmix.settings import height_width

Result = TypeVar("Result")
USUAL_PIXELS = 8 * 512**2  # of a batch: what fits into most devices


class Pipeline:
    """A diffusion model with the functions that a notebook needs. Make one by `from_pretrained` or `from_diffusers`.

    `steps`, `guidance` and `size` are the defaults of the methods below. `model` is the model itself (see
    latentmix/models/protocol.py), `config` all settings. `progress` can be set to False, which hides the bars, or to a
    function, which is called in place of them, as `progress("inverting 2", done, total)` in steps. `batch` is how many
    images a network processes at once; by default as many as usually fit.
    """

    def __init__(self, model: Model, config: Config, overrides: Sequence[str], device: torch.device) -> None:
        self.model = model
        self.config = config
        self.device = device
        self.progress: Progress = True
        self.batch: int | str | None = config.batch  # None or "auto": as many as usually fit
        self._overrides = tuple(overrides)
        self._texts: dict[str, Text] = {}
        self._diffusers: Any = None  # the caller's own diffusers pipeline; see `from_diffusers`
        self._state: list[Any] = []  # its `state_of` when `model` was made

    @classmethod
    @alone()
    def from_pretrained(
        cls, name: str | Path, *settings: str, device: str | torch.device | None = None, size: int | str | None = None
    ) -> "Pipeline":
        """Return the pipeline of a model: a preset such as "sd15" or "tiny", a folder, a single file, or OWNER/NAME.

        A folder has diffusers' layout, a single file is a checkpoint, such as a .safetensors, and OWNER/NAME is a
        repository of the Hugging Face hub.

        `settings` are further ones, as the command line has them: "model.precision=float32", "steps=30", "batch=4",
        "inversion=null_text". `device` is by default that of the settings: a GPU if there is one. `size` is in pixels,
        512 or "768x512" (width and height); by default the model's own. Weights are read when they are first needed.
        Raises: UserError where there is no such model, or it can't be read.
        """
        given = in_one_list(settings)
        overrides = [*overrides_for(name, given), *given]
        if device is not None:
            overrides.append(f"device={device}")
        if size is not None:
            overrides.append(size_of(size))
        experiment = Experiment(compose(overrides))
        return cls(experiment.model, experiment.config, overrides, experiment.device)

    @classmethod
    @alone()
    def from_diffusers(cls, pipe: Any, *settings: str, size: int | str | None = None) -> "Pipeline":
        """Return the pipeline of modules that are loaded already: adapted, quantised, offloaded, compiled, as they are.

        `pipe` is diffusers' text-to-image pipeline of a family that latentmix knows. Its modules stay on their devices
        and in their precision. `settings` and `size` are as for `from_pretrained`. Adapters are set through `pipe`.
        Raises: UserError for a pipeline or a module of another class.
        """
        denoiser, vae = denoiser_and_vae(pipe)
        device, native = device_of(pipe), native_size(denoiser, vae)
        overrides = [f"model={nearest_preset(family_of(pipe).pipeline, denoiser)}", f"device={device}"]
        check_loaded(given := in_one_list(settings))
        overrides += [f"model.size={native}"] * (native is not None) + given
        overrides += [] if size is None else [size_of(size)]
        config = compose(overrides)
        made = cls(model_from_diffusers(pipe, config.model), config, overrides, device)
        made._diffusers, made._state = pipe, state_of(pipe)
        check_size(made.model, config.model.size)
        return made

    def __repr__(self) -> str:
        name, size = self.config.model.name, self.config.model.size
        return f"<Pipeline {name}, {size} px, {self.config.steps} steps, on {self.device}>"

    @alone()
    def invert(
        self,
        images: Any,
        prompts: Prompt | Sequence[Prompt] | None = None,
        inversion: str | Inversion | None = None,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        **settings: Any,
    ) -> Latents:
        """Invert images to latents at t = T.

        `images` is an image or a list of them: PIL images, paths, bytes of files, uint8 tensors [3, H, W] or arrays
        [H, W, 3], or a batch of these as one tensor or array. Each is cut to the pipeline's shape in its centre, and
        resized. `prompts` is one for all images or a list of one for each; the empty prompt is the default.

        `inversion` is a preset of configs/inversion ("ddim", "null_text", "exact", ...) or an `Inversion` of your own;
        by default it is that of the pipeline's settings, "ddim" if they name none.
        `steps` holds for generation too. `guidance` is that of the inversion, and by default the preset's: 1, no
        guidance, for most. `settings` are the inversion's own, such as `iterations=5`.
        Raises: UserError for images, settings or names that can't be used.
        """
        kind, own, scale = self._recipe(inversion, steps, guidance, settings)
        pixels, single = read_pictures(images, self.config.model.size)
        texts = for_each(prompts, len(pixels))
        self._use_precision(own.float32)
        schedule = self._schedule(kind, own)
        with self._shown("inverting", len(pixels), len(schedule)) as model:

            def compute(rows: slice) -> State:
                cond = self._conditioning(texts[rows], own.guidance)
                clean, names = model.encode(pixels[rows]), image_names(pixels[rows])
                state = kind.run(model, clean, schedule, cond, own, names)
                refuse_nan(state["latents"], "the inversion")
                return state

            states = self._in_batches(len(pixels), compute)
        state = {name: torch.cat([part[name] for part in states]) for name in states[0]}
        return Latents(state, tuple(texts), kind, own, scale, single)

    @alone()
    def generate(
        self,
        latents: Any,
        prompt: Prompt | Sequence[Prompt] | None = None,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        output: str = "pil",
    ) -> Any:
        """Generate from latents at t = T: an image from a single one, a list of images from several.

        `latents` is what `invert`, `lm.mix` or `noise` returned, or a list of it; or a tensor or array [C, h, w] or
        [N, C, h, w], or a list of N, from which the DDIM or Euler sampler generates. `prompt` is one for all, a list of
        one for each, or texts with weights by which their embeddings are mixed: {"a cat": 0.5, "a fox": 0.5}. By
        default it is the prompt of the inversion, mixed as the latents were. `steps` are by default those of the
        inversion, `guidance` that of the model.

        `output` is "pil" for PIL images, or "tensor" for uint8 [3, H, W] or [N, 3, H, W].
        Raises: UserError for settings or latents that can't be used.
        """
        if output not in ("pil", "tensor"):
            raise UserError(f'output={output!r} must be "pil" or "tensor"')
        given = joined(latents)
        z = given if isinstance(given, Latents) else self._plain(given)
        if not len(z):
            raise UserError("there are no latents to generate from")
        own = z.settings if steps is None else replace(z.settings, steps=count_of("steps", steps))
        scale = z.guidance if guidance is None else guidance_of(guidance)
        check_pairs(z, own, scale)
        texts = list(z.prompts) if prompt is None else for_each(prompt, len(z))
        self._use_precision(own.float32 if own.float32_in == "both" else ())
        schedule = self._schedule(z.inversion, own, z.rows.shape[1:])
        with self._shown("generating", len(z), len(schedule)) as model:

            def compute(rows: slice) -> Tensor:
                state = {name: x[rows].to(self.device) for name, x in z.state.items()}
                clean = z.inversion.generate(model, state, schedule, self._conditioning(texts[rows], scale), own)
                refuse_nan(clean, "generation")
                return model.decode(clean).cpu()

            images = torch.cat(self._in_batches(len(z), compute))
        found = to_pil(images) if output == "pil" else images
        return found[0] if z.single else found

    @alone()
    def noise(self, count: int | None = None, seed: int = 0) -> Latents:
        """Return standard Gaussian latents, to generate from: a single one, or `count` of them."""
        shape = self.model.latent_shape(self.config.model.size)
        rows = range(1 if count is None else count_of("count", count))
        z = random_latents(seed_of(seed), "noise", rows, shape)
        return self._plain(z[0] if count is None else z)

    @alone()
    def morph(
        self,
        images: Any,
        frames: int = 24,
        prompts: Prompt | Sequence[Prompt] | None = None,
        method: str | Method = "nin/chm",
        inversion: str | Inversion | None = None,
        *,
        loop: bool = False,
        even: bool = True,
        steps: int | None = None,
        guidance: float | None = None,
        **settings: Any,
    ) -> list[Image.Image]:
        """Return the frames of a morph from image to image: `frames` in all, each image among them.

        `images`, `prompts`, `inversion`, `steps` and `settings` are as for `invert`, `guidance` is that of generation.
        Instead of images, `images` can be what `invert` returned, which has its own prompts unless `prompts` are given.
        Prompts' embeddings are mixed with the latents. With `even`, frames are evenly spaced in perceptual distance,
        measured with the network that `model.perceptual` names; otherwise the weights change evenly. With `loop`, the
        last frame leads back to the first image.
        Raises: UserError, as `invert` does, for fewer frames than images, and for a method that needs a pool.
        """
        way, given, number = for_morph(method), joined(images), count_of("frames", frames)
        if not isinstance(given, Latents):
            z, steps = self.invert(given, prompts, inversion, steps=steps, **settings), None
        elif inversion is not None or settings:
            raise UserError("what is given is inverted already; leave out the inversion and its settings")
        else:
            z = given if prompts is None else replace(given, prompts=tuple(for_each(prompts, len(given))))
        rendered: dict[tuple[float, ...], Tensor] = {}

        def render(weights: Tensor) -> Tensor:
            keys = [tuple(row) for row in weights.tolist()]
            if missing := [key for key in dict.fromkeys(keys) if key not in rendered]:
                mixed = z.mixed(torch.tensor(missing), way)
                made = self.generate(mixed, steps=steps, guidance=guidance, output="tensor")
                rendered.update(zip(missing, made, strict=True))
            return torch.stack([rendered[key] for key in keys])

        between = perceptual_network(self.config.model.perceptual, self.device).between if even else None
        weights = frame_weights(len(z), number, loop, render if even else None, between)
        return to_pil(render(weights))

    def _recipe(
        self, inversion: str | Inversion | None, steps: int | None, guidance: float | None, settings: Mapping[str, Any]
    ) -> tuple[Inversion, InversionSettings, float]:
        """Return an inversion, its settings, and the guidance of generation that goes with it."""
        steps = None if steps is None else count_of("steps", steps)
        if "prompt" in settings:
            raise UserError("write prompts=..., also for one prompt")
        if not isinstance(inversion, str | Inversion | None):
            raise UserError(f"inversion={inversion!r} must be a name, such as 'ddim', or an Inversion")
        if isinstance(inversion, str) and inversion in INVERSIONS and inversion not in Presets().options("inversion"):
            inversion = INVERSIONS[inversion]  # of another package, without a preset
        if isinstance(inversion, Inversion):
            return self._own_recipe(inversion, steps, guidance, settings)
        overrides = [] if inversion is None else [f"inversion={inversion}"]
        overrides += [f"inversion.{name}={value}" for name, value in settings.items()]
        if steps is not None:
            overrides.append(f"steps={steps}")
        if guidance is not None:
            kind = INVERSIONS.get(self._composed(tuple(overrides)).inversion.kind)
            overrides.append(f"{'guidance' if kind and 'guidance' in kind.paired else 'inversion.guidance'}={guidance}")
        config = self._composed(tuple(overrides))
        return INVERSIONS[config.inversion.kind], config.inversion, config.guidance

    @cache  # noqa: B019 - a pipeline lives as long as its notebook
    def _composed(self, overrides: tuple[str, ...]) -> Config:
        """Return the config of the pipeline's settings and further ones.

        Where these name another inversion, the pipeline's settings of its own inversion do not apply.
        """
        kept, chosen = self._overrides, [text for text in self._overrides if text.startswith("inversion=")]
        if chosen and any(text.startswith("inversion=") and text not in chosen for text in overrides):
            kept = tuple(text for text in kept if not text.lstrip("+").startswith(("inversion=", "inversion.")))
        elif chosen:
            overrides = tuple(text for text in overrides if text not in chosen)
        return compose([*kept, *overrides])

    def _own_recipe(
        self, inversion: Inversion, steps: int | None, guidance: float | None, settings: Mapping[str, Any]
    ) -> tuple[Inversion, InversionSettings, float]:
        """Return the settings of an inversion that has no preset: the class's own defaults."""
        paired = "guidance" in inversion.paired
        scale = guidance if guidance is not None else self.config.guidance if paired else 1.0
        common = {"name": "own", "kind": "own", "steps": steps or self.config.steps, "spacing": self.config.spacing}
        try:
            own = TypeAdapter(inversion.settings).validate_python({**common, "guidance": scale, **settings})
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(f"the inversion's {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        return inversion, own, scale if paired else self.config.guidance

    def _plain(self, latents: Any) -> Latents:
        """Return latents of unknown origin as `Latents` of the inversion "ddim" with empty prompts."""
        z = plain_latents(latents, self.model.latent_shape(self.config.model.size)[0]).to(self.device)
        kind, own, guidance = self._recipe("ddim", None, None, {})
        rows = z if z.ndim == 4 else z[None]
        return Latents({"latents": rows}, ("",) * len(rows), kind, own, guidance, single=z.ndim == 3)

    def _conditioning(self, prompts: Sequence[Prompt], guidance: float) -> Conditioning:
        """Return the embeddings of prompts, a row for each, and of the empty prompt."""
        wanted = dict.fromkeys(["", *(text for prompt in prompts for text in weighted(prompt))])
        if missing := [text for text in wanted if text not in self._texts]:
            rows = self.model.embed(missing)
            one = torch.eye(len(missing))
            self._texts |= {text: rows.mixed(one[i : i + 1]) for i, text in enumerate(missing)}
        texts = list(wanted)
        weights = torch.tensor([[weighted(prompt).get(text, 0.0) for text in texts] for prompt in prompts])
        known = reduce(add, [self._texts[text] for text in texts])
        return Conditioning(known.mixed(weights), self._texts[""], guidance)

    @contextmanager
    def _shown(self, what: str, count: int, steps: int) -> Iterator[Any]:
        """Show a progress bar in this context; yield the model that moves it."""
        what, total = f"{what} {count}", steps * len(self._slices(count))
        with torch.no_grad(), tf32(allowed=False), shown(self.progress), bar(what, total, unit="step") as moved:
            yield CountedSteps(self.model, moved, steps)
            moved.update(moved.total - moved.n)
        if self._diffusers is not None:
            self._diffusers.maybe_free_model_hooks()  # as diffusers does after each call

    def _use_precision(self, float32: Collection[str]) -> None:
        """Replace the model if `float32`, the networks to keep in 32 bits, or a changed `_diffusers` needs it."""
        if (pipe := self._diffusers) is not None:
            self._texts = {}  # the caller may have set other adapters
            if (state := state_of(pipe)) != self._state:  # or moved or cast it, or set another module
                denoiser_and_vae(pipe)
                self.model, self.device, self._state = (
                    model_from_diffusers(pipe, self.config.model),
                    device_of(pipe),
                    state,
                )
            return
        if self.config.model.precision != "auto":
            return
        needed = load_model(self.config.model, self.device, float32, self.config.speed)  # its weights are not read yet
        precisions = [getattr(model, "precision", model.dtype) for model in (needed, self.model)]  # TF32 is no dtype
        if precisions[0] != precisions[1]:
            self.model, self._texts = needed, {}

    def _schedule(self, kind: Inversion, own: InversionSettings, latent: Sequence[int] = ()) -> Schedule:
        """Return the schedule of latents [C, h, w]; by default, of the pipeline's size."""
        model = of_latents(self.model, self.config.model, latent) if latent else self.model
        with in_its_words(getattr(model, "folder", Path())) if self._diffusers is not None else nullcontext():
            return model.schedule(own.steps * kind.intervals_per_step, own.spacing)

    def _slices(self, count: int) -> list[slice]:
        height, width = height_width(self.config.model.size)
        usual = max(1, min(32, USUAL_PIXELS // (height * width)))
        size = usual if self.batch in (None, "auto") else count_of("batch", self.batch)
        return [slice(start, start + size) for start in range(0, count, size)]

    def _in_batches(self, count: int, compute: Callable[[slice], Result]) -> list[Result]:
        """Return `compute(rows)` for all batches; if memory runs out, start again with batches of half the size."""
        while True:
            try:
                return [compute(rows) for rows in self._slices(count)]
            except Exception as error:
                if not is_out_of_memory(error) or len(self._slices(count)) == count:
                    raise
            self.batch = min(count, self._slices(count)[0].stop) // 2
