"""`latentmix generate`: its arguments, options and help."""

from latentmix.cli.shared import DryRun, Overrides, command, prepared


@command("latentmix generate 'n=[64]' 'methods=[fix/0,fix/chm]' draws=8")
def generate(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Generate images from mixed latents, and keep all of them as PNG."""
    from latentmix.commands import generate

    generate.run(prepared(overrides), dry_run)
