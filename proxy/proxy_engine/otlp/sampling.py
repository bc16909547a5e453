"""Which requests become spans: the samplers of OpenTelemetry.

The share goes by the trace's id, as in OpenTelemetry's own libraries, so that all services of a
trace that have the same share choose the same traces.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from proxy_engine_core.core import LogRecord

SAMPLED = 1  # in the flags of a trace, W3C Trace Context
_LOW = 1 << 64


def sampler(name: str, share: float) -> Callable[[LogRecord], bool]:
    """
    Args:
        name: one of settings.otlp.SAMPLERS; "parentbased_...": who comes with a trace has decided.
        share: 0 to 1, for those of traceidratio.
    """
    follows = name.startswith("parentbased_")
    kind = name.removeprefix("parentbased_")
    bound = round({"always_on": 1.0, "always_off": 0.0}.get(kind, share) * _LOW)

    def is_sampled(record: LogRecord) -> bool:
        if follows and record.parent_id:
            return bool(record.trace_flags & SAMPLED)
        low = int(record.trace_id[16:], 16) if record.trace_id else random.getrandbits(64)
        return low < bound

    return is_sampled
