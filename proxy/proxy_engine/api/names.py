"""Parameters that several topics have."""

from __future__ import annotations

from typing import Annotated

import msgspec

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
Name = Annotated[str, msgspec.Meta(pattern=NAME, description="letters, digits, `.`, `_` and `-`")]


class Named(msgspec.Struct):
    """A path that ends in a name."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=63)]
