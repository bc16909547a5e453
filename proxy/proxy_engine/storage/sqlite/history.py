from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from proxy_engine.storage.history import AUDIT_MAX, DEVICE_EVENTS_MAX, AuditRecord, DeviceEvent
from proxy_engine.storage.sqlite.database import Database, fields

_EVENT = "SELECT device_id, at, kind, address, reason, id FROM device_events"
_AUDIT = "SELECT at, actor, address, action, subject, detail, outcome, id FROM audit"
_TRIM_EVENTS = """
    DELETE FROM device_events WHERE device_id = :device AND id <= (
        SELECT id FROM device_events WHERE device_id = :device
        ORDER BY id DESC LIMIT 1 OFFSET :keep
    )
"""


class SqliteHistory(Database):
    async def device_events_add(self, events: Sequence[DeviceEvent]) -> None:
        # Rows are made one by one: thousands of devices may have come at once. A device may have
        # been deleted meanwhile.
        insert = (
            "INSERT INTO device_events (at, kind, address, reason, device_id)"
            " SELECT ?, ?, ?, ?, id FROM devices WHERE id = ?"
        )

        def add(db: sqlite3.Connection) -> None:
            db.executemany(
                insert, ((e.at, e.kind, e.address, e.reason, e.device_id) for e in events)
            )
            devices = {each.device_id for each in events}
            db.executemany(
                _TRIM_EVENTS,
                ({"device": device, "keep": DEVICE_EVENTS_MAX} for device in devices),
            )

        await self._write(add)

    async def device_events(
        self, device_id: int, limit: int, before: int | None = None
    ) -> list[DeviceEvent]:
        query = f"{_EVENT} WHERE device_id = ? AND id < ? ORDER BY id DESC LIMIT ?"
        values = (device_id, _MAX if before is None else before, limit)
        rows = await self._read(lambda db: db.execute(query, values).fetchall())
        return [DeviceEvent(**fields(DeviceEvent, row)) for row in rows]

    async def audit_begin(self, record: AuditRecord) -> int:
        values = (
            record.at, record.actor, record.address, record.action, record.subject, record.detail,
            record.outcome,
        )  # fmt: skip
        insert = (
            "INSERT INTO audit (at, actor, address, action, subject, detail, outcome)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id"
        )
        trim = "DELETE FROM audit WHERE id <= ?"

        def add(db: sqlite3.Connection) -> int:
            [record_id] = db.execute(insert, values).fetchone()
            db.execute(trim, (record_id - AUDIT_MAX,))
            return int(record_id)

        return await self._write(add)

    async def audit_end(self, record_id: int, outcome: str) -> None:
        query = "UPDATE audit SET outcome = ? WHERE id = ?"
        await self._write(lambda db: db.execute(query, (outcome, record_id)))

    async def audit(self, limit: int, before: int | None = None) -> list[AuditRecord]:
        query = f"{_AUDIT} WHERE id < ? ORDER BY id DESC LIMIT ?"
        values = (_MAX if before is None else before, limit)
        rows = await self._read(lambda db: db.execute(query, values).fetchall())
        return [AuditRecord(**fields(AuditRecord, row)) for row in rows]


_MAX = 2**63 - 1
