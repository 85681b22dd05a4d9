"""strawberry's decorators with their types kept and a description each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import strawberry

F = TypeVar("F", bound=Callable[..., Any])


def field(description: str, *, name: str | None = None) -> Callable[[F], F]:
    """A resolver of a field."""

    def decorate(resolver: F) -> F:
        return cast(F, strawberry.field(resolver=resolver, description=description, name=name))

    return decorate


def subscription(description: str, *, name: str | None = None) -> Callable[[F], F]:
    """A resolver of a subscription."""

    def decorate(resolver: F) -> F:
        return cast(F, strawberry.subscription(resolver=resolver, description=description, name=name))

    return decorate
