"""Build the site: pages of docs/, of the files beside them, and those made of the code.

    python -m docs.site.build OUTPUT

Everything is laid out in OUTPUT/source first, where links, which are those of the repository up
to there, are made to fit. Sphinx stops at any link that leads nowhere.
"""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

from docs.site import cli_page, hooks_page, routes_page, settings_page

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent
ROOT = DOCS.parent
GENERATED = {
    "reference/settings": settings_page.page,
    "reference/cli": cli_page.page,
    "reference/hooks": hooks_page.page,
    "reference/routes": routes_page.page,
}
# Files of the repository that are pages too.
OUTSIDE = {
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "benchmarks/README.md": "benchmarks",
}
DECISIONS = "decisions"


def sections() -> list[dict[str, Any]]:
    with open(HERE / "nav.toml", "rb") as file:
        found: list[dict[str, Any]] = tomllib.load(file)["sections"]
    return found


def link_to(target: str, page: Path) -> str:
    """A link of the file `page` as it is on the site."""
    path, hash_, fragment = target.partition("#")
    if not path or re.match(r"[a-z]+:", path):
        return target
    wanted = (page.parent / path).resolve()
    name = str(wanted.relative_to(ROOT)) if wanted.is_relative_to(ROOT) else path
    depth = len(page.relative_to(DOCS).parts) - 1 if page.is_relative_to(DOCS) else 0
    up = "../" * depth
    if name in OUTSIDE:
        return f"{up}{OUTSIDE[name]}.md{hash_}{fragment}"
    if name in ("docs/adr", "docs/adr/"):
        return f"{up}{DECISIONS}.md"
    if name == "README.md":
        return f"{up}index.md"
    if name.startswith("docs/") and name.endswith(".md"):
        return f"{up}{name.removeprefix('docs/')}{hash_}{fragment}"
    return ""


def fitted(page: Path) -> str:
    """The text of a page; a link to a file that is no page becomes its name."""

    def fit(match: re.Match[str]) -> str:
        target = link_to(match[2], page)
        if not target:
            return match[1]
        is_file_name = re.fullmatch(r"(?:docs/)?[\w-]+\.md", match[1])
        return f"[{'' if is_file_name else match[1]}]({target})"  # Sphinx fills in the title

    return re.sub(r"(?<!!)\[([^\]\n]+)\]\(([^)\s]+)\)", fit, page.read_text())


def lay_out(source: Path) -> None:
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for page in DOCS.rglob("*.md"):
        place = source / page.relative_to(DOCS)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(fitted(page))
    for name, place_name in OUTSIDE.items():
        (source / f"{place_name}.md").write_text(fitted(ROOT / name))
    for name, make in GENERATED.items():
        (source / f"{name}.md").parent.mkdir(exist_ok=True)
        (source / f"{name}.md").write_text(make())
    decisions = sorted(str(x.relative_to(DOCS))[:-3] for x in (DOCS / "adr").glob("*.md"))
    (source / f"{DECISIONS}.md").write_text(
        "# Decisions\n\nWhat others will wonder about: the context, the decision, what follows.\n"
        "A decision that no longer holds says by which it was replaced.\n\n"
        + toctree("", decisions)
    )
    index = source / "index.md"
    trees = [toctree(each["title"], each["pages"], "hidden") for each in sections()]
    index.write_text(index.read_text() + "\n" + "\n".join(trees))
    if (DOCS / "plots").is_dir():
        shutil.copytree(DOCS / "plots", source / "plots")
    for name in ("conf.py", "static"):
        copy = shutil.copytree if (HERE / name).is_dir() else shutil.copy
        copy(HERE / name, source / name)


def toctree(caption: str, pages: list[str], *options: str) -> str:
    lines = ["```{toctree}", ":maxdepth: 1", *(f":{option}:" for option in options)]
    if caption:
        lines.append(f":caption: {caption}")
    return "\n".join([*lines, "", *pages, "```", ""])


def main(output: Path) -> int:
    from sphinx.cmd.build import build_main

    lay_out(output / "source")
    strict = ["-W", "--keep-going", "--nitpicky", "--quiet", "-j", "2"]
    return int(
        build_main(
            [*strict, "-b", "html", "-d", str(output / "doctrees"), str(output / "source"),
             str(output / "html")]
        )
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
