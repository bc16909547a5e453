"""The command line: one verb, one file. Heavy imports happen inside the verbs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from proxy_engine.cli import (
    audit,
    config,
    connect,
    demo,
    device,
    diag,
    doctor,
    forward,
    hook,
    requests,
    run,
    token,
    top,
    tunnel,
)
from proxy_engine.cli.parser import Parser, VersionAction
from proxy_engine.errors import EXIT_FAILURE, EXIT_OK, ProxyEngineError

EXIT_INTERRUPTED = 130  # as shells report Ctrl-C


def build_parser() -> Parser:
    parser = Parser(
        prog="proxy-engine",
        description="A self-hosted tunnel proxy: services behind NAT, on public names.",
        epilog="Every flag is also a variable (--data-dir: PROXY_ENGINE_DATA_DIR) and a key of "
        "the --config file (data_dir). Flags win over variables, variables over the file.",
    )
    parser.add_argument("--version", action=VersionAction, help="print the version and exit")
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True)
    for module in (
        run, connect, forward, token, device, tunnel, requests, hook, audit, config, top, doctor,
        diag, demo,
    ):  # fmt: skip
        module.add_parser(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 ok, 1 failure, 2 usage."""
    _occupy_standard_files()
    try:
        args = build_parser().parse_args(argv)
        code: int = args.function(args)
        sys.stdout.flush()
        return code
    except SystemExit as error:  # argparse: --help, --version, a usage error
        return error.code if isinstance(error.code, int) else EXIT_FAILURE
    except ProxyEngineError as error:
        return _say(str(error), error.exit_code)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `proxy-engine requests tail | head`: they have seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except Exception as error:
        if os.environ.get("PROXY_ENGINE_TRACEBACK"):
            raise
        hint = "set PROXY_ENGINE_TRACEBACK=1 to see where"
        return _say(f"internal error: {type(error).__name__}: {error} ({hint})", EXIT_FAILURE)


def _occupy_standard_files() -> None:
    """If 0, 1 or 2 are closed, no socket or database may get their numbers: libraries write to
    these, and libuv ends the process that closes one."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest that is free


def _say(message: str, code: int) -> int:
    from proxy_engine.cli.output import complain

    complain(message)
    return code
