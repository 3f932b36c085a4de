"""Settings of a data set."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from latentmix.embedded import DRAWN
from latentmix.settings import STRICT, LocalPath, Positive, Several

MAX_MEGAPIXELS = 300  # 1.2 GB in memory
# Setting -> the kinds of data that read it. Kinds that another package adds may read any.
READERS = {"path": ("folder", "imagenet"), "hub": ("hub",), "noise": ("synthetic",), "light": tuple(DRAWN)}
READERS |= dict.fromkeys(("subset", "revision", "split", "image", "label", "synsets"), ("hub",))
BUILT_IN = {*DRAWN, "synthetic", "folder", "imagenet", "hub"}
RANDOM = re.compile(r"random:([1-9]\d*)")  # in data.classes: a number of classes to draw by the seed


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    name: str  # a label in tables and names of folders
    kind: str  # a key of data.DATASETS
    reference: Annotated[int, Field(ge=2)] | None  # real images of a class to measure against; None is all of them
    path: LocalPath | None = None
    classes: Several[str] | None = None  # None is all of them
    bad_images: Literal["refuse", "skip"] = "refuse"
    max_megapixels: Annotated[float, Field(gt=0)] = MAX_MEGAPIXELS  # larger images can't be used
    hub: LocalPath | None = None  # OWNER/NAME of a data set on the Hugging Face hub, or a folder like one
    subset: str | None = None
    revision: str | None = None
    split: str = "train"
    image: str = "image"  # the column of images
    label: str | None = "label"  # the column of classes; None takes all images as one class
    synsets: bool = False  # the classes are ImageNet's, so WordNet ids name them
    limit: Positive | None = None  # images of each class that are kept; None is all of them
    noise: Annotated[float, Field(ge=0, le=1)] = 0.0  # added to synthetic images: standard deviation, where white is 1
    light: Annotated[float, Field(ge=-255, le=255)] = 0.0  # on drawn images, from above, in grey levels
    titles: dict[str, Annotated[str, Field(min_length=1)]] | None = None  # any name of a class -> its name in prompts
    prompts: LocalPath | None = None  # a CSV file with a prompt for each image
    options: dict[str, Any] | None = None  # further settings of a kind of data that another package adds

    def __post_init__(self) -> None:
        if self.classes is not None and not self.classes:
            raise ValueError("data.classes is empty; null takes all classes")
        for entry in self.classes or ():
            if entry.startswith("random:") and (not RANDOM.fullmatch(entry) or self.classes != (entry,)):
                alone = "it stands alone (rename a class of such a name)"
                raise ValueError(f"data.classes=random:K draws K classes, where K is at least 1; {alone}")
        for field, readers in READERS.items():
            if self.kind in BUILT_IN.difference(readers) and getattr(self, field) != getattr(DataConfig, field):
                taken = " or ".join(f"data={reader}" for reader in readers)
                unread = f"data.{field} is a setting of {taken}, and nothing reads it where data.kind is {self.kind}"
                raise ValueError(f"{unread}; give data={readers[0]} with it")
        if self.limit is not None and self.limit < (self.reference or 0):
            raise ValueError(f"data.reference={self.reference} is more than data.limit={self.limit}; raise the limit")
