"""The inversions by name. A new one is a file beside this one and a line below, or an entry point of another package.

Its preset is in configs/inversion/.
"""

from collections.abc import Mapping

from latentmix.inversion.base import Inversion
from latentmix.inversion.ddim import DDIM, NEGATIVE_PROMPT
from latentmix.inversion.exact import EXACT
from latentmix.inversion.fixed_point import FIXED_POINT
from latentmix.inversion.forward import FORWARD
from latentmix.inversion.midpoint import MIDPOINT
from latentmix.inversion.null_text import NULL_TEXT
from latentmix.inversion.renoise import RENOISE
from latentmix.plugins import Table

INVERSIONS: Mapping[str, Inversion] = Table(
    "inversions",
    {
        "ddim": DDIM,
        "negative_prompt": NEGATIVE_PROMPT,
        "null_text": NULL_TEXT,
        "fixed_point": FIXED_POINT,
        "renoise": RENOISE,
        "midpoint": MIDPOINT,
        "exact": EXACT,
        "forward": FORWARD,
    },
    kind=Inversion,
)
