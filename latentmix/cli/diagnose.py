"""`latentmix diagnose`: its arguments, options and help."""

from latentmix.cli.shared import DryRun, Multirun, Overrides, command, each_run, say_all


@command("latentmix diagnose experiment=demo", "latentmix diagnose 'data.classes=[star,heart]' pool=256 steps=20")
def diagnose(overrides: Overrides = None, multirun: Multirun = False, dry_run: DryRun = False) -> None:
    """Measure what latents share, and how many can be mixed without mean adjustment: diagnosis.json, Fig. 4."""
    from latentmix.commands import diagnose

    each_run("diagnose", overrides, multirun, lambda experiment: say_all(diagnose.run(experiment, dry_run)))
