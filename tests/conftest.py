"""For all tests: property tests do not watch the clock, which is another one on every machine."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("danlu", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("danlu")
