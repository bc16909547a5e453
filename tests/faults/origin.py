"""The service behind the device: plain blocking sockets, and a record of what reached it."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from typing import IO

BIG = bytes(range(256)) * 4096  # 1 MiB
TO_THE_END = b"to the end " * 4000


class Origin:
    """Lives for the whole run. A connection that breaks only ends its own thread."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.dead = socket.socket()  # bound, so nobody else's, and refuses
        self.dead.bind(("127.0.0.1", 0))
        self.seen: Counter[str] = Counter()  # requests by their X-Id
        self.lock = threading.Lock()
        self.live: set[socket.socket] = set()
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind(("127.0.0.1", 0))
        threading.Thread(target=self.accept, daemon=True).start()
        threading.Thread(target=self.echo_datagrams, daemon=True).start()

    def echo_datagrams(self) -> None:
        while True:
            data, address = self.datagrams.recvfrom(65_536)
            try:
                self.datagrams.sendto(data, address)
            except OSError:
                pass  # who asked has gone

    def accept(self) -> None:
        while True:
            sock, _ = self.listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.live.add(sock)
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock: socket.socket) -> None:
        try:
            with sock, sock.makefile("rb") as reader:
                while self.answer(sock, reader):
                    pass
        except OSError:
            pass
        finally:
            with self.lock:
                self.live.discard(sock)

    def answer(self, sock: socket.socket, reader: IO[bytes]) -> bool:
        """One request; False: this connection is done."""
        line = reader.readline()
        if not line:
            return False
        path = line.split()[1].decode()
        fields = {}
        while (field := reader.readline()) not in (b"\r\n", b""):
            name, _, value = field.decode().partition(":")
            fields[name.lower()] = value.strip()
        with self.lock:
            self.seen[fields.get("x-id", "")] += 1
        if path == "/small":
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        elif path == "/hints":
            sock.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        elif path == "/big":
            sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for start in range(0, len(BIG), 1 << 16):
                sock.sendall(b"10000\r\n" + BIG[start : start + (1 << 16)] + b"\r\n")
            sock.sendall(b"0\r\n\r\n")
        elif path == "/known":
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BIG) + BIG)
        elif path == "/end":
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + TO_THE_END)
            return False
        elif path == "/echo":
            body = self.body(reader, fields)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        elif path == "/tunnel":
            sock.sendall(b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
            while data := sock.recv(1 << 16):
                sock.sendall(data)
            return False
        return True

    @staticmethod
    def body(reader: IO[bytes], fields: dict[str, str]) -> bytes:
        if "content-length" in fields:
            return reader.read(int(fields["content-length"])) or b""
        body = b""
        while True:
            line = reader.readline()
            if not line:
                raise ConnectionError("ended in a body")
            size = int(line, 16)
            body += reader.read(size) or b""
            reader.readline()
            if size == 0:
                return body
