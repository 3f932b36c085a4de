"""Write a metric: how much contrast is left in mixtures of N photos. Compare methods by it, with intervals.

python examples/own_metric.py photos/*.jpg
python examples/own_metric.py photos/*.jpg model=sd15 steps=30
"""

import sys

import torch

import latentmix as lm


def contrast(images):
    """Return the standard deviation of the brightness of each image, uint8 [K, 3, H, W] -> [K]."""
    return images.float().mean(1).flatten(1).std(1)


settings = dict(text.split("=", 1) for text in sys.argv[1:] if "=" in text)
photos = [text for text in sys.argv[1:] if "=" not in text]
pipe = lm.Pipeline.from_pretrained(settings.get("model", "tiny"))
z = pipe.invert(photos, "a photo", steps=int(settings.get("steps", 20)))

draws, generator = 8, torch.Generator().manual_seed(0)
n = max(2, len(photos) // 2)
subsets = [torch.randperm(len(photos), generator=generator)[:n] for _ in range(draws)]
weights = torch.zeros(draws, len(photos)).scatter_(1, torch.stack(subsets), 1 / n)

for method in ("lin/0", "fix/0", "nin/chm"):
    images = pipe.generate(lm.mix(z, weights, method), output="tensor")
    mean = lm.metrics.mean_interval(contrast(images).double())
    print(f"{method:8} contrast of {n} photos mixed: {mean.value:.1f} [{mean.low:.1f}, {mean.high:.1f}]")
