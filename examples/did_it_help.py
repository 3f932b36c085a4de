"""Compare a classifier that learns from real photos with one that learns from mixtures, too, on photos held out.

python examples/did_it_help.py photos photos500/train held_out dinov2   # CLASS/*.jpg in each; a network of lm.features

The classifier is ridge regression on frozen features. Images in `held_out` must not be among those that were mixed.
"""

import sys
from itertools import groupby

import torch
from PIL import Image, ImageOps
from torchvision.datasets import ImageFolder

import latentmix as lm

*folders, network = sys.argv[1:]
extract, data = lm.features(network), [ImageFolder(folder) for folder in folders]
assert all(each.classes == data[0].classes for each in data), "the folders have different classes"


def load(samples):  # in batches of up to 32 photos of one size
    photos = ((i // 32, ImageOps.exif_transpose(Image.open(path))) for i, (path, _) in enumerate(samples))
    batches = groupby(photos, lambda photo: (photo[0], photo[1].size))
    features = [extract([photo for _, photo in batch]) for _, batch in batches]
    return torch.cat(features).double().cpu(), torch.tensor([label for _, label in samples])


def correct(x, y, x_test, y_test):
    """Return the share of test images that are classified correctly, with its interval over these images."""
    labels = torch.nn.functional.one_hot(y).double()
    weights = torch.linalg.solve(x.T @ x + len(x) * torch.eye(x.shape[1]), x.T @ (labels - labels.mean(0)))
    return lm.metrics.mean(((x_test @ weights + labels.mean(0)).argmax(1) == y_test).double(), (0.0, 1.0))


(x, y), (x_mixed, y_mixed), (x_test, y_test) = (load(each.samples) for each in data)
x, x_mixed, x_test = ((each - x.mean(0)) / x.std(0).clamp_min(1e-6) for each in (x, x_mixed, x_test))
real, both = correct(x, y, x_test, y_test), correct(torch.cat([x, x_mixed]), torch.cat([y, y_mixed]), x_test, y_test)
for name, e in ("real", real.interval()), ("both", both.interval()), ("gain", lm.metrics.paired(both, real).difference):
    print(f"{name} {e.value:.3f} [{e.low:.3f}, {e.high:.3f}]")
