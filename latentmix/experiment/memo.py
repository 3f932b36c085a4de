"""Methods that compute once."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
Self = TypeVar("Self")


def cached_method(method: Callable[Concatenate[Self, P], R]) -> Callable[Concatenate[Self, P], R]:
    """Keep a method's results in its object, by the arguments.

    `functools.cache` would keep the object itself, with its networks, for as long as the process runs.
    """
    name = f"_results of {method.__qualname__}"

    @wraps(method)
    def cached(self: Self, *arguments: P.args, **named: P.kwargs) -> R:
        results: dict[Any, R] = vars(self).setdefault(name, {})
        key = arguments, tuple(named.items())
        if key not in results:
            results[key] = method(self, *arguments, **named)
        return results[key]

    return cached
