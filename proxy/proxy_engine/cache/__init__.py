"""Tokens and devices in front of the store: what a login needs, without asking it.

    AccessCache       the only face: local, else shared, else the store     (access.py)
      LocalCache      in this process, least recently used goes first       (local.py)
      SharedCache     in Redis, for all nodes of one store                  (shared.py)
        Sealer        names, and values that only these nodes can make      (seal.py)
        SharedLogins  who failed to log in at other nodes                   (logins.py)
        RedisLink     the connection: time limits, breaker, pub/sub         (redis.py)

Never wrong: what is current, only the store says. It has a *generation*, a random number that
each write to tokens or devices replaces. What was read under one generation is good for that
one only, here and in Redis; a node asks for the generation twice a second, and at once when
another says by pub/sub that it has written. So Redis may lose, delay, keep or make up whatever
it likes: docs/adr/0014.
"""

from __future__ import annotations

from proxy_engine.cache.access import AccessCache

__all__ = ["AccessCache"]
