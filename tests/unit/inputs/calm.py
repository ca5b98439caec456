"""Settings of property tests that hold on a slow machine too."""

from __future__ import annotations

from typing import Final

from hypothesis import HealthCheck, settings

CALM: Final = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
