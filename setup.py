"""Build the native engine. Everything declarative lives in pyproject.toml.

One extension module per `.pyx` under engine/. Generated C goes to build/cython,
never beside the sources. Switches, all read from the environment:

PROXY_ENGINE_DEBUG=1     CHECK() invariants and Cython's bounds checks on, -O1 -g
PROXY_ENGINE_SANITIZE=1  the debug build under AddressSanitizer and UBSan; =thread: under
                         ThreadSanitizer instead
PROXY_ENGINE_TESTING=1   also build proxy_engine_core._testing, the thin
                         def-wrappers that open cdef code to pytest; never in wheels
PROXY_ENGINE_FUZZ=1      the debug build for libFuzzer, with the targets of fuzz/; wants clang
PROXY_ENGINE_COVERAGE=1  counts for gcov, by .pyx line: scripts/coverage
PROXY_ENGINE_OPENSSL=... system: the shared libraries; static: their archives, for wheels that
                         go elsewhere; none: without TLS. Not set: system if it is there, else
                         none
PROXY_ENGINE_WERROR=1    a gcc warning is an error. A switch of ours because CFLAGS from
                         the environment would replace Python's own flags
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ENGINE = Path("engine")
PACKAGE = ENGINE / "proxy_engine_core"


def switch(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


SANITIZE = switch("PROXY_ENGINE_SANITIZE")
FUZZ = switch("PROXY_ENGINE_FUZZ")
COVERAGE = switch("PROXY_ENGINE_COVERAGE")
DEBUG = SANITIZE or FUZZ or switch("PROXY_ENGINE_DEBUG")
TESTING = switch("PROXY_ENGINE_TESTING")

COMPILE_ARGS = ["-std=gnu11", "-fvisibility=hidden", "-Wall", "-Wno-unused-function"]
# Python's own flags ask for it; Cython compares loop counters with enums as it likes.
COMPILE_ARGS += ["-Wno-sign-compare"]
LINK_ARGS = ["-pthread"]
# Of the system, and on every Linux that a wheel may run on (PEP 599 lists libz.so.1).
LIBRARIES = {"proxy_engine_core.websocket.deflate": ["z"]}
# The one module that calls OpenSSL; without_tls/ has the one for a build without it.
TLS_MODULE = "proxy_engine_core.io.tls_openssl"
TLS_FUZZ = "fuzz_tls"  # the target for it, which tells OpenSSL what is random
OPENSSL_MAJOR = 3
if switch("PROXY_ENGINE_WERROR"):
    # gcc 12 sees tuple[-1] in Cython's own helpers as out of bounds.
    COMPILE_ARGS += ["-Werror", "-Wno-error=array-bounds"]
if SANITIZE:
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    if os.environ["PROXY_ENGINE_SANITIZE"] == "thread":
        flags = ["-fsanitize=thread"]
    COMPILE_ARGS += ["-O1", "-g", "-fno-omit-frame-pointer", *flags]
    LINK_ARGS += flags
elif FUZZ:
    # libFuzzer and the sanitizers' runtimes are in the program that loads the modules.
    flags = ["-fsanitize=fuzzer-no-link,address,undefined", "-fno-sanitize-recover=undefined"]
    flags += ["-fno-sanitize=null,object-size"]  # clang takes offsetof() written out for an access
    COMPILE_ARGS += ["-O2", "-g", "-fno-omit-frame-pointer", *flags]
    LINK_ARGS += ["-fsanitize=address,undefined"]
elif COVERAGE:
    # Workers count side by side.
    flags = ["--coverage", "-fprofile-update=atomic"]
    COMPILE_ARGS += ["-O1", "-g0", *flags]
    LINK_ARGS += ["--coverage"]
elif DEBUG:
    COMPILE_ARGS += ["-O1", "-g"]
else:
    COMPILE_ARGS += ["-O3", "-g0"]


def pkg_config(*asked: str) -> list[str]:
    """What pkg-config says of OpenSSL; [] if there is none, or none that knows it."""
    try:
        said = subprocess.run(
            ["pkg-config", *asked, "openssl"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return said.stdout.split()


def openssl_major(folders: list[str]) -> int:
    """Of the headers in those folders, or where compilers look; 0: there are none."""
    multiarch = Path("/usr/include") / getattr(sys.implementation, "_multiarch", "")
    for folder in [
        *map(Path, folders),
        multiarch,
        Path("/usr/include"),
        Path("/usr/local/include"),
    ]:
        header = folder / "openssl" / "opensslv.h"
        if header.is_file():
            found = re.search(r"define\s+OPENSSL_VERSION_MAJOR\s+(\d+)", header.read_text())
            return int(found[1]) if found else 1
    return 0


def openssl() -> dict[str, list[str]] | None:
    """What the TLS module is compiled and linked with; None: without TLS."""
    wanted = os.environ.get("PROXY_ENGINE_OPENSSL", "")
    if wanted not in ("", "system", "static", "none"):
        sys.exit(f"PROXY_ENGINE_OPENSSL is system, static or none, not {wanted!r}")
    if wanted == "none":
        return None
    includes = [flag[2:] for flag in pkg_config("--cflags-only-I")]
    folders = [flag[2:] for flag in pkg_config("--libs-only-L")]
    if openssl_major(includes) < OPENSSL_MAJOR:
        if wanted:
            sys.exit("no headers of OpenSSL 3.0 or newer (Debian: apt-get install libssl-dev)")
        print("warning: no OpenSSL 3.0 or newer: building without TLS", file=sys.stderr)
        return None
    if wanted != "static":
        return {"includes": includes, "folders": folders, "libraries": ["ssl", "crypto"]}
    [folder] = pkg_config("--variable=libdir") or [""]
    archives = [f"{folder}/libssl.a", f"{folder}/libcrypto.a"]
    if not all(Path(archive).is_file() for archive in archives):
        sys.exit(f"no {' and '.join(archives)} for PROXY_ENGINE_OPENSSL=static")
    # Python's own ssl module may have another OpenSSL in the same process: ours stays ours.
    flags = ["-Wl,--exclude-libs,ALL", "-Wl,-Bsymbolic"]
    return {"includes": includes, "archives": archives, "flags": flags, "libraries": ["dl"]}


def extensions() -> list[Extension]:
    tls = openssl()
    headers = [str(path) for path in sorted(PACKAGE.rglob("*.h"))]
    found = []
    sources = [(source, ENGINE) for source in sorted(PACKAGE.rglob("*.pyx"))]
    if FUZZ:
        sources += [(source, source.parent) for source in sorted(Path("fuzz").glob("*.pyx"))]
    for source, root in sources:
        parts = source.relative_to(root).with_suffix("").parts
        if ("_testing" in parts and not TESTING) or "without_tls" in parts:
            continue
        name = ".".join(parts)
        linked: dict[str, list[str]] = {}
        if name == TLS_MODULE:
            linked = tls or {}
            if tls is None:
                source = source.parent / "without_tls" / source.name
        elif name == TLS_FUZZ:
            if tls is None:
                continue
            linked = tls
        found.append(
            Extension(
                name,
                [str(source)],
                libraries=linked.get("libraries", LIBRARIES.get(name, [])),
                library_dirs=linked.get("folders", []),
                extra_objects=linked.get("archives", []),
                include_dirs=[str(PACKAGE), *linked.get("includes", [])],
                depends=headers,
                define_macros=[("PROXY_ENGINE_DEBUG", "1" if DEBUG else "0")],
                extra_compile_args=COMPILE_ARGS,
                extra_link_args=[*LINK_ARGS, *linked.get("flags", [])],
            )
        )
    return found


packages = ["proxy_engine_core"]
packages += [
    f"proxy_engine_core.{path.parent.name}"
    for path in sorted(PACKAGE.glob("*/__init__.py"))
    if TESTING or path.parent.name != "_testing"
]
proxy = Path("proxy")
packages += sorted(
    ".".join(path.parent.relative_to(proxy).parts) for path in proxy.rglob("__init__.py")
)

setup(
    packages=packages,
    package_dir={
        "proxy_engine_core": "engine/proxy_engine_core",
        "proxy_engine": "proxy/proxy_engine",
    },
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
    ext_modules=cythonize(
        extensions(),
        include_path=[str(ENGINE), "fuzz"] if FUZZ else [str(ENGINE)],
        build_dir="build/cython-debug" if DEBUG else "build/cython",
        nthreads=os.cpu_count() or 1,
        emit_linenums=DEBUG or COVERAGE,
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": False,
            "initializedcheck": DEBUG,
            "cdivision": True,
            "embedsignature": True,
            "autotestdict": False,  # these two would add names that no stub has
            "auto_pickle": False,
        },
    ),
)
