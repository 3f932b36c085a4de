"""Morph from photo to photo and back, as an animated GIF; `latentmix morph` does the same from a shell, also as mp4.

python examples/morph.py a.jpg b.jpg c.jpg morph.gif
python examples/morph.py a.jpg b.jpg morph.gif model=sd15 steps=30 "prompt=a photo of a dog"
"""

import sys

import latentmix as lm

settings = dict(text.split("=", 1) for text in sys.argv[1:] if "=" in text)
*photos, out = (text for text in sys.argv[1:] if "=" not in text)

pipe = lm.Pipeline.from_pretrained(settings.get("model", "tiny"))
frames = pipe.morph(
    photos,
    frames=int(settings.get("frames", 24)),
    prompts=settings.get("prompt", ""),
    steps=int(settings.get("steps", 50)),
    loop=True,
)
frames[0].save(out, save_all=True, append_images=frames[1:], duration=80, loop=0)
print(out)
