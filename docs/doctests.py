"""Examples in docstrings as code: without this, Markdown reads `>>>` as a quotation."""

from __future__ import annotations

import re

import griffe

_EXAMPLE = re.compile(r"^( *)>>> (?:.*\n?)+?(?=\n|\Z)", re.MULTILINE)


class Doctests(griffe.Extension):
    """Fences the examples of every docstring."""

    def on_object(self, *, obj, **options):
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """The text with a fence around every block that begins with `>>>`; it ends at an empty line."""
    return _EXAMPLE.sub(lambda block: f"{block[1]}```pycon\n{block[0].rstrip()}\n{block[1]}```", text)
