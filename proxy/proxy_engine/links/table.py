"""Who has a link and who may have another: links by id, by device and by worker.

A link is in here from the moment its request is accepted; it has an id once it is up.
The links of one run of a device's program share its instance id and are numbered from 1,
at most `links_max` of them. Which link takes over from which:

    same run, same number    the newer one: the older was lost, or drains
    another run              the run that came first gives way, with all its links
    no instance id           a run of one link

The first link of a run goes to the worker with the fewest links, the next ones to the least
busy of those where the run has none yet (demand.py).

Nothing here talks to anybody; links.py acts on it.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from proxy_engine.control import TunnelSpec
from proxy_engine.grants import Limits, Scopes
from proxy_engine.handshake import Offer, Refusal
from proxy_engine.storage import Token

LINK_UP_TIMEOUT = 30.0  # seconds from our answer to EVENT_LINK_UP; it is usually at once
RETRY_AFTER = "10"  # seconds; links lost without a word are found by their pings
SPARE_LINKS = 2  # lost links of a device that may still look alive


class Link(msgspec.Struct, kw_only=True, eq=False, gc=False):
    device_id: int
    device: str
    peer: str
    token_id: int
    token: str  # its name
    digest: bytes  # of the secret that opened it
    scopes: Scopes
    limits: Limits
    expires_at: float | None  # the secret does
    instance: str
    number: int
    is_agent: bool
    may_have_more: bool  # its run may have several links, and knows of it
    worker: int
    since: float
    certificate: tuple[str, ...] = ()  # names of the one it was opened with
    id: int = -1  # -1: accepted, not up yet
    version: int = 0  # of the cache, before the token was looked up
    agent: str = ""
    platform: str = ""
    is_closing: bool = False
    is_draining: bool = False  # its agent wants no new requests; closed after the last one
    is_spent: bool = False  # another is to take its place
    ends_at: float | None = None  # ... and has: closed then at the latest
    registering: list[TunnelSpec] | None = None  # of a "register" in several records, so far
    registering_size: int = 0  # bytes of these records

    @property
    def is_leaving(self) -> bool:
        """It serves nothing new; nothing that it asks for counts any more."""
        return self.is_closing or self.is_draining or self.ends_at is not None

    @property
    def run(self) -> str | int:
        return self.instance or self.id


class LinkTable:
    def __init__(self, *, links_max: int, workers: int) -> None:
        self.links_max = links_max
        self.busy = [0.0] * workers  # parts of a core each takes
        self._loads = [0] * workers  # links up and accepted
        self._links: dict[int, Link] = {}
        self._accepted: dict[tuple[int, str], Link] = {}  # not up yet, by device and peer
        self._by_device: dict[int, tuple[Link, ...]] = {}  # up and accepted, newest last

    def __len__(self) -> int:
        return len(self._links)

    def __iter__(self) -> Iterator[Link]:
        return iter(list(self._links.values()))

    def get(self, link_id: int) -> Link | None:
        return self._links.get(link_id)

    def of_device(self, device_id: int) -> list[Link]:
        """Those that are up, in the order they came up."""
        return [link for link in self._by_device.get(device_id, ()) if link.id >= 0]

    def device_name(self, device_id: int) -> str | None:
        """Of one that has a link. Any thread."""
        links = self._by_device.get(device_id)
        return links[-1].device if links else None

    def of_run(self, device_id: int, run: str | int) -> list[Link]:
        """Those of a run that serve, or are about to."""
        links = self.of_device(device_id)
        return [link for link in links if link.run == run and not link.is_leaving]

    def accept(
        self,
        device_id: int,
        token: Token,
        offer: Offer,
        peer: str,
        now: float,
        *,
        certificate: tuple[str, ...] = (),
    ) -> Link:
        """Let a link in that has been authorised. Raises Refusal if it is one too many."""
        if offer.number > self.links_max:
            message = f"the links of a run have the numbers 1 to {self.links_max} here"
            raise Refusal(409, "bad_link_number", message)
        present = [link for link in self._by_device.get(device_id, ()) if not link.is_closing]
        # A new run's links are made before the old ones go, so there may be twice as many.
        if len(present) >= 2 * self.links_max + SPARE_LINKS:
            message = "the device has too many links already"
            raise Refusal(429, "too_many_links", message, {"Retry-After": RETRY_AFTER})
        link = Link(
            device_id=device_id,
            device=token.device or str(device_id),
            peer=peer,
            token_id=token.id,
            token=token.name,
            digest=token.digest,
            scopes=token.scopes,
            limits=token.limits,
            expires_at=token.expires_at,
            instance=offer.instance,
            number=offer.number,
            is_agent=offer.is_agent,
            may_have_more=offer.is_agent and offer.is_numbered and offer.instance != "",
            worker=self._place(present, offer),
            since=now,
            certificate=certificate,
        )
        self._loads[link.worker] += 1
        never_came = self._accepted.pop((device_id, peer), None)
        if never_came is not None:
            self._forget(never_came)
        self._accepted[device_id, peer] = link
        self._by_device[device_id] = (*self._by_device.get(device_id, ()), link)
        return link

    def _place(self, present: list[Link], offer: Offer) -> int:
        # An older link of the same number is about to go: its worker is free.
        taken = {
            link.worker
            for link in present
            if offer.instance and link.instance == offer.instance and link.number != offer.number
        }
        free = [worker for worker in range(len(self._loads)) if worker not in taken]

        def order(worker: int) -> tuple[int, int]:
            tenths_busy = round(10 * self.busy[worker]) if taken else 0
            return tenths_busy, self._loads[worker]

        return min(free or range(len(self._loads)), key=order)

    def up(self, link_id: int, device_id: int, peer: str, now: float) -> Link | None:
        """The accepted link that has come up. None: nobody we let in."""
        link = self._accepted.pop((device_id, peer), None)
        if link is None:
            return None
        others = [other for other in self._by_device[device_id] if other is not link]
        self._by_device[device_id] = (*others, link)
        link.id, link.since = link_id, now
        self._links[link_id] = link
        return link

    def down(self, link_id: int) -> Link | None:
        link = self._links.pop(link_id, None)
        if link is not None:
            self._forget(link)
        return link

    def expire(self, now: float) -> None:
        """Forget who was accepted and never came."""
        for key, link in list(self._accepted.items()):
            if now - link.since > LINK_UP_TIMEOUT:
                del self._accepted[key]
                self._forget(link)

    def older(self, link: Link) -> list[Link]:
        """The links that give way to this one now that it serves."""
        present = self.of_device(link.device_id)
        first = next(index for index, other in enumerate(present) if other.run == link.run)
        runs = {other.run for other in present[:first]}
        before = present[: present.index(link)]
        return [
            other
            for other in present
            if other.run in runs
            or (other in before and other.run == link.run and other.number == link.number)
        ]

    def _forget(self, link: Link) -> None:
        self._loads[link.worker] -= 1
        others = [other for other in self._by_device[link.device_id] if other is not link]
        if others:
            self._by_device[link.device_id] = tuple(others)
        else:
            del self._by_device[link.device_id]
