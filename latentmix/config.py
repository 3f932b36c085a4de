"""The settings of a run, checked and frozen. `compose.py` makes them from configs/ and the command line."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, SerializeAsAny, TypeAdapter
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from latentmix.data import DATASETS
from latentmix.data.settings import DataConfig
from latentmix.errors import no_such
from latentmix.inversion import INVERSIONS
from latentmix.inversion.base import InversionSettings
from latentmix.metrics import METRICS
from latentmix.mixing import WHOLE_POOL, Method
from latentmix.models.settings import USUAL, ModelConfig, SpeedConfig
from latentmix.sampling import SPACINGS
from latentmix.settings import STRICT, Folder, Guidance, Positive, Several

# Settings that change no result beyond rounding, and belong to one machine.
OF_A_MACHINE = ("outputs", "device", "batch", "launch", "speed", "model.offload")
# Further settings that change no number of a run's tables.
WITHOUT_EFFECT = ("name", "keep", "overwrite", "budget", "until", "track")
# Settings of speed that change results: the name for all other values, and the value that changes them.
DECODING: dict[str, tuple[Any, Any]] = {"vae": ("float32", "bfloat16"), "vae_tiling": (False, True)}
SBATCH = {  # arguments of sbatch -> our settings for them
    **{name: name for name in ("partition", "account", "qos", "constraint", "requeue")},
    **{"time": "timeout_min", "cpus-per-task": "cpus", "mem": "mem_gb", "array": "shards", "no-requeue": "requeue"},
}
UNITS = {  # units of time -> seconds; longer names come first, as the first that fits is taken
    **dict.fromkeys(("days", "day", "d"), 86400),
    **dict.fromkeys(("hours", "hour", "hrs", "hr", "h"), 3600),
    **dict.fromkeys(("minutes", "minute", "mins", "min", "m"), 60),
    **dict.fromkeys(("seconds", "second", "secs", "sec", "s"), 1),
}
GROWING = ("n", "methods", "metrics", "controls")  # lists that a run can be extended by without losing results


def _method(method: Any) -> Any:
    return Method.parse(method) if isinstance(method, str) else method


def _seconds(time: Any) -> Any:
    """Return a time such as 12h, 1h 30min or 1:30:00 in seconds; numbers, which are seconds, as they are."""
    if not isinstance(time, str) or re.fullmatch(r"[\d.]+", time):
        return time
    text = re.sub(r"\s", "", time).lower()
    if clock := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", text):  # as Slurm writes times
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return ((24 * days + hours) * 60 + minutes) * 60 + seconds
    unit = "|".join(UNITS)
    if not re.fullmatch(rf"((\d+\.?|\d*\.\d+)({unit}))+", text):
        raise PydanticCustomError("time", "should be a time such as 12h, 1h30m or 90s; a number alone is seconds")
    return sum(float(number) * UNITS[name] for number, name in re.findall(rf"([\d.]+)({unit})", text))


def _minutes(time: Any) -> Any:
    """Return a time in whole minutes; numbers, which are minutes, as they are."""
    if not isinstance(time, str) or re.fullmatch(r"[\d.]+", time):
        return time
    return math.ceil(_seconds(time) / 60)


def _gigabytes(size: Any) -> Any:
    """Return 32 for 32G or 32GB; anything else as it is."""
    found = re.fullmatch(r"\s*(\d+)\s*gi?b?\s*", size, re.IGNORECASE) if isinstance(size, str) else None
    return found[1] if found else size


def _share(text: Any) -> Any:
    """Return 0.05 for 5%; anything else as it is."""
    found = re.fullmatch(r"\s*([\d.]+)\s*%\s*", text) if isinstance(text, str) else None
    return float(found[1]) / 100 if found else text


def _device(name: str) -> str:
    """Return torch's name of a device: cuda for gpu, cuda:1 for 1."""
    plain = name.strip().lower()
    return f"cuda:{plain}" if plain.isdecimal() else re.sub(r"^gpu\b", "cuda", plain)


def _metric(name: str) -> str:
    if name not in METRICS:
        raise ValueError(no_such("metric", name, METRICS))
    return name


def _own_settings(plain: Any) -> Any:
    """Return settings of an inversion as an instance of the class of their kind."""
    if not isinstance(plain, dict) or "kind" not in plain:
        return plain
    if (kind := plain["kind"]) not in INVERSIONS:
        raise ValueError(no_such("kind", kind, INVERSIONS))
    return TypeAdapter(INVERSIONS[kind].settings).validate_python(plain)


MethodName = Annotated[Method, BeforeValidator(_method), PlainSerializer(str)]
MetricName = Annotated[str, AfterValidator(_metric)]
Device = Annotated[str, AfterValidator(_device)]
Minutes = Annotated[int, BeforeValidator(_minutes), Field(gt=0)]
Gigabytes = Annotated[int, BeforeValidator(_gigabytes), Field(gt=0)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)]
OwnSettings = Annotated[SerializeAsAny[InversionSettings], BeforeValidator(_own_settings)]


@dataclass(frozen=True, config=STRICT)
class LaunchConfig:
    """Where a sweep runs: in this process, in several of this machine, or in an array of Slurm jobs."""

    name: Literal["local", "slurm"]
    threads: Positive | None = None  # None leaves it to torch, or shares the cores out between workers
    gpus: Annotated[int, Field(ge=0)] = 0  # local: as many workers, with a GPU each; slurm: GPUs of each shard
    workers: Positive = 1  # local: processes without GPUs
    # The following are for slurm; None leaves the choice to the cluster.
    shards: Positive = 1
    at_once: Positive = 256  # shards that run at a time
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    timeout_min: Minutes = 240
    cpus: Positive = 4
    mem_gb: Gigabytes | None = None
    requeue: bool = True
    setup: Several[str] = ()  # lines of shell before the work
    extra: dict[str, Any] | None = None  # further arguments of sbatch; true is one without a value

    def __post_init__(self) -> None:
        if self.name == "local" and self.gpus and self.workers > 1:
            raise ValueError("launch.gpus=N starts a worker for each GPU; leave out launch.workers, which is for a CPU")
        if self.name == "slurm" and self.gpus > 1:
            raise ValueError("a shard uses one GPU; set launch.gpus=1 and more launch.shards")
        for argument in self.extra or {}:
            if argument.startswith("-"):
                raise ValueError(f"launch.extra names arguments without dashes: {argument.lstrip('-')}, not {argument}")
            if own := SBATCH.get(argument.replace("_", "-")):
                raise ValueError(f"launch.extra.{argument} has a setting of its own; give launch.{own}=...")

    @property
    def on_gpus_elsewhere(self) -> bool:
        """Return whether the work runs on GPUs of other machines."""
        return self.name == "slurm" and self.gpus > 0

    @property
    def processes(self) -> int:
        """Return the number of processes on this machine."""
        return (self.gpus or self.workers) if self.name == "local" else 1


@dataclass(frozen=True, config=STRICT)
class Config:
    """All settings of a run; configs/config.yaml says what each means."""

    name: str
    model: ModelConfig
    data: DataConfig
    inversion: OwnSettings
    launch: LaunchConfig
    n: Several[Positive]
    methods: Several[MethodName]
    metrics: Several[MetricName]
    controls: Several[Literal["real", "noise", "gauss"]]
    weights: Literal["uniform"] | Annotated[float, Field(gt=0, allow_inf_nan=False)]
    pool: Positive
    draws: Positive
    steps: Positive
    guidance: Guidance
    spacing: str
    seed: Annotated[int, Field(ge=0)]
    device: Device
    batch: Positive | Literal["auto"]
    outputs: Folder
    keep: Annotated[int, Field(ge=0)]
    overwrite: bool = False
    speed: SpeedConfig = USUAL
    budget: Seconds | None = None
    until: Annotated[float, BeforeValidator(_share), Field(gt=0)] | None = None
    track: Literal["trackio", "wandb", "tensorboard", "mlflow"] | None = None

    def __post_init__(self) -> None:
        for spacing in (self.spacing, self.inversion.spacing):
            if spacing not in SPACINGS:
                raise ValueError(f"spacing must be one of {', '.join(SPACINGS)}, not {spacing!r}")
        if Path(self.name).name != self.name or self.name in {"", ".", "..", "cache"}:
            raise ValueError(f"name={self.name!r} must be a plain folder name")
        if self.data.kind not in DATASETS:
            raise ValueError(no_such("data.kind", self.data.kind, DATASETS))
        if self.launch.gpus and self.device not in ("auto", "cuda"):
            asked = f"launch.gpus={self.launch.gpus} gives each worker a GPU of its own"
            other = f"device={self.device} is another device"
            raise ValueError(f"{asked}, and {other}; leave out device=, or set launch.gpus=0")
        self._check_counts()
        self._check_pairs()

    def _check_counts(self) -> None:
        if not self.n or not self.methods or not self.metrics:
            raise ValueError("n, methods and metrics need at least one entry each")
        if len(set(self.n)) < len(self.n):
            raise ValueError(f"n={list(self.n)} names a number twice")
        if max(self.n) > self.pool:
            raise ValueError(f"n={max(self.n)} is more than pool={self.pool} images of a class; raise pool or lower n")
        pooled = [str(method) for method in self.methods if method.of_pool]
        if pooled and max(self.n) * WHOLE_POOL >= self.pool:
            needed = f"{pooled[0]} needs images that are not mixed, and n={max(self.n)} is all of pool={self.pool}"
            advice = f"take a pool of at least {2 * max(self.n)}, or leave out {', '.join(pooled)}"
            raise ValueError(f"{needed}; {advice}")
        if self.data.limit is not None and self.data.limit < self.pool:
            raise ValueError(f"pool={self.pool} is more than data.limit={self.data.limit}; raise the limit")
        if self.draws < 2:
            raise ValueError("draws must be at least 2, or there is no distribution to measure")

    def _check_pairs(self) -> None:
        """Raise ValueError where a setting must be the same in both directions and is not, or guidance is missing."""
        kind, name = INVERSIONS[self.inversion.kind], f"inversion={self.inversion.name}"
        for setting in kind.paired:
            inversion, generation = getattr(self.inversion, setting), getattr(self, setting)
            if inversion != generation:
                needed = f"{name} needs the same {setting} in both directions, not {inversion} and {generation}"
                raise ValueError(f"{needed}; set {setting}=..., which sets both, and leave out inversion.{setting}")
        if kind.needs_guidance and self.inversion.guidance == 1:
            needed = f"{name} needs classifier-free guidance, and guidance=1 is none"
            raise ValueError(f"{needed}; set guidance=2 or more, or take another inversion")

    @property
    def folder(self) -> Path:
        """Return the folder of this run's results."""
        return self.outputs / self.name

    @property
    def cache(self) -> Path:
        return self.outputs / "cache"

    @property
    def own_networks(self) -> list[str]:
        """Return the names of the feature networks that metrics need besides those of the model's settings."""
        return sorted({network for name in self.metrics if (network := METRICS[name].own_network) is not None})

    @property
    def measures_diversity(self) -> bool:
        """Return whether pairs of images are compared."""
        return "diversity" in self.metrics

    @property
    def work(self) -> Path:
        """Return the folder in which the workers of this run coordinate."""
        return self.folder / "work"

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, as in the run's config.yaml."""
        return TypeAdapter(Config).dump_python(self, mode="json")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what differs between two configs (as `as_dict` returns them): "KEY=old there, new here".

    Left out are settings that change no result, settings that only one of the two has (a config of an earlier release
    lacks newer ones), and lists in `GROWING` to which entries were only added, as no result is lost.
    """
    before, after = flat_settings(old), flat_settings(new)
    changed = [key for key in after if key in before and before[key] != after[key]]
    lost = [key for key in changed if key not in GROWING or not set(before[key]) <= set(after[key])]
    return [f"{key}={_shown(before[key])} there, {_shown(after[key])} here" for key in lost]


def result_settings(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that change what the tasks of a run do: those that can change a result, and `keep`."""
    return flat_settings(plain) | {"keep": plain.get("keep")}


def flat_settings(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a plain config that can change a result, by keys such as "model.size"."""
    speed = plain.get("speed", {})
    flat = {f"speed.{name}": other if speed.get(name) == other else usual for name, (usual, other) in DECODING.items()}
    for key, value in plain.items():
        if key not in (*OF_A_MACHINE, *WITHOUT_EFFECT):
            flat |= {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, Mapping) else {key: value}
    return {key: value for key, value in flat.items() if key not in OF_A_MACHINE}


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    return "null" if value is None else str(value)
