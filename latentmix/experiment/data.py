"""The data of a run: its classes, and the images, the title and the prompt of each."""

from functools import cached_property
from pathlib import Path

from latentmix.config import Config
from latentmix.data import Dataset, Source, choose
from latentmix.data.prompts import Prompts
from latentmix.data.synthetic import Synthetic
from latentmix.errors import UserError
from latentmix.experiment.cached_method import cached_method


class RunData:
    """The classes that a run chooses of a data set. Images are fetched when they are first asked for."""

    reserved: tuple[str, ...] = ("all",)  # names that no class may have, as tables use them for averages

    def __init__(self, config: Config, dataset: Dataset) -> None:
        self.config = config
        self.dataset = dataset

    @property
    def own_folders(self) -> list[Path]:
        """Return the folders that the run writes images to instead of reading real ones: one for synthetic data."""
        return [self.dataset.folder] if isinstance(self.dataset, Synthetic) else []

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Return the identifiers of the run's classes."""
        return choose(self.dataset, self.config.data.classes, self.config.seed, self.reserved)

    def class_of(self, name: str | None) -> str:
        """Return the identifier of a class of the run, by default the first one; raise UserError for any other."""
        class_id = self.classes[0] if name is None else self.dataset.resolve(name)
        if class_id not in self.classes:
            raise UserError(f"{class_id!r} is not among the classes of this run: {', '.join(self.classes)}")
        return class_id

    @cached_method
    def pool(self, class_id: str) -> list[Source]:
        """Return the images of a class that are inverted and mixed, with prompts of their own if the run has some."""
        return self.prompted(self.fetched.images(class_id, self.config.pool), class_id)

    @cached_method
    def references(self, class_id: str) -> list[Source]:
        """Return the real images of a class that generated images are compared with."""
        return self.fetched.images(class_id, self.config.data.reference)

    @cached_property
    def fetched(self) -> Dataset:
        """Return the data set, with all images of the run's classes on this machine."""
        self.dataset.fetch(self.classes)
        return self.dataset

    def prompted(self, sources: list[Source], class_id: str) -> list[Source]:
        """Return images of a class with the prompts of their own that `data.prompts` has."""
        none = self.config.data.prompts is None
        return sources if none else self._prompts.given_to(sources, f"class {class_id!r}")

    @cached_property
    def _prompts(self) -> Prompts:
        """Return the prompts of images by file name."""
        return Prompts(Path(str(self.config.data.prompts)))

    @cached_property
    def own_prompts(self) -> dict[str, str]:
        """Return the prompts of images that have one of their own, by image id."""
        if self.config.data.prompts is None:
            return {}
        return {source.id: source.prompt for name in self.classes for source in self.pool(name) if source.prompt}

    def prompt(self, class_id: str) -> str:
        """Return the prompt of a class."""
        return self.config.model.prompt.format(self.title(class_id))

    def title(self, class_id: str) -> str:
        """Return the name of a class in prompts and figures."""
        return self.titles.get(class_id) or self.dataset.title(class_id)

    @cached_property
    def titles(self) -> dict[str, str]:
        """Return the titles that the config sets; raise UserError if one is for a class that does not exist."""
        return {self.dataset.resolve(name): title for name, title in (self.config.data.titles or {}).items()}
