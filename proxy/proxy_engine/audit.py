"""A record of every write by an admin, kept before the write is tried and closed after it.

So a write without a record does not happen: when the record can not be kept, the write is
refused. A record without an outcome says that the server ended in between.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from proxy_engine import failures, logs
from proxy_engine.errors import StorageError
from proxy_engine.storage import AuditRecord, Store

LOCAL = "local"  # who has the data dir needs no token
SIGNAL = "signal"  # ... nor who may send the server one
TEXT_MAX = 255  # characters of each text

_log = logs.get("audit")


def describe(given: Mapping[str, Any]) -> str:
    """What was given, for the record: names, and values only where they can not be secrets."""
    return ", ".join(_described(given, ""))


def _described(given: Mapping[str, Any], path: str) -> list[str]:
    found: list[str] = []
    for name, value in given.items():
        if isinstance(value, Mapping) and path.count(".") < 1:
            found += _described(value, f"{path}{name}.") or [f"{path}{name}"]
        elif isinstance(value, (bool, int, float)):
            found.append(f"{path}{name}={str(value).lower()}")
        elif value is not None:
            found.append(f"{path}{name}")
    return found


class Entry:
    """What the record will say of how it went."""

    outcome = "ok"


@contextlib.asynccontextmanager
async def audited(
    store: Store, *, actor: str, address: str, action: str, subject: str, detail: str = ""
) -> AsyncIterator[Entry]:
    """Around one write. Raises StorageError, before it is tried, if there can be no record."""
    record_id = await store.audit_begin(
        AuditRecord(
            at=time.time(),
            actor=actor,
            address=address,
            action=action,
            subject=subject[:TEXT_MAX],
            detail=detail[:TEXT_MAX],
        )
    )
    entry = Entry()
    try:
        yield entry
    except BaseException as error:
        entry.outcome = f"failed: {error}" if str(error) else f"failed: {type(error).__name__}"
        raise
    finally:
        _log.info("admin write", actor=actor, address=address, action=action, subject=subject,
                  outcome=entry.outcome)  # fmt: skip
        try:
            await store.audit_end(record_id, entry.outcome[:TEXT_MAX])
        except StorageError as error:
            failures.error(
                _log, "store", "audit", "an audit record stays without its outcome", error=error
            )
