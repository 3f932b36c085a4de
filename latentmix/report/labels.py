"""What methods, controls and metrics are, in plain words."""

QUESTION = (
    "Images are inverted into the latent space of a diffusion model, N of these latents are mixed into one, and an "
    "image is generated from the mixture. Which way of mixing still gives good images as N grows?"
)
NORMS = {
    "lin": "the plain mean",
    "fix": "its norm restored to √L, that of Gaussian noise",
    "nin": "its norm restored to that of the inputs",
    "slerp": "the mean on the sphere, at the norm of the inputs",
    "lol": "divided by √Σw², which restores the variance of noise",
    "adain": "the mean on the sphere, each channel brought to the inputs' mean and deviation",
    "nao": "found by an optimisation that keeps to the norms of noise",
}
MEANS = {
    "0": "nothing set aside",
    "m": "the mean of each latent set aside first",
    "chm": "the mean of each channel set aside first",
    "lp": "the slow part of each channel set aside first",
}
CONTROLS = {  # what mixtures are seen beside
    "real": "real images; one half of them measured against the other",
    "noise": "images generated from random latents",
}
METRICS = {  # by how their names begin: in words, and which values are better
    "fid": ("FID", "lower"),
    "fid_infinity": ("FID∞", "lower"),
    "fd": ("Fréchet distance", "lower"),
    "fd_infinity": ("Fréchet distance for infinitely many images", "lower"),
    "kid": ("KID", "lower"),
    "kd": ("Kernel distance", "lower"),
    "cmmd": ("CMMD", "lower"),
    "clip_distance": ("CLIP cosine distance", "lower"),
    "clip_distance_raw": ("CLIP cosine distance to the unnormalised mean", "lower"),
    "clip_score": ("CLIP score", "higher"),
    "precision": ("Precision", "higher"),
    "recall": ("Recall", "higher"),
    "density": ("Density", "higher"),
    "coverage": ("Coverage", "higher"),
    "diversity": ("Diversity", ""),  # the nearest to real images' is the best
}


def metric(name: str) -> dict[str, str]:
    """A metric in words, with the network that it was taken in; one that is not known goes by its name."""
    known = [start for start in METRICS if name == start or name.startswith(f"{start}_")]
    if not known:
        return {"name": name, "label": name, "better": ""}
    start = max(known, key=len)
    label, better = METRICS[start]
    network = name[len(start) + 1 :]
    return {"name": name, "label": f"{label} ({network})" if network else label, "better": better}
