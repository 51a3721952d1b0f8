"""Runs the Python of README and docs, and checks their commands.

    python benchmarks/check_docs.py
    python benchmarks/check_docs.py README.md docs/api.md
    python benchmarks/check_docs.py --run-all            # also runs the commands: trainings and benchmarks, hours

Every block marked as python runs, those of a file in their order and in one namespace, in a folder of its own.  A block
after a line `<!-- not run: REASON -->` does not.  Of every command in a block marked as bash, and of every one that
stands alone in `backquotes`, the script and its options must exist: options are those that `--help` lists, fields of
`--config` those of `TrainConfig`, files of configuration those in the repository, goals of make those of the Makefile.

Prints what was run, checked and skipped, with the reason.  Exit status 1 if something fails.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import configparser
import dataclasses
import functools
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON_SECONDS = 600
HELP_SECONDS = 120

_SKIP = re.compile(r"<!-- not run: (.+?) -->")
_FENCE = re.compile(r"```(\w*)\s*$")
_SPAN = re.compile(r"`((?:python|make|ghn-jax) [^`]+)`")
_OPTION = re.compile(r"--\[?(?:no\])?([A-Za-z][\w-]*)")
_PLACEHOLDER = re.compile(r"\b(DIR|FILE|HOST|NAME|RUN|TITLE|PORT)\b|package\.module|\.\.\.")
_ENVIRONMENT = re.compile(r"[A-Z_]+=\S*")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: its language, lines, the number of the first, and why it is not run (None: it is)."""

    language: str
    lines: tuple[str, ...]
    first: int
    skipped: str | None


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line of a document, and where it stands."""

    text: str
    place: str
    skipped: str | None = None

    @property
    def words(self) -> list[str]:
        """Its words, without the settings of variables before it."""
        words = shlex.split(self.text)
        while words and _ENVIRONMENT.fullmatch(words[0]):
            words = words[1:]
        return words


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a document."""
    language, lines, first, reason, skipped = None, [], 0, None, None
    for number, line in enumerate(text.splitlines(), start=1):
        if language is not None:
            if line.startswith("```"):
                yield Block(language, tuple(lines), first, skipped)
                language = None
            else:
                lines.append(line)
        elif fence := _FENCE.match(line):
            language, lines, first, skipped, reason = fence[1], [], number + 1, reason, None
        elif skip := _SKIP.match(line):
            reason = skip[1]
        elif line.strip():
            reason = None


def commands(text: str, name: str) -> Iterator[Command]:
    """The commands in blocks of a shell, and those that stand in the text."""
    fenced: set[int] = set()
    for block in blocks(text):
        fenced.update(range(block.first - 1, block.first + len(block.lines) + 1))
        if block.language != "bash":
            continue
        begun, line_of = "", block.first
        for number, line in enumerate(block.lines, start=block.first):
            line_of = line_of if begun else number
            begun += line.removesuffix("\\")
            if not line.endswith("\\"):
                if begun.strip() and not begun.lstrip().startswith("#"):
                    yield Command(re.sub(r"\s+#.*", "", " ".join(begun.split())), f"{name}:{line_of}", block.skipped)
                begun = ""
    outside = "\n".join("" if i in fenced else line for i, line in enumerate(text.splitlines(), start=1))
    for span in _SPAN.finditer(outside):
        yield Command(" ".join(span[1].split()), f"{name}:{outside.count(chr(10), 0, span.start()) + 1}")


class Failed(Exception):
    """A command or block that does not hold; the message says why."""


class Skipped(Exception):
    """A command that is not checked; the message says why."""


@functools.cache
def help_text(words: tuple[str, ...]) -> str:
    """What a command prints when it is asked for help."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [*words, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HELP_SECONDS
    )
    text = done.stdout + done.stderr
    # absl ends with 1 after its help.
    if done.returncode and not (done.returncode == 1 and "--helpfull" in text):
        raise Failed(f"{shlex.join(words)} --help fails: {text.strip().splitlines()[-1] if text.strip() else ''}")
    return text


@functools.cache
def run_fields() -> frozenset[str]:
    """The fields of a training run."""
    from ghn_jax.training.config import TrainConfig

    return frozenset(field.name for field in dataclasses.fields(TrainConfig))


def check_options(words: Sequence[str], known: str) -> None:
    """Every option is in the help, every field of a run is one, every file of configuration exists."""
    options = set(_OPTION.findall(known))
    for word in words:
        if not word.startswith("--"):
            continue
        name, _, value = word[2:].partition("=")
        if name.startswith("config."):
            if name.removeprefix("config.") not in run_fields():
                raise Failed(f"a run has no field {name.removeprefix('config.')!r}")
        elif name not in options:
            raise Failed(f"there is no option --{name}")
        if name == "config" and not _PLACEHOLDER.search(value) and not (ROOT / value).is_file():
            raise Failed(f"there is no {value}")


def check_pip(words: Sequence[str]) -> None:
    """The extras that are asked for exist."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for word in words:
        for extra in re.findall(r"(?:^|ghn_jax|\.)\[([\w,-]+)\]", word):
            for name in extra.split(","):
                if name not in setup["options.extras_require"]:
                    raise Failed(f"setup.cfg has no extra {name!r}")


def check(command: Command) -> str:
    """What was checked of a command.

    Raises:
      Failed: it does not hold.
      Skipped: it is of a kind that is not checked.
    """
    words = command.words
    match words:
        case ["make", *goals]:
            makefile = (ROOT / "Makefile").read_text()
            for goal in goals:
                if not re.search(rf"^{re.escape(goal)}\s*:", makefile, re.MULTILINE):
                    raise Failed(f"the Makefile has no goal {goal!r}")
            return "goals"
        case ["python", script, *arguments] if script.endswith(".py"):
            if not (ROOT / script).is_file():
                raise Failed(f"there is no {script}")
            check_options(arguments, help_text((sys.executable, script)))
            return "script and options"
        case ["ghn-jax", *arguments] | ["python", "-m", "ghn_jax", *arguments]:
            names = [word for word in arguments[:2] if re.fullmatch(r"[a-z]+", word)]
            if names and names[0] != "deepnets":
                names = names[:1]
            check_options(arguments, help_text((sys.executable, "-m", "ghn_jax", *names)))
            return "command and options"
        case ["pip", "install", *arguments]:
            check_pip(arguments)
            return "extras"
    raise Skipped("not a command of this package")


def run_command(command: Command) -> str:
    """Runs a command in the root of the repository."""
    if command.skipped:
        raise Skipped(command.skipped)
    if _PLACEHOLDER.search(command.text):
        raise Skipped("it has a placeholder")
    if command.words[0] not in ("python", "make", "ghn-jax"):
        raise Skipped("not a command of this package")
    done = subprocess.run(["bash", "-c", command.text], cwd=ROOT)
    if done.returncode:
        raise Failed(f"exit status {done.returncode}")
    return "ran"


def run_python(path: Path, found: Sequence[Block]) -> None:
    """Runs blocks of a document in one namespace; tracebacks have the document's line numbers.

    Raises:
      Failed: with the end of what was printed.
    """
    last = found[-1].first + len(found[-1].lines)
    lines = [""] * last
    for block in found:
        lines[block.first - 1 : block.first - 1 + len(block.lines)] = block.lines
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / path.with_suffix(".py").name
        script.write_text("\n".join(lines) + "\n", encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        try:
            done = subprocess.run(
                [sys.executable, str(script)],
                cwd=folder, env=environment, capture_output=True, text=True, timeout=PYTHON_SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Failed(f"not finished after {PYTHON_SECONDS} s") from None
    if done.returncode:
        raise Failed("\n".join((done.stdout + done.stderr).strip().splitlines()[-8:]))


def documents(names: Sequence[str]) -> list[Path]:
    """The documents of these names, or all."""
    if names:
        return [Path(name).resolve() for name in names]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def check_python(path: Path) -> bool:
    """Runs the Python of a document; whether nothing failed."""
    name = path.relative_to(ROOT)
    found = [block for block in blocks(path.read_text(encoding="utf-8")) if block.language == "python"]
    for block in found:
        if block.skipped:
            print(f"skipped  {name}:{block.first}: {block.skipped}")
    found = [block for block in found if not block.skipped]
    if not found:
        return True
    try:
        run_python(path, found)
    except Failed as error:
        print(f"FAILED   {name}, python: {error}")
        return False
    print(f"ran      {name}: {len(found)} blocks of python, lines {', '.join(str(block.first) for block in found)}")
    return True


def check_command(command: Command, run_all: bool) -> bool:
    """Checks a command, and runs it if so asked; whether nothing failed."""
    try:
        done = check(command)
        print(f"checked  {command.place}: {command.text} ({done})")
        if run_all:
            print(f"{run_command(command):8} {command.place}: {command.text}")
    except Skipped as reason:
        print(f"skipped  {command.place}: {command.text} ({reason})")
    except (Failed, subprocess.TimeoutExpired) as error:
        print(f"FAILED   {command.place}: {command.text}: {error}")
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", nargs="*", help="files to check (README.md, CONTRIBUTING.md, docs/*.md)")
    parser.add_argument("--run-all", action="store_true", help="run the commands too")
    parser.add_argument("--no-python", action="store_true", help="check the commands alone")
    args = parser.parse_args()
    paths = documents(args.documents)
    found = [
        command for path in paths for command in commands(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
    ]
    threads = 1 if args.run_all else 2
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        well = list(pool.map(lambda command: check_command(command, args.run_all), found))
        if not args.no_python:
            well += pool.map(check_python, paths)
    print(f"{well.count(False)} failed")
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
