"""Data sets: each lists its classes and the images of each class; see `protocol.Dataset`. `registry.py` lists them."""

from latentmix.data.class_choice import choose, is_plain
from latentmix.data.protocol import Dataset, NotFetched, Source
from latentmix.data.registry import DATASETS, load_dataset

__all__ = ["DATASETS", "Dataset", "NotFetched", "Source", "choose", "is_plain", "load_dataset"]
