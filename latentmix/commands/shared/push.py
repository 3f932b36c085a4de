"""`--push-to-hub`: a finished run as a data set of the Hugging Face hub, with a card that shows its table."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from latentmix.data.hub_errors import is_of_network
from latentmix.data.protocol import one_line
from latentmix.errors import UserError
from latentmix.experiment.comparison import Run, read_runs
from latentmix.experiment.csv_files import interval, three_digits
from latentmix.experiment.results_table import AVERAGE

FILES = ("*.csv", "*.parquet", "*.png", "*.pdf", "*.svg", "config.yaml", "diagnosis.json", "report.html")
METRICS_SHOWN = 2  # the first of a run's


def require(repository: str) -> None:
    """Raise UserError unless `repository` can be a repository's name, and the hub may be asked by somebody."""
    from huggingface_hub import constants, get_token, hf_hub_url
    from huggingface_hub.errors import HFValidationError

    if not re.fullmatch(r"[^/]+/[^/]+", repository):
        raise UserError(f"--push-to-hub={repository} is not OWNER/NAME")
    try:
        hf_hub_url(repository, "README.md")  # which looks at the name alone
    except HFValidationError as error:
        raise UserError(f"--push-to-hub={repository} can't be a repository: {one_line(error)}") from error
    if constants.is_offline_mode():
        raise UserError("--push-to-hub needs the network, and HF_HUB_OFFLINE is set; unset it")
    if get_token() is None:
        raise UserError("--push-to-hub needs a login: run hf auth login, or set HF_TOKEN")


def push(folder: Path, repository: str) -> str:
    """Upload a finished run's tables, figures, page and a card, in one commit. Return the address of the repository.

    Raises: UserError if the run is not finished, or the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    require(repository)
    (run,) = read_runs([str(folder)])
    files = sorted({path for pattern in FILES for path in folder.glob(pattern)})
    operations = [CommitOperationAdd(path.name, path) for path in files]
    operations.append(CommitOperationAdd("README.md", card(run, [path.name for path in files]).encode()))
    api = HfApi()
    try:
        address = api.create_repo(repository, repo_type="dataset", exist_ok=True)
        api.create_commit(repository, operations, commit_message=f"Results of {run.label}", repo_type="dataset")
    except Exception as error:  # of httpx, of the hub's library, of the system
        reason = "the hub can't be reached" if is_of_network(error) else one_line(error)
        again = f"push again by latentmix report {folder} --push-to-hub {repository}"
        raise UserError(f"{repository} could not be written: {reason}; the results are in {folder}; {again}") from error
    return str(address)


def card(run: Run, files: Sequence[str]) -> str:
    """Return the README.md of a repository: what was run, the averages of the first metrics, the figures."""
    names = [str(run.config[part]["name"]) for part in ("model", "data", "inversion")]
    header = {"tags": ["latentmix", "latent-interpolation", "diffusion"], "pretty_name": run.label}
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in header.items()), "configs:"]
    lines += ["- config_name: metrics", "  data_files: metrics.csv", "---", f"# {run.label}", ""]
    lines += [f"Images from mixtures of inverted latents: {names[0]}, {names[1]}, inverted by {names[2]}.", ""]
    for metric in run.metrics[:METRICS_SHOWN]:
        lines += _table(run, metric)
    lines += [f"![{name}]({name})" for name in files if name.endswith(".png")]
    lines += ["", "All numbers are in `metrics.csv`, all settings in `config.yaml`."]
    if arguments := run.about.get("arguments"):
        lines += ["", f"    latentmix {' '.join(map(str, arguments))}"]
    return "\n".join([*lines, ""])


def _table(run: Run, metric: str) -> list[str]:
    """Return a table of averages over classes in Markdown."""
    averages = {(r.method, r.n): r.estimate for r in run.results if (r.class_id, r.metric) == (AVERAGE, metric)}
    ns = sorted({n for _, n in averages if n})
    rows = [f"| `{metric}` | {' | '.join(f'N = {n}' for n in ns)} |", f"|---{'|---' * len(ns)}|"]
    for method in dict.fromkeys(method for method, _ in averages):
        cells = (averages.get((method, n)) or averages.get((method, 0)) for n in ns)
        shown = ("-" if e is None else "{} [{}, {}]".format(*map(three_digits, interval(e))) for e in cells)
        rows.append(f"| {method} | {' | '.join(shown)} |")
    return [*rows, ""]
