"""Dependencies point down only. Parses every import and cimport to hold us to that.

    cli, api, storage ...   proxy/proxy_engine
    core                    the Python face
    agent  forward          roles
    link/                   one session on one connection
    io/                     the only files that touch fds
    websocket/ yamux/ http1/    pure: bytes in, bytes and events out
    buffer  wire  check

`_testing` opens any layer to pytest and is in no wheel, so it stands outside.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "engine" / "proxy_engine_core"
PROXY = ROOT / "proxy" / "proxy_engine"

PROTOCOL_FOLDERS = ("websocket", "yamux", "http1")
# What a protocol may not know: anything that moves bytes or owns a connection.
ABOVE_PROTOCOLS = ("io", "link", "forward", "agent", "core")
# Each file of these folders uses those before it only.
FILES_IN_ORDER = {
    "yamux": ("frame", "session", "table", "window", "send", "stream", "receive"),
    "link": ("link", "output", "end", "control", "keepalive", "input", "establish"),
}

# What a package of the control plane may not know: those above it, and the other side.
COMPOSED = ("cli", "demo", "doctor", "library", "testing", "app", "reload")
CONTROL_PLANE = {
    "library": ("cli", "demo", "testing"),
    "apps": (
        *(*COMPOSED, "api", "metrics", "agent", "links", "requests", "storage", "cache"),
        *("tunnels", "tls"),
    ),
    "agent_admin": (*COMPOSED, "api", "links", "requests", "storage", "cache"),
    "api": ("cli", "demo", "library", "testing", "agent", "apps"),
    "diagnosis": (*COMPOSED, "api", "metrics", "agent", "links", "requests", "cache", "tunnels"),
    "metrics": (*COMPOSED, "api", "agent"),
    "otlp": (*COMPOSED, "api", "agent", "links", "requests", "storage", "cache", "tunnels"),
    "links": (*COMPOSED, "api", "metrics", "otlp", "agent", "requests"),
    "agent": (*COMPOSED, "api", "metrics", "links", "requests", "storage", "cache"),
    "requests": (*COMPOSED, "api", "metrics", "agent", "links", "tunnels"),
    "cache": (*COMPOSED, "api", "metrics", "agent", "requests", "tunnels"),
    "tunnels": (*COMPOSED, "api", "metrics", "agent", "links", "requests", "cache"),
    "storage": (*COMPOSED, "api", "metrics", "agent", "links", "requests", "cache"),
    "hooks": (
        *(
            *COMPOSED,
            "server_hooks",
            "hook_feed",
            "failure_feed",
            "api",
            "metrics",
            "agent",
            "links",
            "requests",
        ),
        *("cache", "storage", "tunnels"),
    ),
    "tls": (*COMPOSED, "links", "requests", "storage", "cache", "tunnels"),
    "settings": (*COMPOSED, "api", "agent", "links", "requests", "storage", "cache", "tunnels"),
}

IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\s+(.*)|c?import\s+(.*))$")
EXTERN = re.compile(r"^\s*cdef\s+extern\s+from\s+[\"']<?([\w./]+)>?[\"']")

# Headers, and Cython's own names for them, whose functions take a file descriptor.
FD_HEADERS = re.compile(
    r"^(sys/(socket|epoll|eventfd|timerfd|uio|sendfile|ioctl|un)\.h|unistd\.h|fcntl\.h|poll\.h"
    r"|netinet/.*|netdb\.h|arpa/.*|linux/.*|openssl/.*)$"
)
FD_MODULES = re.compile(r"^posix\.(unistd|fcntl|ioctl|select|uio|stat)$|^libc\.socket$")


def code_lines(path: Path) -> list[str]:
    """The file without comments and docstrings, continued imports joined in one line."""
    text = path.read_text()
    text = re.sub(r'"""(?:.|\n)*?"""', '""', text)
    text = re.sub(r"#[^\n]*", "", text)
    text = re.sub(r"\\\n", " ", text)
    text = re.sub(
        r"(c?import\s*)\(([^)]*)\)", lambda match: match[1] + " ".join(match[2].split()), text
    )
    return text.splitlines()


def imported_modules(path: Path, package_root: Path) -> set[str]:
    """Absolute names of all a file imports or cimports; relative ones are resolved.

    `from a.b import c` yields both a.b and a.b.c: c may be a module.
    """
    package = ".".join(path.parent.relative_to(package_root).parts)
    found: set[str] = set()
    for line in code_lines(path):
        match = IMPORT.match(line)
        if match is None:
            continue
        if match[3]:
            found.update(name.split()[0] for name in match[3].split(",") if name.strip())
            continue
        module = match[1]
        dots = len(module) - len(module.lstrip("."))
        if dots:
            parent = package.split(".")[: len(package.split(".")) - dots + 1]
            module = ".".join([*parent, *filter(None, [module[dots:]])])
        found.add(module)
        names = (name.split()[0] for name in match[2].split(",") if name.strip())
        found.update(f"{module}.{name}" for name in names)
    return found


def sources(folder: Path, *suffixes: str) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in suffixes)


def engine_sources() -> list[Path]:
    return sources(ENGINE, ".py", ".pyx", ".pxd", ".pyi")


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", engine_sources(), ids=named)
def test_the_engine_imports_nothing_of_the_control_plane(path: Path) -> None:
    modules = imported_modules(path, ENGINE.parent)
    assert not [module for module in modules if is_within(module, "proxy_engine")]


@pytest.mark.parametrize("path", engine_sources(), ids=named)
def test_the_engine_never_takes_the_gil(path: Path) -> None:
    assert not [line for line in code_lines(path) if re.search(r"\bwith\s+gil\b", line)]


@pytest.mark.parametrize("folder", PROTOCOL_FOLDERS)
def test_protocols_know_neither_io_nor_links(folder: str) -> None:
    forbidden = [f"proxy_engine_core.{name}" for name in ABOVE_PROTOCOLS]
    for path in sources(ENGINE / folder, ".py", ".pyx", ".pxd"):
        for module in imported_modules(path, ENGINE.parent):
            assert not any(is_within(module, name) for name in forbidden), (
                f"{named(path)} imports {module}"
            )


@pytest.mark.parametrize("folder", PROTOCOL_FOLDERS)
def test_protocols_do_not_know_each_other(folder: str) -> None:
    others = [f"proxy_engine_core.{name}" for name in PROTOCOL_FOLDERS if name != folder]
    for path in sources(ENGINE / folder, ".py", ".pyx", ".pxd"):
        for module in imported_modules(path, ENGINE.parent):
            assert not any(is_within(module, name) for name in others), (
                f"{named(path)} imports {module}"
            )


@pytest.mark.parametrize("folder", FILES_IN_ORDER)
def test_the_files_of_a_folder_use_each_other_in_one_direction(folder: str) -> None:
    order = FILES_IN_ORDER[folder]
    files = sources(ENGINE / folder, ".pyx", ".pxd")
    assert {path.stem for path in files} == set(order)
    for path in files:
        modules = imported_modules(path, ENGINE.parent)
        for later in order[order.index(path.stem) + 1 :]:
            assert f"proxy_engine_core.{folder}.{later}" not in modules, f"{named(path)}: {later}"


@pytest.mark.parametrize("folder", CONTROL_PLANE)
def test_packages_of_the_control_plane_use_those_below(folder: str) -> None:
    forbidden = {f"proxy_engine.{name}" for name in CONTROL_PLANE[folder]}
    for path in sources(PROXY / folder, ".py"):
        for module in imported_modules(path, PROXY.parent):
            assert not any(is_within(module, name) for name in forbidden), (
                f"{named(path)} imports {module}"
            )


def test_only_testing_wrappers_import_testing_wrappers() -> None:
    for path in engine_sources():
        if "_testing" in path.parts:
            continue
        for module in imported_modules(path, ENGINE.parent):
            assert not is_within(module, "proxy_engine_core._testing"), named(path)


def test_only_io_touches_file_descriptors() -> None:
    for path in sources(ENGINE, ".pyx", ".pxd"):
        if path.is_relative_to(ENGINE / "io") or "_testing" in path.parts:
            continue
        for line in code_lines(path):
            header = EXTERN.match(line)
            assert header is None or not FD_HEADERS.match(header[1]), f"{named(path)}: {line}"
        for module in imported_modules(path, ENGINE.parent):
            assert not FD_MODULES.match(module), f"{named(path)} cimports {module}"


def test_hand_written_headers_outside_io_include_no_fd_headers() -> None:
    for path in sources(ENGINE, ".h", ".c"):
        if path.is_relative_to(ENGINE / "io"):
            continue
        for header in re.findall(r"^\s*#\s*include\s*[<\"]([^>\"]+)", path.read_text(), re.M):
            assert not FD_HEADERS.match(header), f"{named(path)} includes {header}"


def test_the_parser_sees_every_form_of_import(tmp_path: Path) -> None:
    # The rules above are only as good as this.
    folder = tmp_path / "proxy_engine_core" / "yamux"
    folder.mkdir(parents=True)
    source = folder / "example.pyx"
    source.write_text(
        '"""from proxy_engine import hidden"""\n'
        "# import proxy_engine\n"
        "import proxy_engine_core.wire, os as system\n"
        "from proxy_engine_core.io.poller cimport (\n"
        "    poller_add,  # why\n"
        "    poller_free,\n"
        ")\n"
        "from ..link cimport Link\n"
        "from . cimport frame as yamux_frame\n"
        "    from proxy_engine import late\n"
    )
    assert imported_modules(source, tmp_path) == {
        "proxy_engine_core.wire",
        "os",
        "proxy_engine_core.io.poller",
        "proxy_engine_core.io.poller.poller_add",
        "proxy_engine_core.io.poller.poller_free",
        "proxy_engine_core.link",
        "proxy_engine_core.link.Link",
        "proxy_engine_core.yamux",
        "proxy_engine_core.yamux.frame",
        "proxy_engine",
        "proxy_engine.late",
    }
