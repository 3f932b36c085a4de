"""Checks of the images and classes that a run reads."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from latentmix.checks.downloads import elsewhere
from latentmix.checks.finding import Finding
from latentmix.data import Dataset, NotFetched
from latentmix.data.hub_errors import hub_refusal
from latentmix.embedded import DRAWN
from latentmix.errors import UserError
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.stages import Read
from latentmix.storage import user_cache

NO_NAME = re.compile(r"n\d{8}|\d+")  # a WordNet id, or a number


def check_data(experiment: Experiment, needed: Collection[Read]) -> Finding:
    """Return a finding on the data: whether classes, and images of pools and references, if `needed`, are here.

    Those of a data set of the hub may also be downloaded later.
    """
    images = "pool" in needed
    if experiment.data.dataset.repository() is not None:
        import datasets  # noqa: F401 - on import it reads HF_HUB_OFFLINE, before `offline` sets it
    try:
        with offline():
            for class_id in experiment.classes:
                experiment.data.prompt(class_id)
                if images:
                    experiment.data.pool(class_id)
                if "references" in needed:
                    experiment.data.references(class_id)
    except NotFetched:
        return _elsewhere(experiment.data.dataset, images)
    except UserError as error:
        return Finding("missing", "data", str(error))
    if experiment.data.dataset.from_model:
        return Finding("ok", "data", f"{class_count(experiment)}; the model generates their images")
    enough = "with enough images" if images else "of which only the names are needed"
    return Finding("ok", "data", f"{class_count(experiment)} of {experiment.config.data.name}, {enough}")


def class_count(experiment: Experiment) -> str:
    """Return the number of classes as text, such as "3 classes"."""
    return f"{len(experiment.classes)} class{'es' if len(experiment.classes) > 1 else ''}"


def doubts(experiment: Experiment) -> list[Finding]:
    """Return warnings of settings that run, but whose results would be misleading."""
    model, data = experiment.config.model, experiment.data.dataset
    texts = []
    if model.domain == "imagenet" and data.domain in DRAWN:
        texts.append(f"{model.name} knows photographs, not drawn images; take data=imagenet or another of photographs")
    if model.embedded and model.path is None and data.domain != model.domain and not data.from_model:
        images = f"data={data.domain}" if data.domain in DRAWN else "other images"
        other = DRAWN.get(data.domain, "sd15")
        texts.append(f"{model.name} knows nothing but data={model.domain}; take model={other} for {images}")
    nameless = [class_id for class_id in experiment.classes if NO_NAME.fullmatch(experiment.data.title(class_id))]
    if nameless:
        imagenet = "for ImageNet's classes take data=imagenet, or with data=hub data.synsets=true"
        setting = f"'data.titles={{{nameless[0]}: NAME}}'"
        texts.append(f"a prompt is {experiment.data.prompt(nameless[0])!r}; name the class with {setting}; {imagenet}")
    titles: dict[str, list[str]] = {}
    for class_id in data.classes():
        titles.setdefault(experiment.data.title(class_id).casefold(), []).append(class_id)
    for alike in titles.values():
        if len(alike) > 1 and not set(experiment.classes).isdisjoint(alike):
            names, title = " and ".join(alike), experiment.data.title(alike[0])
            setting = f"'data.titles={{{alike[0]}: another name}}'"
            texts.append(f"prompts call {names} by the same name, {title!r}; tell them apart with {setting}")
    return [Finding("warning", "meaning", text) for text in texts]


def _elsewhere(data: Dataset, images: bool) -> Finding:
    hub = str(data.repository())
    refusal = hub_refusal(hub, ".gitattributes", kind="dataset")
    if refusal is None:
        text = f"{hub} is not all here yet; latentmix fetch gets what is needed of it, otherwise the run does"
        return Finding("fetch", "data", f"{text}: {data.volume(images)}")
    advice = elsewhere(f"its latentmix cache to {user_cache()}")
    return Finding("missing", "data", f"{hub} is not here, and {refusal}", (advice,))


@contextmanager
def offline() -> Iterator[None]:
    """Let requests to the hub fail at once in this context, so that nothing is downloaded."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
