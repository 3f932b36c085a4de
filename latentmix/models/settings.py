"""Settings of a diffusion model, and of the techniques that speed it up."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from latentmix.settings import STRICT, Guidance, ImageSize, LocalPath, Several

PRECISIONS = {"fp32": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16"}  # other names


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    name: str
    size: ImageSize
    guidance: Guidance  # of generation
    spacing: str  # of the time steps, unless a run says otherwise
    prompt: str
    features: LocalPath  # "embedded", "things", "inception", a DINOv2 of the hub or in a folder, or one of a package
    clip: str  # "embedded", "things" or "ARCHITECTURE/PRETRAINED" of open_clip
    domain: Literal["shapes", "things", "imagenet"]  # what it was trained to draw; decides the default data and classes
    perceptual: str = "alex"  # "embedded", "things", or a network of LPIPS
    counterpart: str | None = None  # the rectified flow of figures that need one; None: this model is one
    path: LocalPath | None = None  # a pipeline folder, or a single file of weights
    hub: LocalPath | None = None  # OWNER/NAME of a pipeline on the Hugging Face hub
    revision: str | None = None
    # the published one to plan a dry run with before files are fetched, or a folder with what a single file lacks
    architecture: LocalPath | None = None
    embedded: str | None = None  # a pipeline's folder in latentmix/embedded
    precision: Annotated[
        Literal["auto", "float32", "tf32", "float16", "bfloat16"],
        BeforeValidator(lambda name: PRECISIONS.get(name, name) if isinstance(name, str) else name),
    ] = "auto"
    quantize: Literal["int8", "fp8", "nf4"] | None = None  # the weights of the diffusion network's linear layers
    offload: bool = False  # whether the diffusion network stays in main memory; changes no result
    max_sequence_length: Annotated[int, Field(ge=0, le=512)] = 256  # of T5, in tokens
    embedded_guidance: Guidance | None = None  # a number that FLUX.1-dev reads; no classifier-free guidance
    pickled: bool = False  # whether a folder given by path may hold its weights in *.bin files
    variant: str | None = None  # of the weights, such as fp16; None prefers full precision
    lora: Several[LocalPath] = ()  # FILE or FILE:FACTOR, added to the weights
    vae: LocalPath | None = None  # a folder or a file, in place of the pipeline's own
    t5: bool = True  # false leaves T5 out, where a pipeline can do without
    prediction: Literal["epsilon", "v_prediction"] | None = None  # in place of what the scheduler's config says

    def __post_init__(self) -> None:
        if self.embedded is not None and self.hub is not None and self.path is None:
            unread = f"model.hub={self.hub} is not read, as this model's weights come with latentmix"
            raise ValueError(f"{unread}; give a model of its family with it, such as model=sd15")
        if self.prompt.count("{}") != 1 or set("{}") & set(self.prompt.replace("{}", "")):
            raise ValueError("the prompt must contain {} once, where the class's name goes, and no other braces")


@dataclass(frozen=True, config=STRICT)
class SpeedConfig:
    """Techniques of the diffusion network and the VAE that change no result beyond rounding.

    Each can be switched by itself, so that each can be measured; see docs/performance.md. A decoder in bfloat16 rounds
    more than the others do, and one that works in tiles blends them, so both are part of the model's identity.
    """

    channels_last: bool = True
    onednn: bool = False
    shared_prefix: bool = True
    attention: Literal["auto", "flash", "efficient", "cudnn", "math"] = "auto"
    fused_norms: bool = True
    compile: bool | Literal["auto"] = "auto"
    vae_tiling: bool = False
    vae: Literal["tf32", "ieee", "bfloat16"] = "tf32"


USUAL = SpeedConfig()
