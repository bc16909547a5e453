"""Everything at once for minutes (soak.py says what).

PROXY_ENGINE_SOAK_SECONDS=120 PROXY_ENGINE_SOAK_SEED=7 pytest -s -m soak

Under the sanitizers (scripts/test-asan tells how) a report of theirs fails the test.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.e2e.harness import CARRIERS
from tests.e2e.soak import soak

SECONDS = float(os.environ.get("PROXY_ENGINE_SOAK_SECONDS", "60"))
SEED = int(os.environ.get("PROXY_ENGINE_SOAK_SEED", "0")) or random.SystemRandom().getrandbits(32)
INTERVAL = 10.0


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_long_time_of_everything_at_once(tmp_path: Path, carrier: str) -> None:
    assert soak(tmp_path / "data", carrier, SECONDS, SEED, INTERVAL) == []
