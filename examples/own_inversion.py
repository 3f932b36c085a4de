"""Write an inversion: Heun's method, of second order. Compare the error of its round trip with that of DDIM.

python examples/own_inversion.py a.jpg b.jpg
python examples/own_inversion.py a.jpg b.jpg model=sd15 steps=20
"""

import sys

import torch

import latentmix as lm
from latentmix.data.caller_images import read_pictures
from latentmix.inversion.base import Inversion
from latentmix.sampling import move


@torch.no_grad()
def heun(model, z, schedule, cond, settings):
    """Move each latent by the mean of the velocities at both ends of a step."""
    for step in schedule:
        x0, eps = model.predict(z, step.clean, step.timestep, cond)
        guess = move(z, step.clean, step.noisy, x0, eps)
        x0_there, eps_there = model.predict(guess, step.noisy, step.timestep, cond)
        z = move(z, step.clean, step.noisy, (x0 + x0_there) / 2, (eps + eps_there) / 2)
    return {"latents": z}


settings = dict(text.split("=", 1) for text in sys.argv[1:] if "=" in text)
photos = [text for text in sys.argv[1:] if "=" not in text]
pipe = lm.Pipeline.from_pretrained(settings.get("model", "tiny"))
pixels, _ = read_pictures(photos, pipe.config.model.size)

for name, inversion in {"ddim": "ddim", "heun": Inversion(heun)}.items():
    z = pipe.invert(photos, "a photo", inversion, steps=int(settings.get("steps", 20)))
    images = pipe.generate(z, guidance=1.0, output="tensor")
    print(f"{name}: {(images.float() - pixels).square().mean().sqrt():.1f} levels of 255 (RMS)")
