"""An experiment as YAML under `configs/` composes it and overrides change it, checked once and frozen.

Hydra puts the parts together; pydantic decides what is allowed. What does not change a result (device, batch, launch,
where to write) is kept apart from what does: only the latter ever enters a cache key.
"""

import dataclasses
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PlainSerializer, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from latentmix.errors import UserError
from latentmix.ladder import SPACINGS
from latentmix.metrics import METRICS
from latentmix.mixing import Method

Positive = Annotated[int, Field(gt=0)]
Guidance = Annotated[float, Field(ge=0, allow_inf_nan=False)]
MethodName = Annotated[
    Method, BeforeValidator(lambda m: Method.parse(m) if isinstance(m, str) else m), PlainSerializer(str)
]


def _metric(name: str) -> str:
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, n=1, cutoff=0)[0]
        raise ValueError(f"there is no metric {name!r}; did you mean {near!r}? (there are {', '.join(METRICS)})")
    return name


MetricName = Annotated[str, AfterValidator(_metric)]
LOCAL = ("shapes", "folder", "imagenet", "synthetic", "things")
RANDOM = re.compile(r"random:([1-9]\d*)")  # in place of classes' names: so many, drawn by the seed
ClassNames = Annotated[
    tuple[str, ...], BeforeValidator(lambda c: (c,) if isinstance(c, str) and c.startswith("random:") else c)
]
PAIRED = {"null_text": ("steps", "guidance", "spacing"), "exact": ("steps", "spacing")}  # what generation must repeat
# What experiments alone read, to choose settings by the world that a model draws.
BY_WORLD = ("_classes", "_draws", "_steps", "_prompt")
# Keys that change no result beyond rounding, and belong to one machine.
OF_A_MACHINE = ("outputs", "device", "batch", "launch", "speed")
STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    name: str
    size: Positive  # pixels, square
    guidance: Guidance  # of generation
    spacing: str  # of the time steps, unless a run says otherwise
    prompt: str
    features: str  # "embedded", "inception", or a DINOv2 of the hub or in a folder
    clip: str  # "embedded" or "ARCHITECTURE/PRETRAINED" of open_clip
    world: Literal["shapes", "imagenet"]  # what it draws, by which experiments choose classes
    perceptual: str = "alex"  # "embedded", or the network that LPIPS is taken in
    counterpart: str | None = None  # a rectified flow for the figures that the paper has of one; None: it is one
    path: str | None = None
    hub: str | None = None
    revision: str | None = None
    embedded: bool = False
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    max_sequence_length: Annotated[int, Field(ge=0, le=512)] = 256  # tokens that T5 reads, where there is one
    pickled: bool = False  # whether a folder given by path may hold its weights in *.bin files

    def __post_init__(self) -> None:
        if self.prompt.count("{}") != 1 or set("{}") & set(self.prompt.replace("{}", "")):
            raise ValueError("the prompt must contain {} once, where the class's name goes, and no other braces")


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    name: str  # without `hub` one of `LOCAL`
    reference: Annotated[int, Field(ge=2)] | None  # real images of a class to measure against; None is all of them
    path: str | None = None
    classes: ClassNames | None = None  # None is all of them
    bad_images: Literal["refuse", "skip"] = "refuse"
    hub: str | None = None  # OWNER/NAME of a data set on the Hugging Face hub
    subset: str | None = None
    revision: str | None = None
    split: str = "train"
    image: str = "image"  # the columns of the images
    label: str = "label"  # and of their classes
    synsets: bool = False  # the classes are ImageNet's, so WordNet ids name them
    limit: Positive | None = None  # images of each class that are kept; None is all of them
    noise: Annotated[float, Field(ge=0, le=1)] = 0.0  # standard deviation of what perturbs synthetic images
    titles: dict[str, Annotated[str, Field(min_length=1)]] | None = None  # what prompts call a class, by any name of it

    def __post_init__(self) -> None:
        if self.hub is None and self.name not in LOCAL:
            raise ValueError(f"data.name={self.name!r} must be one of {', '.join(LOCAL)}, or give data.hub=OWNER/NAME")
        if self.classes is not None and not self.classes:
            raise ValueError("data.classes is empty; null takes all classes")
        for entry in self.classes or ():
            if entry.startswith("random:") and (not RANDOM.fullmatch(entry) or self.classes != (entry,)):
                raise ValueError("data.classes=random:K draws K classes, K a number from 1; it stands alone")
        if self.name == "synthetic" and (self.reference is None or not self.classes or RANDOM.match(self.classes[0])):
            raise ValueError("data=synthetic needs names in data.classes, and a number of images in data.reference")
        if self.name == "synthetic" and self.titles:
            raise ValueError("data=synthetic takes what prompts say from data.classes; leave data.titles")
        if self.limit is not None and self.limit < (self.reference or 0):
            raise ValueError(f"data.reference={self.reference} is more than data.limit={self.limit}; raise the limit")


@dataclass(frozen=True, config=STRICT)
class InversionConfig:
    """How images are inverted; the settings below `float32` belong to some kinds only, whose presets have them."""

    name: str  # of the preset, as results are labelled
    kind: Literal["ddim", "null_text", "negative_prompt", "fixed_point", "renoise", "midpoint", "exact"]
    steps: Positive
    guidance: Guidance
    spacing: str
    float32: tuple[Literal["unet", "transformer"], ...] = ()  # networks that precision=auto does not put in 16 bits
    iterations: Positive = 1
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    averaged: Positive = 1
    regularisation: Annotated[float, Field(ge=0, le=1)] = 0.0
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    coupling: Annotated[float, Field(gt=0.5, le=1)] = 1.0

    def __post_init__(self) -> None:
        if self.averaged > self.iterations:
            raise ValueError(f"averaged={self.averaged} is more than iterations={self.iterations}")

    @property
    def settings(self) -> dict[str, Any]:
        """What latents depend on beside the ladder."""
        plain = dataclasses.asdict(self)
        return {name: value for name, value in plain.items() if name not in {"name", "steps", "spacing", "float32"}}


@dataclass(frozen=True, config=STRICT)
class SpeedConfig:
    """Techniques of the diffusion network and the VAE that change no result beyond rounding, each by itself, so that
    each can be measured; see docs/performance.md."""

    channels_last: bool = True
    onednn: bool = True
    shared_half: bool = True
    prompts_once: bool = True
    attention: Literal["auto", "flash", "efficient", "cudnn", "math"] = "auto"
    compile: bool = False


USUAL = SpeedConfig()


@dataclass(frozen=True, config=STRICT)
class LaunchConfig:
    """Where a sweep runs: in this process, in several of this machine, or in an array of Slurm jobs."""

    name: Literal["local", "slurm"]
    threads: Positive | None = None  # None leaves it to torch, or shares the cores out between workers
    gpus: Annotated[int, Field(ge=0)] = 0  # local: a worker for each of so many; slurm: of each shard
    workers: Positive = 1  # local: processes, where it is not by GPUs
    shards: Positive = 1  # and all that follows is of slurm: None leaves it to the cluster
    at_once: Positive = 256
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    timeout_min: Positive = 240
    cpus: Positive = 4
    mem_gb: Positive | None = None
    requeue: bool = True
    setup: tuple[str, ...] = ()  # lines of shell before the work

    def __post_init__(self) -> None:
        if self.name == "local" and self.gpus and self.workers > 1:
            raise ValueError("launch.gpus=N has a worker for each GPU; leave launch.workers, which is for a CPU")
        if self.name == "slurm" and self.gpus > 1:
            raise ValueError("a shard works on one GPU; ask for more launch.shards, each with launch.gpus=1")

    @property
    def processes(self) -> int:
        """Of this machine."""
        return (self.gpus or self.workers) if self.name == "local" else 1


@dataclass(frozen=True, config=STRICT)
class Config:
    """Everything that a run is made of; see `configs/config.yaml` for what each key means."""

    name: str
    model: ModelConfig
    data: DataConfig
    inversion: InversionConfig
    launch: LaunchConfig
    n: tuple[Positive, ...]
    methods: tuple[MethodName, ...]
    metrics: tuple[MetricName, ...]
    controls: tuple[Literal["real", "noise"], ...]
    pool: Positive
    draws: Positive
    steps: Positive
    guidance: Guidance
    spacing: str
    seed: Annotated[int, Field(ge=0)]
    device: str
    batch: Positive | Literal["auto"]
    outputs: Path
    keep: Annotated[int, Field(ge=0)]
    speed: SpeedConfig = USUAL

    def __post_init__(self) -> None:
        for spacing in (self.spacing, self.inversion.spacing):
            if spacing not in SPACINGS:
                raise ValueError(f"spacing must be one of {', '.join(SPACINGS)}, not {spacing!r}")
        if not self.n or not self.methods or not self.metrics:
            raise ValueError("n, methods and metrics need at least one entry each")
        if len(set(self.n)) < len(self.n):
            raise ValueError(f"n={list(self.n)} names a number twice")
        if max(self.n) > self.pool:
            raise ValueError(f"n={max(self.n)} is more than pool={self.pool} images of a class; raise pool or lower n")
        if self.data.limit is not None and self.data.limit < self.pool:
            raise ValueError(f"pool={self.pool} is more than data.limit={self.data.limit} images of a class; raise it")
        if self.draws < 2:
            raise ValueError("draws must be at least 2, or there is no distribution to measure")
        for setting in PAIRED.get(self.inversion.kind, ()):
            own, of_generation = getattr(self.inversion, setting), getattr(self, setting)
            if own != of_generation:
                raise ValueError(
                    f"inversion={self.inversion.name} needs the same {setting} in both directions, not {own} and "
                    f"{of_generation}; set {setting}=..., which both take, and leave inversion.{setting}"
                )
        if Path(self.name).name != self.name or self.name in {"", ".", "..", "cache"}:
            raise ValueError(f"name={self.name!r} must be a plain folder name")

    @property
    def folder(self) -> Path:
        """Where this run's results go."""
        return self.outputs / self.name

    @property
    def cache(self) -> Path:
        return self.outputs / "cache"

    @property
    def work(self) -> Path:
        """Where workers at this run tell each other what they do."""
        return self.folder / "work"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in `config.yaml`."""
        return TypeAdapter(Config).dump_python(self, mode="json")


def compose(overrides: Sequence[str]) -> Config:
    """The config that `configs/config.yaml` and overrides like `model=sd15` make; UserError if it can't be."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        with initialize_config_dir(str(folder()), version_base="1.3"):
            composed = hydra_compose("config", overrides=list(overrides))
        plain: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(_explain(error, overrides)) from error
    except YAMLError as error:  # a tag that would build an object among them
        raise UserError(f"the configs in {folder()} can't be read: {' '.join(str(error).split())}") from error
    return validate({key: value for key, value in plain.items() if key not in BY_WORLD})


def validate(plain: Any) -> Config:
    """Plain values -> Config; UserError names the key that is wrong and why."""
    try:
        return TypeAdapter(Config).validate_python(plain)
    except ValidationError as error:
        raise UserError("; ".join(dict.fromkeys(_describe(e) for e in error.errors()))) from error


def find(run: str) -> Path:
    """A run's folder, by its path or by its name in the usual outputs; UserError where there is none."""
    if (path := Path(run).expanduser()).is_dir():
        return path
    outputs = compose([]).outputs
    if Path(run).name == run and (outputs / run).is_dir():
        return outputs / run
    there = sorted(path.parent.name for path in outputs.glob("*/done.json"))
    raise UserError(f"there is no run {run!r}, by folder or by name; in {outputs} are {', '.join(there) or 'none'}")


def folder() -> Path:
    """The configs: beside the package in a checkout, inside it where it was installed."""
    inside = Path(__file__).resolve().parent / "configs"
    return inside if inside.is_dir() else inside.parent.parent / "configs"


def _describe(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"] if not str(part).startswith(("literal", "constrained", "int")))
    reason = error["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    if error["type"] == "value_error" or not where:
        return f"{where}: {reason}" if where else reason
    if error["type"] == "unexpected_keyword_argument":
        return f"there is no key {where!r}{_nearest(where)}"
    return f"{where}={error['input']!r}: {reason}"


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's errors in one line, with the nearest key that exists."""
    from hydra.errors import OverrideParseException

    cause = error.__cause__ or error
    first = str(cause).strip().splitlines()[0]
    for override in overrides:
        key, equals, value = override.partition("=")
        if override.startswith("~") and key.lstrip("~") in _keys():
            return f"{key.lstrip('~')} is needed, and can't be taken away"
        if not key or (not equals and not override.startswith("~")):
            return f"{override!r} is not KEY=VALUE"
        if isinstance(error, OverrideParseException) and error.override == override:
            return f"{override}: the value '{value}' can't be read; put it in quotes for Hydra too: \"{key}='...'\""
    for override in overrides:
        key = override.split("=")[0].lstrip("+~")
        if f"'{key.split('.')[-1]}'" in first or f"'{key}'" in first:
            return f"there is no key {key!r}{_nearest(key)}"
    if first.startswith("Missing mandatory value"):
        needed = str(cause).split("full_key: ")[1].split()[0]
        return f"{needed} is needed here; give it as {needed}=..."
    if first.startswith("In 'config'") and "Could not find" in first:
        group, _, option = first.split("Could not find '")[1].split("'")[0].partition("/")
        there = sorted(path.stem for path in (folder() / group).glob("*.yaml"))
        return f"there is no {group}={option}; there are {', '.join(there) or 'none'}"
    reason = " ".join(line.strip() for line in str(error).strip().splitlines()[:2])
    return f"{' '.join(overrides)}: {reason}"


def _nearest(key: str) -> str:
    """What to say of a key that is not there: the nearest that is, or all."""
    near = difflib.get_close_matches(key, _keys(), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; the keys are {', '.join(_keys(groups=False))}"


def _keys(groups: bool = True) -> list[str]:
    """All keys, those inside groups as `model.size`."""
    tops = dataclasses.fields(Config)
    inside = [(top.name, dataclasses.fields(top.type)) for top in tops if dataclasses.is_dataclass(top.type)]
    return [top.name for top in tops] + [f"{top}.{f.name}" for top, fields in inside for f in fields if groups]
