"""Text that is safe to print: whatever a visitor or device sent stays on its line."""

from __future__ import annotations

import re

# C0, DEL, C1, line and paragraph separators, and the bidirectional overrides that
# can make a terminal show something other than what was logged.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
TOKEN_PREFIX = "pe_"
_TOKEN = re.compile(TOKEN_PREFIX + r"[A-Za-z0-9_-]{20,}")


def _escaped(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def escape(text: str) -> str:
    """Control characters as \\xNN, so that one record stays one line."""
    if text.isascii() and text.isprintable():
        return text  # nearly always, and much faster
    return _UNSAFE.sub(_escaped, text)


def scrub(text: str) -> str:
    """Anything that looks like one of our tokens, made unreadable."""
    return _TOKEN.sub(f"{TOKEN_PREFIX}[redacted]", text) if TOKEN_PREFIX in text else text


def duration_text(seconds: float) -> str:
    """A short human duration: 950µs, 12ms, 3.2s, 2m05s, 3h12m."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f}µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g}ms"
    if seconds < 60:
        return f"{seconds:.3g}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"


def size_text(count: int) -> str:
    """A short human byte count: 12B, 3.4KiB."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f}{unit}" if unit == "B" else f"{value:.1f}{unit}"
        value /= 1024
    raise AssertionError("unreachable")
