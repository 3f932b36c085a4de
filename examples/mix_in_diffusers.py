"""Mix two photos, and generate from the mixture in a pipeline of diffusers, by `latents=`.

python examples/mix_in_diffusers.py a.jpg b.jpg mixed.png
python examples/mix_in_diffusers.py a.jpg b.jpg mixed.png FOLDER-OR-HUB-ID "a photo of a cat"
"""

import sys

import torch
from diffusers import DDIMScheduler, DiffusionPipeline

import latentmix as lm
from latentmix.embedded import embedded_folder

first, second, out, *rest = sys.argv[1:]
model, prompt = (*rest, *(embedded_folder("tiny"), "a photo of a star")[len(rest) :])

device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
pipe = DiffusionPipeline.from_pretrained(model, torch_dtype=dtype).to(device)
# Inversion ends at the last step of training, so generation must start there: "trailing".
pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")

mixer = lm.Pipeline.from_diffusers(pipe)  # the same modules, with whatever adapters they have
z = mixer.invert([first, second], prompt, steps=20)
mixed = lm.mix(z, [0.5, 0.5], "nin/chm")

latents = mixed.tensor[None].to(dtype)
image = pipe(prompt, latents=latents, num_inference_steps=20, guidance_scale=3.0).images[0]
image.save(out)
print(out)
