"""Speaks MongoDB's protocol and keeps nothing: how fast we can write, not how fast it can.

    python mongo_sink.py          prints its port, ends with its standard input

An insert is answered as soon as its last byte is there, unread. Everything else gets what a
driver needs to go on: a server that is the primary, counters that count.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
import sys
from collections import Counter
from typing import Any

import bson

HEADER = struct.Struct("<iiii")  # length, request id, response to, opcode
OP_MSG, OP_QUERY, OP_REPLY = 2013, 2004, 1
HELLO: dict[str, Any] = {
    "helloOk": True,
    "ismaster": True,
    "isWritablePrimary": True,
    "maxBsonObjectSize": 16 << 20,
    "maxMessageSizeBytes": 48000000,
    "maxWriteBatchSize": 100000,
    "minWireVersion": 0,
    "maxWireVersion": 21,
    "readOnly": False,
    "ok": 1.0,
}
_ids = itertools.count(1)
_counters: Counter[str] = Counter()


class Sink(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = bytearray()

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        while len(received) >= HEADER.size:
            length, request, _, opcode = HEADER.unpack_from(received)
            if len(received) < length:
                return
            # The command's name is the first key of the document behind the flags.
            start = 39 if opcode == OP_QUERY else 21
            if opcode == OP_MSG and received[start + 5 : start + 12] == b"insert\0":
                answer = {"ok": 1.0, "n": 0}
            else:
                answer = self._answer(opcode, bytes(received[HEADER.size : length]))
            del received[:length]
            self._send(opcode, request, bson.encode(answer))

    def _answer(self, opcode: int, body: bytes) -> dict[str, Any]:
        if opcode == OP_QUERY:
            return HELLO
        size = int.from_bytes(body[5:9], "little")
        command = bson.decode(body[5 : 5 + size])
        name = next(iter(command))
        if name in ("hello", "ismaster", "isMaster"):
            return HELLO
        if name == "findAndModify":
            return {"ok": 1.0, "value": self._changed(command["query"]["_id"], command["update"])}
        if name in ("find", "aggregate", "listIndexes"):
            where = f"{command['$db']}.{command[name]}"
            return {"ok": 1.0, "cursor": {"id": 0, "ns": where, "firstBatch": []}}
        return {"ok": 1.0, "n": 0, "nModified": 0}

    def _changed(self, name: str, update: dict[str, Any]) -> dict[str, Any]:
        for count in update.get("$inc", {}).values():
            _counters[name] += count
        return {"_id": name, "version": 1, "last": _counters[name], "writes": _counters[name]}

    def _send(self, opcode: int, request: int, document: bytes) -> None:
        if opcode == OP_QUERY:
            head, answer = struct.pack("<iqii", 8, 0, 0, 1), OP_REPLY
        else:
            head, answer = bytes(5), OP_MSG
        length = HEADER.size + len(head) + len(document)
        self._transport.write(HEADER.pack(length, next(_ids), request, answer) + head + document)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


asyncio.run(main())
