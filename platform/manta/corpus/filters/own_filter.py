"""A function of the user's own as a filter: `./mine.py:keep`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from manta.config.errors import ConfigError
from manta.config.own_code import OwnCode, error_in
from manta.corpus.filters.filter_verdict import Drop, Keep, Verdict

DROPPED = "dropped"


class OwnFilterError(Exception):
    """A user's function that failed on a document; its message names the function and the line."""


class OwnFilter:
    """Calls a user's function with each text.

    It returns True to keep the document, False or a `Drop` to drop it, or a text to go on with.
    """

    def __init__(self, code: OwnCode):
        self.name = f"own.{code.name}"
        self._shown = f"{code.file}:{code.name}"
        self._file = code.file
        self._function: Callable[[str], Any] = code.load()
        if not callable(self._function):
            kind = type(self._function).__name__
            raise ConfigError(
                f"{code.key} = '{self._shown}': {code.name} is not a function but {kind}"
            )

    def judge(self, text: str) -> Verdict:
        """The function's verdict.

        Raises:
            OwnFilterError: if the function raises, or returns something else.
        """
        try:
            found = self._function(text)
        except Exception as error:  # whatever the user's code raises
            raise OwnFilterError(f"{self._shown} failed: {error_in(error, self._file)}") from error
        if hasattr(found, "item"):  # a scalar of NumPy
            found = found.item()
        if isinstance(found, str):
            found = Keep(found, {"changed": 1} if found != text else {})
        if isinstance(found, Drop):
            return self._right(found)
        if isinstance(found, Keep):
            return self._checked(found)
        if found is True:
            return Keep(text)
        if found is False:
            return Drop(DROPPED)
        raise OwnFilterError(
            f"{self._shown} returned {type(found).__name__}: return True to keep the document, "
            "False or Drop(reason) to drop it, or a text to go on with"
        )

    def _right(self, found: Drop) -> Drop:
        if not isinstance(found.reason, str) or not found.reason:
            raise OwnFilterError(
                f"{self._shown} returned Drop({found.reason!r}): write a reason of a few words"
            )
        try:
            score = None if found.score is None else float(found.score)
        except (TypeError, ValueError):
            raise OwnFilterError(
                f"{self._shown} returned a Drop whose score is no number but "
                f"{type(found.score).__name__}"
            ) from None
        return Drop(found.reason, score)

    def _checked(self, found: Keep) -> Keep:
        try:
            found.text.encode()
        except UnicodeEncodeError:
            raise OwnFilterError(
                f"{self._shown} returned a text that is not valid Unicode: it has half of a "
                "surrogate pair"
            ) from None
        return found
