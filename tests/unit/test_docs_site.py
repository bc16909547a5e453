"""The guide site: every page has a place, and what is made of the code holds all of it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("proxy_engine_core.core", reason="the engine is not built")

from docs.site import build, cli_page, hooks_page, routes_page, settings_page
from proxy_engine import failures
from proxy_engine.api.table import TABLE
from proxy_engine.cli import build_parser
from proxy_engine.hooks import Hook, loading, reference
from proxy_engine.settings import config

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
VERBS = dict(cli_page.verbs_of(build_parser()))


def test_every_page_has_a_place_and_every_place_a_page() -> None:
    listed = [page for section in build.sections() for page in section["pages"]]
    assert len(listed) == len(set(listed))
    written = {page.stem for page in DOCS.glob("*.md")} - {"index"}
    made = {*build.GENERATED, *build.OUTSIDE.values(), build.DECISIONS}
    assert set(listed) == written | made, "docs/site/nav.toml"


def test_every_setting_has_its_section_with_type_and_default() -> None:
    page = settings_page.page()
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == list(config.KEYS)
    for name in config.KEYS:
        assert settings_page.type_of(name)
        assert settings_page.default_of(name)
    assert "`--data-dir DIR` of run" in page


def test_every_verb_and_flag_says_what_it_is_for() -> None:
    page = cli_page.page()
    for words, parser in VERBS.items():
        assert re.search(rf"^#+ {words}$", page, re.MULTILINE)
        silent = [name for name, text in cli_page.arguments(parser) if not text]
        assert not silent, words


def test_every_route_is_on_its_page() -> None:
    page = routes_page.page()
    for route in TABLE:
        assert f"### {route.method} {route.path}\n" in page


def test_every_event_field_and_option_of_hooks_says_what_it_is() -> None:
    page = hooks_page.page()
    for event in reference.events():
        assert f"### {event.name}\n" in page
        assert event.text and event.payload_text, event.name
        assert event.fields, event.name
        for field in event.fields:
            assert field.text, f"{event.payload}.{field.name}"
    for option in reference.general_options():
        assert option.text, option.name
    for name in loading.BUILT_IN:
        kind = loading.class_of(name)
        assert f"### {name}\n" in page
        assert reference.about(kind), name
        for option in reference.options(kind):
            assert option.text, f"{name}: {option.name}"
            assert f"| `{option.name}` |" in page
    for source, where in failures.KINDS:
        assert f"| `{source}` | `{where}` |" in page


def test_every_general_option_of_hooks_is_an_attribute_with_a_default() -> None:
    defaults = {name for name in vars(Hook) if name in Hook.__annotations__} - {"OPTIONS"}
    assert {*Hook.OPTIONS} == defaults


def commands() -> list[tuple[str, str]]:
    """Each command of ours in a code block of the documentation, with the file it is in."""
    found = []
    for page in (ROOT / "README.md", *sorted(DOCS.glob("*.md"))):
        for block in re.findall(r"^ *```\w*\n(.*?)^ *```", page.read_text(), re.M | re.S):
            for line in re.sub(r"\\\n", " ", block).splitlines():
                match = re.match(
                    r"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:sudo )?(proxy-engine .*)", line.strip()
                )
                if match:
                    found.append((page.name, match[1]))
    return found


COMMANDS = commands()


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{a}: {b}" for a, b in COMMANDS])
def test_every_command_in_the_documentation_is_one(page: str, command: str) -> None:
    words = shlex.split(command, comments=True)[1:]
    for end in ("|", ">", ">>", "2>>", "<", "&", "&&"):
        if end in words:
            words = words[: words.index(end)]
    words = [word for word in words if word not in ("...", "&")]
    if any(word in ("VERB",) for word in words):
        return
    try:
        build_parser().parse_args(words)
    except SystemExit as error:
        assert error.code in (0, None), (page, command)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs"])
def test_links_between_files_of_the_repository_lead_somewhere(name: str) -> None:
    pages = sorted(DOCS.rglob("*.md")) if name == "docs" else [ROOT / name]
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)[^)\s]*\)", page.read_text()):
            if not re.match(r"[a-z]+:|\[", target):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def settings_files() -> list[tuple[str, str]]:
    return [
        (page.name, text)
        for page in (ROOT / "README.md", *sorted(DOCS.glob("*.md")))
        for text in re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.M | re.S)
    ]


@pytest.mark.parametrize(("page", "text"), settings_files())
def test_every_file_of_settings_in_the_documentation_is_one(
    page: str, text: str, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    config.load({}, {}, file=str(file))
