"""Hooks of MkDocs: README is the first page, the reference has every public name, pictures come along.

The Markdown in the repository stays as it is: links that lead out of `docs/` become pages here, or plain text.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]


def on_files(files, config):
    """Adds the first page, the reference, and the pictures of results."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=readme))
    files.append(File.generated(config, "reference.md", content=_reference()))
    for picture in sorted((ROOT / "results").rglob("*.png")):
        files.append(File.generated(config, picture.relative_to(ROOT).as_posix(), abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Points links at the pages; what is not among them stays as text."""
    markdown = markdown.replace("](../results/", "](results/")
    known = {file.src_uri for file in files}

    def link(found):
        text, target = found[1], found[2]
        path = target.partition("#")[0]
        return found[0] if not path or ":" in path or path in known else text

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", link, markdown)


def _reference() -> str:
    """A page with the docstring of every public name, in the groups of `api.md`."""
    lines, heading = ["# Reference", ""], ""
    for line in (ROOT / "docs" / "api.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            heading = line
        elif named := re.match(r"- `(\w+)`: ", line):
            lines += [heading, "", f"::: {_module(named[1])}.{named[1]}", ""]
            heading = ""
    return "\n".join(lines)


def _module(name: str) -> str:
    """The module of a public name."""
    source = (ROOT / "ghn_jax" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(rf'"{name}": "([\w.]+)"', source)
    return f"ghn_jax.{found[1]}" if found else "ghn_jax"
