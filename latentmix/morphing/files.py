"""Write frames as mp4, gif, webp, or numbered PNGs, by the ending of the file's name."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from torch import Tensor

from latentmix.errors import UserError, optional_imports
from latentmix.images import encoded, to_pil
from latentmix.storage import write_atomic

SLOWEST = 0.01  # frames per second
RATES = {".mp4": 1000, ".gif": 50, ".webp": 1000, ".png": math.inf}  # the most frames per second that a file can have
Frames = Sequence[Image.Image]


def check_ending(path: Path) -> None:
    """Raise UserError where no writer has a file's ending, or the writer's package is not installed."""
    if path.suffix.lower() not in WRITERS:
        raise UserError(f"{path} must end in {', '.join(WRITERS)}, which says what to write")
    if path.suffix.lower() == ".mp4":
        with optional_imports():
            import av  # noqa: F401


def check_rate(path: Path, fps: float) -> None:
    """Raise UserError for frames per second that a file of this ending can't have."""
    most = RATES[path.suffix.lower()]
    if not SLOWEST <= fps <= most:
        raise UserError(f"--fps {fps:g} must be from {SLOWEST:g} to {most:g}, which a {path.suffix} file can have")


def write_frames(path: Path, images: Tensor, fps: float, loop: bool = False) -> list[Path]:
    """Write frames, uint8 [F, 3, H, W]. Return what was written: a file, or a PNG for each frame.

    gif and webp repeat for ever if `loop`. Raises: UserError for an unknown ending.
    """
    check_ending(path)
    frames = to_pil(images)
    if path.suffix.lower() == ".png":
        digits = max(4, len(str(len(frames))))
        paths = [path.with_name(f"{path.stem}-{index:0{digits}}.png") for index in range(len(frames))]
        for file, frame in zip(paths, frames, strict=True):
            write_atomic(file, encoded(frame, "PNG"))
        return paths
    WRITERS[path.suffix.lower()](path, frames, fps, loop)
    return [path]


def _gif(path: Path, frames: Frames, fps: float, loop: bool) -> None:
    """Write a GIF, with a palette for each frame. Frames last whole hundredths of a second, rounded without drift."""
    indexed = [frame.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG) for frame in frames]
    times = [round(100 * (i + 1) / fps) - round(100 * i / fps) for i in range(len(frames))]
    options = {"save_all": True, "append_images": indexed[1:], "duration": [10 * t for t in times]}
    write_atomic(path, encoded(indexed[0], "GIF", **options, **({"loop": 0} if loop else {})))


def _webp(path: Path, frames: Frames, fps: float, loop: bool) -> None:
    options = {"append_images": frames[1:], "duration": round(1000 / fps), "loop": 0 if loop else 1}
    write_atomic(path, encoded(frames[0], "WEBP", save_all=True, quality=90, method=4, **options))


def _mp4(path: Path, frames: Frames, fps: float, loop: bool) -> None:
    """Write H.264 with pixels in yuv420p, which every player reads. It needs even sides, so images are cropped."""
    import av

    width, height = (side - side % 2 for side in frames[0].size)
    with TemporaryDirectory() as folder:
        file = Path(folder, "video.mp4")
        with av.open(str(file), "w", options={"movflags": "faststart"}) as video:  # so that it plays while it loads
            stream = video.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "16"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for frame in frames:
                video.mux(stream.encode(av.VideoFrame.from_image(frame.crop((0, 0, width, height)))))
            video.mux(stream.encode())
        write_atomic(path, file.read_bytes())


WRITERS: dict[str, Callable[[Path, Frames, float, bool], None]] = {
    ".mp4": _mp4,
    ".gif": _gif,
    ".webp": _webp,
    ".png": lambda path, frames, fps, loop: None,  # a file for each frame, written above
}
