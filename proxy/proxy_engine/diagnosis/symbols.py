"""Names of program counters in this process: which function of which module.

Modules are found in /proc/self/maps, functions in their ELF symbol tables: `.symtab`, where our
native functions are (they are not exported, so dladdr() does not know them), else `.dynsym`. A
counter that no function covers has the name of its module. Nothing here is fast: it runs in a
thread, after what it describes.
"""

from __future__ import annotations

import bisect
import contextlib
import mmap
import re
import struct
from typing import NamedTuple

_SECTIONS = struct.Struct("<IIQQQQIIQQ")  # Elf64_Shdr
_SEGMENT = struct.Struct("<IIQQQQQQ")  # Elf64_Phdr
_SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym
_LOAD, _SYMTAB, _DYNSYM, _FUNCTION = 1, 2, 11, 2
_ELF64_LITTLE = b"\x7fELF\x02\x01"


class _Mapped(NamedTuple):
    start: int
    end: int
    offset: int  # in the file
    path: str


class _Function(NamedTuple):
    address: int
    size: int
    name: int  # where its name is in the file


class Symbols:
    """Of the modules that are loaded now."""

    def __init__(self) -> None:
        self._mapped = sorted(_executable_maps())
        self._starts = [each.start for each in self._mapped]
        self._modules: dict[str, _Module | None] = {}

    def stack(self, counters: list[int]) -> list[str]:
        """Names of a stack, the outermost first.

        Args:
            counters: the innermost first; all others are return addresses, behind the call.
        """
        return [self.name(each - (index > 0)) for index, each in enumerate(counters)][::-1]

    def name(self, counter: int) -> str:
        index = bisect.bisect_right(self._starts, counter) - 1
        if index < 0 or counter >= self._mapped[index].end:
            return "?"
        mapped = self._mapped[index]
        if mapped.path not in self._modules:
            self._modules[mapped.path] = _Module.read(mapped.path)
        module = self._modules[mapped.path]
        found = module.function(counter - mapped.start + mapped.offset) if module else None
        return readable(found) if found else mapped.path.rpartition("/")[2]


def _executable_maps() -> list[_Mapped]:
    found = []
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.split(maxsplit=5)
            if "x" not in fields[1]:
                continue
            start, _, end = fields[0].partition("-")
            path = fields[5].rstrip("\n") if len(fields) > 5 else "[anonymous]"
            found.append(_Mapped(int(start, 16), int(end, 16), int(fields[2], 16), path))
    return found


class _Module:
    """The functions of one ELF file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._segments: list[tuple[int, int, int]] = []  # file offset, size, address
        self._functions: list[_Function] = []
        self._read()
        self._addresses = [each.address for each in self._functions]

    @classmethod
    def read(cls, path: str) -> _Module | None:
        """None if it is not a file that we can read."""
        with (
            contextlib.suppress(OSError, ValueError, struct.error, IndexError),
            open(path, "rb") as file,
        ):
            return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return None

    def _read(self) -> None:
        data = self._data
        if data[:6] != _ELF64_LITTLE:
            raise ValueError("not a 64 bit ELF file")
        segments, sections = struct.unpack_from("<QQ", data, 32)
        _, count, section_size, section_count = struct.unpack_from("<HHHH", data, 54)
        for index in range(count):
            kind, _, offset, address, _, size, *_ = _SEGMENT.unpack_from(
                data, segments + index * _SEGMENT.size
            )
            if kind == _LOAD:
                self._segments.append((offset, size, address))
        tables = [
            _SECTIONS.unpack_from(data, sections + index * section_size)
            for index in range(section_count)
        ]
        for wanted in (_SYMTAB, _DYNSYM):
            for table in tables:
                if table[1] == wanted and not self._functions:
                    self._functions = self._functions_of(table, tables[table[6]][4])

    def _functions_of(self, table: tuple[int, ...], names: int) -> list[_Function]:
        symbols = self._data[table[4] : table[4] + table[5]]
        return sorted(
            _Function(address, size, names + name)
            for name, info, _, section, address, size in _SYMBOL.iter_unpack(symbols)
            if info & 15 == _FUNCTION and section and size
        )

    def function(self, offset: int) -> str | None:
        """The name of the function at this place of the file."""
        for start, size, address in self._segments:
            if start <= offset < start + size:
                wanted = offset - start + address
                break
        else:
            return None
        index = bisect.bisect_right(self._addresses, wanted) - 1
        if index < 0 or wanted >= self._functions[index].address + self._functions[index].size:
            return None
        name = self._functions[index].name
        return self._data[name : self._data.find(b"\0", name)].decode("utf-8", "replace")


_CYTHON = re.compile(r"__pyx_(?:f|pf|pw|fuse_\d+f)_")
_CLONED = re.compile(r"\.(?:constprop|isra|part|cold|lto_priv)\b.*")


def readable(symbol: str) -> str:
    """`__pyx_f_17proxy_engine_core_2io_6worker_take_events` is `io.worker.take_events`."""
    symbol = _CLONED.sub("", symbol)
    mangled = _CYTHON.match(symbol)
    if mangled is None:
        return symbol
    rest, parts = symbol[mangled.end() :], []
    while (size := re.match(r"\d+", rest)) is not None:
        end = size.end() + int(size[0])
        if rest[end : end + 1] != "_":  # the number of a method, as in 21poll
            rest = rest[size.end() :]
            break
        parts.append(rest[size.end() : end])
        rest = rest[end + 1 :]
    if parts[:1] == ["proxy_engine_core"]:
        parts = parts[1:]
    return ".".join([*parts, rest])
