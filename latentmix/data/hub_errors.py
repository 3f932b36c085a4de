"""Why the Hugging Face hub can't be read, from errors of its libraries, in one line that says what to do."""

import errno
from collections.abc import Iterator
from pathlib import Path

from latentmix.data.protocol import NotFetched, one_line
from latentmix.errors import UserError

PAGE = "https://huggingface.co/datasets/"
EXPORT = "refs/convert/parquet"  # the hub's own Parquet copy of a data set, SUBSET/SPLIT/*.parquet
# Kinds of error by name, of Python, huggingface_hub, httpx, requests and aiohttp.
NETWORK = {"ConnectionError", "TimeoutError", "TransportError", "ProtocolError", "ClientConnectionError", "gaierror"}
NO_REPOSITORY = {"DatasetNotFoundError", "RepositoryNotFoundError"}
GATED = ("gated dataset", "private or gated")
REFUSED = (401, 403)  # statuses of HTTP
TIMEOUT = 5  # seconds that a server has to answer


def explain(error: BaseException, name: str, kept: Path, instead: str = "") -> UserError:
    """Return the error that a user sees for an error of a library about data set `name`, of the hub or in a folder.

    It is `NotFetched` for a missing network, repository or permission. Other errors keep the library's words. `kept` is
    the folder of the images that were fetched, and `instead` names another data set to use.
    """
    words = one_line(error)
    if "scripts are no longer supported" in words:
        return UserError(f"{name} comes as a script, which datasets no longer runs; try data.revision={EXPORT}")
    if is_local(name):
        return UserError(f"{name} can't be read: {words}; check data.subset and data.split")
    links, kinds = list(chain(error)), set(_kinds(error))
    texts = " ".join(map(str, links))
    statuses = {getattr(getattr(link, "response", None), "status_code", None) for link in links}
    if "GatedRepoError" in kinds or any(sign in texts for sign in GATED) or statuses.intersection(REFUSED):
        login = f"accept its terms at {PAGE}{name}, then log in with `hf auth login`"
        return NotFetched(f"{name} is gated: {login}{instead}")
    if kinds & NETWORK:
        import datasets
        from huggingface_hub import constants

        is_offline = constants.is_offline_mode() or datasets.config.HF_HUB_OFFLINE
        reason = "HF_HUB_OFFLINE is set" if is_offline else "the Hugging Face hub can't be reached"
        advice = f"run this once with a network, or copy {kept} from a machine that has it{instead}"
        return NotFetched(f"{name} is not here, and {reason}; {advice}")
    if kinds & NO_REPOSITORY or "Couldn't find any data file" in texts:
        return NotFetched(f"{name} is not on the hub, or private; check data.hub and data.revision, or `hf auth login`")
    return UserError(f"{name} can't be read from the hub: {words}; check data.hub, data.subset and data.split")


def refusal(error: BaseException, hub: str, revision: str | None = None, kind: str = "model") -> str | None:
    """Return why the hub refuses a repository, from an error of its library; None for other errors."""
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{hub}"
    login = "log in with `hf auth login` (or set HF_TOKEN)"
    setting = "data=folder data.path" if kind == "dataset" else "model.path"
    reasons = {
        "GatedRepoError": f"is gated: accept its terms at {page}, and {login}",
        "RepositoryNotFoundError": f"the hub has no {hub}, or it is private: check the name, or {login}",
        "RevisionNotFoundError": f"the hub has no revision {revision} of it",
        "HFValidationError": f"{hub!r} is not OWNER/NAME, as the hub names things; give a folder as {setting}={hub}",
    }
    return next((reasons[name] for name in _kinds(error) if name in reasons), None)


def hub_refusal(hub: str, file: str, revision: str | None = None, kind: str = "model") -> str | None:
    """Return why a file of the hub can't be read from here; None if it can. A pipeline must have model_index.json."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    try:
        url = hf_hub_url(hub, file, revision=revision, repo_type=kind)  # refuses what is no OWNER/NAME
        if constants.is_offline_mode():
            return "HF_HUB_OFFLINE is set"
        get_hf_file_metadata(url, timeout=TIMEOUT)
    except Exception as error:  # of the network or the hub, from several libraries
        if (reason := refusal(error, hub, revision, kind)) is not None:
            return reason
        if "EntryNotFoundError" not in (each.__name__ for each in type(error).__mro__):
            return f"the Hugging Face hub can't be reached ({type(error).__name__})"
        if file == "model_index.json":  # if another file is missing, its repository can still be read
            return f"the hub's {hub} has no {file}, so it is no pipeline; if it has one file, get that: model.path="
    return None


def is_of_network(error: BaseException) -> bool:
    """Return True if an error, or one that led to it, says that the hub can't be reached."""
    return not {*NETWORK, "LocalEntryNotFoundError"}.isdisjoint(_kinds(error))


def disk_is_full(error: BaseException) -> bool:
    """Return True if an error, or one that led to it, says that no disk space is left."""
    return any(isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT) for link in chain(error))


def _kinds(error: BaseException) -> list[str]:
    """Return the names of the classes of an error and of those that led to it."""
    return [kind.__name__ for link in chain(error) for kind in type(link).__mro__]


def is_local(name: str) -> bool:
    """Return True if a data set is a folder of this machine: it exists, or its name can only be a path."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).exists()


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
