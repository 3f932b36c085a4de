"""`latentmix bench`: its arguments, options and help."""

from typing import Annotated

from typer import Option

from latentmix.cli.shared import Overrides, command, composed, prepared, say


@command("latentmix bench", "latentmix bench model=sd15 --random", "latentmix bench steps=10 batch=16")
def bench(
    overrides: Overrides = None,
    repeat: Annotated[int, Option(help="Times to measure each; the best counts.", min=1)] = 3,
    random: Annotated[bool, Option("--random", help="Use random weights at full size; needs no files.")] = False,
) -> None:
    """Measure how fast images are generated, beside diffusers' own pipeline: images/s, TFLOP/s, memory (bench.json)."""
    from latentmix.commands import bench
    from latentmix.models.architectures import random_folder

    more = []
    if random:
        config = composed(overrides)
        more = [f"model.path='{random_folder(config.model.name, config.cache / 'random')}'"]
    say(str(bench.run(prepared([*(overrides or []), *more]), repeat)))
