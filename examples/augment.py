"""Make a training set of mixtures from a few labelled photos, and read it with torchvision.

python examples/augment.py photos photos500                              # photos/CLASS/*.jpg, or png
python examples/augment.py photos photos500 per_class=500 model=sd15 steps=30
"""

import csv
import sys
from collections import Counter
from pathlib import Path

from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

import latentmix as lm

source, out, *settings = sys.argv[1:]
count = next((int(text.partition("=")[2]) for text in settings if text.startswith("per_class=")), 16)
overrides = [text for text in settings if not text.startswith("per_class=")]

lm.augment(source, out, *overrides, per_class=count, of="2-3", method="nin/chm")

dataset = ImageFolder(str(Path(out, "train")), ToTensor())
images, labels = next(iter(DataLoader(dataset, batch_size=8, shuffle=True)))
print(tuple(images.shape), {dataset.classes[label]: n for label, n in Counter(dataset.targets).items()})

with next(Path(out).rglob("metadata.csv")).open(newline="") as file:  # what each image was mixed from
    print(next(csv.DictReader(file)))
