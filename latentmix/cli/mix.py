"""`latentmix mix`: its arguments, options and help."""

from typing import Annotated

from typer import Option

from latentmix.cli.shared import ClassName, DryRun, Overrides, command, prepared, say_all


@command(
    "latentmix mix 'n=[8]' 'methods=[fix/chm]' draws=32",
    "latentmix mix --class star --weights 0.5,0.3,0.2 'methods=[nin/chm,slerp/0]'",
)
def mix(
    overrides: Overrides = None,
    weights: Annotated[str | None, Option(help="Weights for one mixture of the first images of --class.")] = None,
    class_name: ClassName = None,
    dry_run: DryRun = False,
) -> None:
    """Mix the latents of all draws, and keep the mixtures in the cache; or make one mixture, by --weights."""
    from latentmix.commands import mix

    experiment = prepared(overrides)
    if weights is None:
        mix.run(experiment, dry_run)
    else:
        say_all(mix.run_one(experiment, class_name, weights, dry_run))
