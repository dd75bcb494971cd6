"""A table of names whose things are imported only when asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Generic, TypeVar, cast

from datahall.core.errors import NotFoundError, UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps a name to `module:attribute`, so that listing the choices imports none of them."""

    def __init__(self, what: str, places: dict[str, str], *, extras: dict[str, str] | None = None) -> None:
        self.what = what
        self._places = places
        self._extras = extras or {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names, sorted."""
        return tuple(sorted(self._places))

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def load(self, name: str) -> T:
        """Import and return the thing called `name`.

        Raises NotFoundError for an unknown name and UserError, with the line to run, for a missing extra.
        """
        if name not in self._places:
            raise NotFoundError(f"there is no {self.what} '{name}'", hint=f"choose one of: {', '.join(self.names)}")
        module, _, attribute = self._places[name].partition(":")
        try:
            return cast("T", getattr(import_module(module), attribute))
        except ModuleNotFoundError as error:
            extra = self._extras.get(name)
            if extra is None:
                raise
            raise UserError(
                f"the {self.what} '{name}' needs the package '{error.name}'",
                hint=f"install it with: pip install 'datahall[{extra}]'",
            ) from error
