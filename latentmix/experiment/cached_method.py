"""Methods that compute once."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def cached_method(method: Callable[[Any, Argument], Result]) -> Callable[[Any, Argument], Result]:
    """Decorate a method of one argument: keep its results in the object.

    `functools.cache` would keep the object itself, with its networks, for as long as the process runs.
    """

    @wraps(method)
    def cached(self: Any, argument: Argument) -> Result:
        results: dict[Argument, Result] = vars(self).setdefault(f"_results of {method.__qualname__}", {})
        if argument not in results:
            results[argument] = method(self, argument)
        return results[argument]

    return cached
