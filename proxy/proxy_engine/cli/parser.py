"""argparse with one-line errors, suggestions, and settings as flags."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from proxy_engine.errors import EXIT_USAGE, suggestion

if TYPE_CHECKING:
    from proxy_engine.settings.config import Loaded, Settings


class Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        # No abbreviations: a new flag must never change what an old script means.
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        print(f"proxy-engine: error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(EXIT_USAGE)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        # Here and not in parse_args: this is what a verb's own parser is called with,
        # and only it knows the flags to suggest.
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            word = rest[0].partition("=")[0]
            self.error(f"unknown argument {word}{suggestion(word, self._option_string_actions)}")
        return found, rest


class VersionAction(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import proxy_engine

        print(f"proxy-engine {proxy_engine.__version__}")
        parser.exit()


def add_setting(
    parser: argparse._ActionsContainer, name: str, *, flag: str = "", **options: Any
) -> None:
    """A setting as a flag. What is not given stays out, so that other layers can speak."""
    flag = flag or "--" + name.replace("_", "-")
    parser.add_argument(flag, dest=name, default=argparse.SUPPRESS, **options)


def add_common(parser: argparse.ArgumentParser, function: Any) -> None:
    parser.add_argument(
        "--config", metavar="FILE", default=None, help="read settings from a TOML file"
    )
    parser.set_defaults(function=function)


def add_store(parser: argparse.ArgumentParser) -> None:
    """Where the server keeps what it knows."""
    add_setting(
        parser, "data_dir", metavar="DIR", help="the server's data [~/.local/share/proxy-engine]"
    )
    add_setting(parser, "mongodb_uri", metavar="URI", help="a MongoDB instead of SQLite there")
    add_setting(parser, "mongodb_uri_file", metavar="FILE", help="read its URI from a file")
    add_setting(parser, "mongodb_driver", metavar="motor|pymongo", help="the driver for it [motor]")


def add_process(parser: argparse.ArgumentParser, role: str) -> None:
    """What the programs that stay have in common."""
    default = "one a core" if role == "server" else "1"
    add_setting(parser, "workers", metavar="N", help=f"threads that move the bytes [{default}]")
    add_setting(
        parser,
        "grace",
        metavar="TIME",
        help=f"how long requests in flight may take when the {role} ends [30s]",
    )
    add_setting(
        parser,
        "engine",
        metavar="NAME=N",
        action="append",
        help="set an engine option (docs/operations.md)",
    )
    add_log(parser)


def add_log(parser: argparse.ArgumentParser) -> None:
    add_setting(parser, "log_format", metavar="text|json", help="of log lines on stderr [text]")
    add_setting(parser, "log_level", metavar="LEVEL", help="debug, info, warning or error [info]")


def add_servers(parser: argparse.ArgumentParser) -> None:
    """Where the server is, and the way there."""
    add_setting(
        parser,
        "server",
        metavar="URL",
        action="append",
        help="such as https://proxy.example.com; repeatable: the first that answers",
    )
    add_setting(
        parser,
        "proxy",
        metavar="URL",
        help="reach it through this HTTP proxy, or none [HTTP_PROXY, HTTPS_PROXY, NO_PROXY]",
    )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """What a server of https:// has to show, and what it is shown."""
    add_authorities(parser)
    add_setting(parser, "crl", metavar="FILE", help="certificates that those have revoked (PEM)")
    add_setting(
        parser,
        "pin",
        metavar="sha256/...",
        action="append",
        help="public key that its certificate has to have; repeatable: one of them",
    )
    add_setting(
        parser, "server_name", metavar="NAME", help="that its certificate is for [the URL's]"
    )
    add_setting(parser, "cert", metavar="FILE", help="this device's certificate (PEM)")
    add_setting(parser, "key", metavar="FILE", help="and its key [in the file of --cert]")


def add_authorities(parser: argparse.ArgumentParser) -> None:
    add_setting(
        parser,
        "ca",
        metavar="FILE",
        help="authorities (PEM) that the server's certificate may come from [the system's]",
    )


def count(text: str) -> int:
    """The type of an argument that says how many."""
    if not text.isascii() or not text.isdigit() or int(text[:9]) > 1_000_000:
        raise argparse.ArgumentTypeError(f'"{text}" is not a count up to 1000000')
    return int(text)


def settings(args: argparse.Namespace) -> Settings:
    return loaded(args).settings


def loaded(args: argparse.Namespace, *, standard: bool = False) -> Loaded:
    """The settings, and where each came from. Reads the file anew each time.

    Args:
        standard: the variables of OpenTelemetry count: for the server.
    """
    from proxy_engine.settings import config

    flags = {name: value for name, value in vars(args).items() if name in config.KEYS}
    found = config.load_with_sources(flags, os.environ, file=args.config, standard=standard)
    secrets = {name: getattr(found.settings, name) for name in config.SECRETS if name in flags}
    if secrets:
        from proxy_engine.cli.process_title import hide

        hide(secrets)
    return found
