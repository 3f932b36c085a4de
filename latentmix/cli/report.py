"""`latentmix report`: its arguments, options and help."""

from latentmix.cli.shared import Outputs, PushToHub, Runs, command, named_runs, say


@command("latentmix report demo", "latentmix report demo-tiny demo-tiny-sd3")
def report(runs: Runs, push_to_hub: PushToHub = None, outputs: Outputs = None) -> None:
    """Write a page of a finished run, or of several beside each other: the answer, curves, pictures, tables, settings.

    The page of one run is report.html in its folder, as each sweep leaves it. A page needs no other files.
    """
    from latentmix.commands.shared import push
    from latentmix.errors import UserError
    from latentmix.report import write_report

    runs = named_runs(runs, outputs)
    page = write_report(runs)
    say(str(page))
    if push_to_hub is not None:
        if len(runs) > 1:
            raise UserError("--push-to-hub pushes one run; name the runs one by one")
        say(push.push(page.parent, push_to_hub))
