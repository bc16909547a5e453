"""A browser's way in: ws of Node over TLS, through a link with TLS, to a WebSocket service."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path

from websockets.sync.server import ServerConnection, serve

from tests.certificates import Authority
from tests.e2e.tls_site import DOMAIN, TlsSite
from tests.interop.bridge import program


def test_node_talks_to_a_websocket_through_tls(tmp_path: Path) -> None:
    script = Path(program("js")[1]).with_name("wss.js")

    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with serve(echo, "127.0.0.1", 0, max_size=None) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        site = TlsSite(tmp_path)
        try:
            site.agent_to(port=service.socket.getsockname()[1]).printed("connected")

            def visit(name: str, ca: Path) -> dict[str, object]:
                done = subprocess.run(
                    ["node", str(script), str(site.tls_port), name, str(ca)],
                    capture_output=True, text=True, timeout=60,
                )  # fmt: skip
                return json.loads(done.stdout)

            found = visit(f"web.{DOMAIN}", site.ca)
            assert found == {"echoed": 8, "code": 1000, "reason": "done"}
            stranger = Authority("stranger").write(tmp_path, "stranger")
            assert "certificate" in str(visit(f"web.{DOMAIN}", stranger)["error"])
            assert "altnames" in str(visit("other.test", site.ca)["error"])
        finally:
            site.close()
