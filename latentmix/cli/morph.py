"""`latentmix morph`: its arguments, options and help."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from latentmix.cli.shared import DryRun, command, say_all


@command(
    "latentmix morph a.jpg b.jpg c.jpg -o abc.mp4 --prompt 'a photo of a shoe'",
    "latentmix morph a.jpg b.jpg --prompt 'a cat' --prompt 'a fox' --frames 96 --loop -o cat-fox.gif model=sd15",
    "latentmix morph a.jpg b.jpg c.jpg --grid -o mixtures.png",
    "latentmix morph a.jpg b.jpg -o a-b.webp steps=20 guidance=3 --size 768x512 model=sd15",
)
def morph(
    pictures: Annotated[
        list[str], Argument(metavar="PICTURE... [KEY=VALUE]...", help="Image files, in order; and settings.")
    ],
    output: Annotated[
        Path, Option("-o", "--output", help="File to write: .mp4, .gif or .webp; .png for a file for each frame.")
    ] = Path("morph.mp4"),
    prompt: Annotated[
        list[str] | None, Option(help="Prompt of all pictures; repeat it to give one for each. Default: empty.")
    ] = None,
    frames: Annotated[int, Option(help="Number of frames in all; each picture is one of them.", min=2)] = 48,
    fps: Annotated[float, Option(help="Frames per second.")] = 24,
    loop: Annotated[bool, Option("--loop", help="Lead from the last picture back to the first.")] = False,
    even: Annotated[
        bool, Option(help="Space frames evenly in perceptual distance; otherwise weights change evenly.")
    ] = True,
    method: Annotated[str, Option(help="How latents are mixed: NORM/MEAN, as docs/methods.md says.")] = "nin/chm",
    inversion: Annotated[str | None, Option(help="A preset of configs/inversion, as inversion=NAME.")] = None,
    size: Annotated[str | None, Option(metavar="WxH", help="Size in pixels, as model.size=WxH.")] = None,
    grid: Annotated[
        bool, Option("--grid", help="All mixtures of three or four pictures: an image (.png) and a page (.html).")
    ] = False,
    side: Annotated[int, Option(help="Mixtures along each side of the grid.", min=2)] = 7,
    dry_run: DryRun = False,
) -> None:
    """Morph from picture to picture: invert them, mix the latents, and write a video, or a grid of all mixtures."""
    from latentmix.commands import morph

    given = {"inversion": inversion, "model.size": size}
    settings = [f"{key}={value}" for key, value in given.items() if value is not None]
    options = morph.Options(output, prompt or [], method, frames, fps, loop, even, grid, side)
    say_all(morph.run(pictures, options, settings, dry_run))
