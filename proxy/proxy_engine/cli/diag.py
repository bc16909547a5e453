"""proxy-engine diag: what somebody who helps wants to see, in one file without secrets."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from proxy_engine.cli.parser import add_authorities, add_common, add_setting, add_store, loaded
from proxy_engine.errors import EXIT_OK, ProxyEngineError, UsageError


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "diag",
        help="make a file with what is installed, set and counted, without secrets",
        description="Writes versions, settings and where they came from, doctor's findings, the "
        "kernel's limits and, of a running server (--admin), counters, health and, with "
        "its setting debug, an engine dump. What is secret is taken out.",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="[proxy-engine-diag-DATE.tar.gz]; - lists it only"
    )
    parser.add_argument(
        "--log",
        metavar="FILE",
        action="append",
        default=[],
        help="with the last lines of this log; repeatable",
    )
    add_setting(
        parser, "admin_url", flag="--admin", metavar="URL", help="of a running server to ask"
    )
    add_setting(
        parser, "admin_token_file", metavar="FILE", help="read its admin token from a file, - stdin"
    )
    add_authorities(parser)
    add_store(parser)
    add_common(parser, run)


def run(args: argparse.Namespace) -> int:
    from proxy_engine.cli.client import Remote
    from proxy_engine.cli.doctor import findings
    from proxy_engine.doctor.bundle import Redactor, contents, secrets_of, write

    chosen = loaded(args, standard=True)
    role = "agent" if chosen.settings.server else "server"
    client = Remote(chosen.settings) if chosen.settings.admin_url else None

    def ask(path: str) -> Any:
        assert client is not None
        return client.call("GET", path)

    try:
        texts = contents(
            chosen, findings(chosen.settings, role), None if client is None else ask, args.log
        )
    finally:
        if client is not None:
            client.close()
    redact = Redactor(secrets_of(chosen.settings))
    if args.output == "-":
        print("\n".join(f"{len(redact(text)):>9} {name}" for name, text in texts.items()))
        return EXIT_OK
    file = Path(args.output or time.strftime("proxy-engine-diag-%Y%m%d-%H%M%S.tar.gz"))
    if not file.name.endswith(".tar.gz"):
        raise UsageError(f"--output: {file} does not end with .tar.gz")
    try:
        write(file, texts, redact)
    except FileExistsError:
        raise ProxyEngineError(f"{file} is there already") from None
    except OSError as problem:
        raise ProxyEngineError(f"{file}: {problem.strerror}") from None
    print(f"{file}: {len(texts)} files; look into it before you hand it on: tar -xzf {file}")
    return EXIT_OK
