"""The folders of runs, found by their names in all folders of outputs that were used before."""

from contextlib import suppress
from pathlib import Path

from latentmix.compose import compose
from latentmix.errors import UserError
from latentmix.settings import expand_home
from latentmix.storage import read_json, user_cache, write_json


def find_run(run: str) -> Path:
    """Return a run's folder, by its path, or by its name in any folder of outputs used before. Raises: UserError."""
    if (path := Path(expand_home(run))).is_dir():
        return path if path.name not in ("", "..") else path.resolve()  # callers use its name, which "." lacks
    outputs, run = compose([]).outputs, str(Path(run))  # without a slash at the end
    named = (folder / run for folder in (outputs, *_used_outputs()) if Path(run).name == run)
    found = list(dict.fromkeys(folder for folder in named if folder.is_dir()))
    if len(found) > 1 and found[0] != outputs / run:
        raise UserError(f"there are several runs {run!r}; give the folder: {' or '.join(map(str, found))}")
    if found:
        return found[0]
    done = sorted(path.parent.name for path in outputs.glob("*/done.json"))
    raise UserError(f"there is no run {run!r}, as a folder or as a name; in {outputs} are {', '.join(done) or 'none'}")


def remember_outputs(folder: Path) -> None:
    """Record a folder of outputs in the user's cache for `find_run`. Do nothing if that can't be written."""
    used = _used_outputs()
    if (folder := folder.absolute()) not in used:
        with suppress(UserError):
            write_json(user_cache() / "outputs.json", {"folders": [str(path) for path in (folder, *used)][:50]})


def _used_outputs() -> list[Path]:
    folders = read_json(user_cache() / "outputs.json").get("folders")
    return [Path(folder) for folder in folders if Path(folder).is_dir()] if isinstance(folders, list) else []
