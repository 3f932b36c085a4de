"""Console output of a run: progress bars, the plan of a dry run, and a profile."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as Bar
from rich.table import Table
from rich.text import Text

from latentmix.profiling import Profile
from latentmix.runner.progress import is_shown, report
from latentmix.runner.tasks import Stage

Show = Callable[[str, int], None]  # takes a label for the current task, and the number of items that remain


class Rate(ProgressColumn):
    """The rate of a bar in images per second."""

    def render(self, task: Bar) -> Text:
        """Return the rate as text; empty while it is not known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} images/s", style="progress.data.speed")


def bars(*more: ProgressColumn) -> Progress:
    """Return progress bars on standard error, with further columns."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), *more)
    return Progress(*columns, console=Console(stderr=True), speed_estimate_period=120, disable=not is_shown())


@contextmanager
def stage_bar(stage: Stage) -> Iterator[Show]:
    """Show a progress bar of a stage in this context. Yield the function that moves it."""
    total = stage.items + stage.finished
    labels = TextColumn("{task.fields[label]}", markup=False)  # a class may have any name
    with bars(Rate(), labels) as progress:
        bar = progress.add_task(stage.name, total=total, completed=stage.finished, label="")

        def show(label: str, remaining: int) -> None:
            progress.update(bar, label=label, completed=total - remaining)
            report(stage.name, total - remaining, total)

        yield show


def say(text: str) -> None:
    """Print a line about the run to standard error."""
    Console(stderr=True, quiet=not is_shown()).print(text, markup=False)  # paths and classes may have brackets


def show_plan(stages: Sequence[Stage], seconds: Iterable[float | None]) -> None:
    """Print what a run would do; `seconds` are the estimates of the stages, None where not known."""
    table = Table("stage", "to do", "done before", "network evaluations", "time")
    for stage, estimate in zip(stages, seconds, strict=True):
        if stage.tasks or stage.finished:
            time = "not known yet" if estimate is None else duration(estimate)
            table.add_row(stage.name, f"{stage.items:,}", f"{stage.finished:,}", f"{stage.nfe:,}", time)
    Console().print(table)


def show_profile(profile: Profile) -> None:
    """Print where the time of a command went."""
    table = Table("spent on", "seconds", "share", title=f"{profile.in_networks:.1%} of the time in networks")
    for name, seconds in sorted(profile.seconds.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{seconds:.1f}", f"{seconds / profile.whole:.1%}")
    Console().print(table)


def duration(seconds: float) -> str:
    """Return a time as text, such as "3 min 07 s" or "12 days"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 100:
        return f"{hours / 24:,.0f} days"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
