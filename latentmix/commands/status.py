"""`latentmix status`: the progress of a run, and its workers."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from latentmix.errors import UserError
from latentmix.experiment.comparison import read_runs
from latentmix.run_folders import find_run
from latentmix.runner.status import Progress, Worker, progress, workers


def run(name: str) -> None:
    """Print the progress of a run's stages and its workers; raise UserError if no stage was ever planned."""
    folder = find_run(name)
    stages, members, console = progress(folder / "work"), workers(folder / "work"), Console()
    if not stages:
        raise UserError(
            f"no stage of a run has been planned in {folder}; check the name, or wait until the run has begun"
        )
    console.print(f"{folder}: {_summary(folder, stages, members)}", soft_wrap=True, highlight=False, markup=False)
    table = Table("images", "done", "running", "left")
    for stage in stages:
        if stage.total:
            table.add_row(stage.stage, f"{stage.finished:,}", f"{stage.running:,}", f"{stage.left:,}")
    console.print(table)
    if members:
        table = Table("worker", "shard", "doing", "last heartbeat")
        for member in members:
            state = ": no progress" if member.stuck else ": lost"
            lost = f"{state}; other workers take over its task" if member.lost else ""
            table.add_row(member.name, member.shard, member.doing or "-", f"{member.silent:.0f} s ago{lost}")
        console.print(table)


def _summary(folder: Path, stages: list[Progress], members: list[Worker]) -> str:
    alive = sum(not member.lost for member in members)
    if alive:
        return f"{alive} at work" + (f", {len(members) - alive} lost" if alive < len(members) else "")
    if any(stage.running or stage.left for stage in stages):
        return "stopped; it continues when its queued jobs start, or when its command is given again"
    if not all((folder / name).exists() for name in ("done.json", "metrics.csv")):
        return (
            "all images are done; the results are not written yet: give the command again, without --shard or launch="
        )
    try:
        (run,) = read_runs([str(folder)])
        _ = run.samples, run.diagnosis, run.round_trip
    except UserError as error:
        return f"all images are done, but {error}"
    return f"finished; the results are in {folder / 'metrics.csv'}"
