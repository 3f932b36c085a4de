"""`latentmix reconstruct`: its arguments, options and help."""

from latentmix.cli.shared import DryRun, Multirun, Overrides, command, each_run, say_all


@command(
    "latentmix reconstruct 'data.classes=[star]' pool=64 steps=50 guidance=1",
    "latentmix reconstruct inversion=null_text guidance=7.5",
)
def reconstruct(overrides: Overrides = None, multirun: Multirun = False, dry_run: DryRun = False) -> None:
    """Invert images, generate from their latents, and measure how close the result is: reconstruction.csv, a figure."""
    from latentmix.commands import reconstruct

    each_run("reconstruct", overrides, multirun, lambda experiment: say_all(reconstruct.run(experiment, dry_run)))
