"""What the links of a run register: its tunnels, and how often they have changed."""

from __future__ import annotations

from proxy_engine import control


class Announced:
    def __init__(self, tunnels: list[control.TunnelSpec], *, agent: str, platform: str) -> None:
        self._agent = agent
        self._platform = platform
        self.version = 0
        self.change(tunnels)

    def change(self, tunnels: list[control.TunnelSpec]) -> None:
        record = control.Register(tunnels=tunnels, agent=self._agent, platform=self._platform)
        self.tunnels = tunnels
        self.records = control.encode_register(record)
        self.version += 1
