"""README and docs name what exists: every public name, link, path and module; `benchmarks/check_docs.py` runs them."""

import ast
import functools
import re
from pathlib import Path

import pytest
import scripts

import ghn_jax

ROOT = scripts.ROOT
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
README_LINES = 125

# Folders of the repository; what a document says below them must be there.
FOLDERS = "benchmarks|configs|docs|examples|experiments|ghn_jax|notebooks|results|tests|tools"

check_docs = scripts.load("benchmarks/check_docs.py")
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def test_readme_is_short():
    assert len(text_of(ROOT / "README.md").splitlines()) <= README_LINES


def test_tables_of_the_readme_have_six_rows_at_most():
    tables = re.findall(r"(?:^\|.*\n)+", text_of(ROOT / "README.md"), re.MULTILINE)
    assert all(len(table.splitlines()) <= 2 + 6 for table in tables)


def test_api_has_a_line_and_an_example_for_every_public_name():
    text = text_of(ROOT / "docs" / "api.md")
    lines = re.findall(r"^- `(\w+)`: \S", text, re.MULTILINE)
    assert sorted(lines) == sorted(ghn_jax.__all__)
    code = "\n".join(line for block in check_docs.blocks(text) for line in block.lines)
    code += " ".join(re.findall(r"`(except [^`]+)`", text))
    assert [name for name in ghn_jax.__all__ if not re.search(rf"ghn_jax\.{name}\b", code)] == []


@each_document
def test_links_lead_somewhere(document):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@functools.cache
def anchors(document: Path) -> frozenset[str]:
    headings = re.findall(r"^#+ (.+)$", text_of(document), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


@each_document
def test_paths_exist(document):
    # Not `runs/digits` of "GHN-2=runs/digits", nor what follows a package in a path of another folder.
    paths = re.findall(rf"(?<![\w./~-])((?:{FOLDERS})/[\w./-]*)", text_of(document))
    missing = [path for path in paths if not (ROOT / path.rstrip(".")).exists()]
    assert missing == []


@each_document
def test_modules_and_their_names_exist(document):
    names = re.findall(r"(?<![\w./])ghn_jax(?:\.[A-Za-z_]\w*)+", text_of(document))
    assert sorted({name for name in names if not exists(name)}) == []


@functools.cache
def exists(name: str) -> bool:
    """Whether `ghn_jax.a.b.c` is a module, a name at the top of one, or a part of such a name; nothing is imported."""
    parts = name.split(".")[1:]
    if parts[0] in ghn_jax.__all__ or re.fullmatch(r"__\w+__", parts[0]):
        return True
    place = ROOT / "ghn_jax"
    while parts and (place / parts[0]).is_dir():
        place, parts = place / parts[0], parts[1:]
    if parts and (place / f"{parts[0]}.py").is_file():
        place, parts = place / f"{parts[0]}.py", parts[1:]
    file = place if place.is_file() else place / "__init__.py"
    return file.is_file() and (not parts or parts[0] in top_names(file))


@functools.cache
def top_names(file: Path) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Assign(targets=targets):
                found.update(target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found.update(alias.asname or alias.name for alias in names)
    return frozenset(found)


def test_blocks_and_commands_are_found():
    text = """
`make test` first.

<!-- not run: takes days -->
```bash
python experiments/train.py \\
    --config=configs/cifar.py    # days
JAX_PLATFORMS=cpu make demo
```

```python
x = 1
```
"""
    shell, python = check_docs.blocks(text)
    assert (shell.language, shell.first, shell.skipped) == ("bash", 6, "takes days")
    assert (python.language, python.lines, python.skipped) == ("python", ("x = 1",), None)
    train, demo, test = check_docs.commands(text, "a.md")
    assert train.words == ["python", "experiments/train.py", "--config=configs/cifar.py"]
    assert (train.place, train.skipped) == ("a.md:6", "takes days")
    assert (demo.words, demo.place) == (["make", "demo"], "a.md:8")
    assert (test.text, test.place) == ("make test", "a.md:2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("make tset", "no goal 'tset'"),
        ("python experiments/trian.py", "no experiments/trian.py"),
        ("pip install '.[tensorbord]'", "no extra 'tensorbord'"),
    ],
)
def test_commands_that_do_not_hold_are_named(text, message):
    with pytest.raises(check_docs.Failed, match=re.escape(message)):
        check_docs.check(check_docs.Command(text, "a.md:1"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num=3", "--nmu=3"], "no option --nmu"),
        (["--config.stepps=3"], "no field 'stepps'"),
        (["--config=configs/cifr.py"], "no configs/cifr.py"),
    ],
)
def test_options_that_are_not_there_are_named(words, message):
    with pytest.raises(check_docs.Failed, match=re.escape(message)):
        check_docs.check_options(words, "  --num NUM\n  --config=CONFIG")


def test_python_of_a_document_fails_with_the_line_of_the_document(tmp_path):
    document = tmp_path / "a.md"
    document.write_text("# A\n\n```python\nx = 1\n```\n\n```python\nprint(x)\nassert x == 2\n```\n")
    found = list(check_docs.blocks(text_of(document)))
    check_docs.run_python(document, found[:1])
    with pytest.raises(check_docs.Failed, match=r'a.py", line 9'):
        check_docs.run_python(document, found)
