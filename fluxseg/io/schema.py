"""Plain values of a JSON file as objects of declared types: one check for all that is read back."""

from typing import Any, TypeVar

import msgspec

from fluxseg.errors import FluxsegError, WorkdirError

T = TypeVar("T")


def from_plain(
    values: Any,
    kind: type[T],
    name: str = "",
    advice: str = "",
    error: type[FluxsegError] = WorkdirError,
) -> T:
    """Build an object of a type from the plain values that `json` gives, as its type hints declare.

    Whole numbers do for floats. Fields that are missing take their defaults; others that the type
    does not have are left out. Checks of its own, in `__post_init__`, are run. Raises `error`,
    whose text names the file (`name`), the field, what is wrong, and what to do about it
    (`advice`).
    """
    try:
        return msgspec.convert(values, kind)
    except (msgspec.ValidationError, UnicodeError, FluxsegError) as problem:
        # A text with half a surrogate pair is no text for msgspec.
        # The object's own check says all; msgspec wraps those of its errors that are ValueErrors.
        own = problem if isinstance(problem, FluxsegError) else problem.__cause__
        text, _, path = str(own or problem).partition(" - at `$")
        field = path.rstrip("`").lstrip(".")
        text = text if own else text[:1].lower() + text[1:]
        text = f"{field}: {text}" if field else text
        text = f"is damaged ({text}); {advice}" if advice else text
        raise error(f"{name}: {text}" if name else text) from problem
