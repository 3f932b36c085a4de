"""`latentmix invert`: its arguments, options and help."""

from latentmix.cli.shared import DryRun, Overrides, command, prepared


@command("latentmix invert 'data.classes=[star]' pool=64", "latentmix invert inversion.steps=100")
def invert(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Invert images to latents at t = T, and keep these in the cache."""
    from latentmix.commands import invert

    invert.run(prepared(overrides), dry_run)
