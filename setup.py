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
PROXY_ENGINE_WERROR=1    a gcc warning is an error. A switch of ours because CFLAGS from
                         the environment would replace Python's own flags
"""

from __future__ import annotations

import os
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


def extensions() -> list[Extension]:
    headers = [str(path) for path in sorted(PACKAGE.rglob("*.h"))]
    found = []
    sources = [(source, ENGINE) for source in sorted(PACKAGE.rglob("*.pyx"))]
    if FUZZ:
        sources += [(source, source.parent) for source in sorted(Path("fuzz").glob("*.pyx"))]
    for source, root in sources:
        parts = source.relative_to(root).with_suffix("").parts
        if "_testing" in parts and not TESTING:
            continue
        name = ".".join(parts)
        found.append(
            Extension(
                name,
                [str(source)],
                libraries=LIBRARIES.get(name, []),
                include_dirs=[str(PACKAGE)],
                depends=headers,
                define_macros=[("PROXY_ENGINE_DEBUG", "1" if DEBUG else "0")],
                extra_compile_args=COMPILE_ARGS,
                extra_link_args=LINK_ARGS,
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
