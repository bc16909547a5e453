"""Fixtures that several files have, each its own: `site = own_site(engine=PINGS)`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.site import Site
from tests.e2e.target import Target, TargetProcess


def own_target() -> Callable[..., Any]:
    """A target of each test's own."""

    @pytest.fixture
    def target() -> Iterator[Target]:
        with Target() as made:
            yield made

    return target


def target_of_file() -> Callable[..., Any]:
    """A target that all tests of the file load, in a process of its own."""

    @pytest.fixture(scope="module")
    def target() -> Iterator[TargetProcess]:
        with TargetProcess() as made:
            yield made

    return target


def own_site(
    *, engine: dict[str, int] | None = None, server_args: Sequence[str] = ()
) -> Callable[..., Any]:
    """A running server of each test's own; indirect parameters are other `server_args`."""

    @pytest.fixture
    def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
        arguments = getattr(request, "param", server_args)
        made = Site(tmp_path / "data", engine=engine, server_args=arguments)
        yield made
        made.close()

    return site
