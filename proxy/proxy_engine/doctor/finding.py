"""What a check finds, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

Status = Literal["ok", "warning", "error", "skipped"]


class Finding(msgspec.Struct, kw_only=True, frozen=True):
    check: str
    status: Status
    text: str
    advice: str = ""  # what to do; "" where there is nothing


def ok(check: str, text: str) -> Finding:
    return Finding(check=check, status="ok", text=text)


def skipped(check: str, text: str) -> Finding:
    return Finding(check=check, status="skipped", text=text)


def warning(check: str, text: str, advice: str) -> Finding:
    return Finding(check=check, status="warning", text=text, advice=advice)


def error(check: str, text: str, advice: str) -> Finding:
    return Finding(check=check, status="error", text=text, advice=advice)


def has_errors(findings: Iterable[Finding]) -> bool:
    return any(each.status == "error" for each in findings)


Findings = Iterator[Finding]
