"""Types that all settings classes share. They need pydantic alone, so every room can declare its own settings."""

from typing import Annotated

from pydantic import ConfigDict, Field

STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
Positive = Annotated[int, Field(gt=0)]
Guidance = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # 1 is no guidance
