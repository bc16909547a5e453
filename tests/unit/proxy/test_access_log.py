from __future__ import annotations

import logging

import pytest

from proxy_engine import logs
from proxy_engine.requests.access_log import RECORDS_MAX, AccessLog
from proxy_engine_core import log_batch
from proxy_engine_core.core import LogRecord

RECORD = LogRecord(1, 1, 2, "r1", "::1", "GET", "h", "/x?token=secret", 200, "", 0, 1, 2, 3, 4, 5)


def test_an_embedding_program_gets_lines_and_is_told_of_those_left_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "queue_handler", lambda: None)  # no command line has set one up
    caplog.set_level(logging.INFO, "proxy_engine")
    log = AccessLog(
        redact=lambda path: path.replace("secret", "***"),
        tunnel_name={1: "web"}.get,
        device_name={2: "pi"}.get,
    )
    log.put(log_batch.pack([RECORD] * (RECORDS_MAX + 3)))
    messages = [found.getMessage() for found in caplog.records]
    assert len(messages) == RECORDS_MAX + 1
    assert all(word in messages[0] for word in ("/x?token=***", "web", "pi", "200"))
    assert messages[-1].endswith("requests not logged count=3")
    assert caplog.records[-1].levelno == logging.WARNING
    assert log.dropped == 3
