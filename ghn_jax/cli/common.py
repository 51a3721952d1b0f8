"""What commands share: options, loading a hypernetwork with images that fit, the end of a program, writing results.

Importing this module loads no numerical library.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from ghn_jax.checks import files
from ghn_jax.checks.fields import Rule, Whole, shown
from ghn_jax.errors import GHNError

if TYPE_CHECKING:
    from ghn_jax.ghn.model import GHN
    from ghn_jax.images import Dataset
    from ghn_jax.networks.architecture import Task


PICTURES = (".png", ".pdf", ".svg", ".jpg")
"""Endings of names of pictures."""


class CommandError(GHNError):
    """A command line that makes no sense; the message names the option, its value and what was expected."""


@contextlib.contextmanager
def clean_exit(at_once: bool = False) -> Iterator[None]:
    """Ends the program without a traceback where its user can mend what went wrong.

    | cause | on stderr | exit status |
    |---|---|---|
    | an error of this package or of the system | its message | 1 |
    | too little memory | that | 1 |
    | Ctrl-C | "interrupted" | 130 |
    | the reader of a pipe is gone, as in `ghn-jax models | head -1` | nothing | 141 |

    Args:
      at_once: Ctrl-C ends the process without waiting for its threads, which may compile for minutes.
    """
    try:
        try:
            yield
        finally:
            _flush()
    except BrokenPipeError:
        _end_output()
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        _say("interrupted")
        if at_once:
            os._exit(128 + signal.SIGINT)
        sys.exit(128 + signal.SIGINT)
    except MemoryError as error:
        _fail(f"there is too little memory: {error}" if str(error) else "there is too little memory")
    except (GHNError, OSError) as error:
        _fail("\n".join([str(error), *getattr(error, "__notes__", [])]))


def _fail(message: str) -> NoReturn:
    """Ends the program with a message; standard output may be what could not be written."""
    try:
        _flush()
    except OSError:
        _end_output()
    sys.exit(cut(message, _MOST_MESSAGE))


def _flush() -> None:
    """Writes out what was printed, if there is a standard output: `>&-` leaves none."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _say(message: str) -> None:
    """On stderr, if there is still somebody who reads it."""
    with contextlib.suppress(OSError, ValueError):
        print(message, file=sys.stderr, flush=True)


def _end_output() -> None:
    """Lets Python's own flush of standard output, at its end, do no harm."""
    with contextlib.suppress(OSError, ValueError):  # it may be no file of the system
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_MOST_MESSAGE = 4000


def cut(text: str, most: int = 200) -> str:
    """A text for a message, however long it is."""
    return text if len(text) <= most else f"{text[:most]}..."


class _Once(argparse._StoreAction):
    """The value of an option.  Of two different lists argparse would leave the first out, where users mean both."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        first = parser.stored.setdefault(self.dest, values)
        if self.nargs is not None and first != values:
            raise argparse.ArgumentError(self, f"given twice, as {shown(first)} and {shown(values)}: expected one list")
        super().__call__(parser, namespace, values, option_string)


class _Parser(argparse.ArgumentParser):
    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.stored: dict[str, Any] = {}
        for name in (None, "store"):
            self.register("action", name, _Once)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.stored.clear()
        words = sys.argv[1:] if args is None else list(args)
        for before, word in zip(["", *words], words, strict=False):  # of variables of the shell that are not set
            if not word or re.fullmatch(r"--[\w.]+=", word):
                self.error(f"{word or before or repr(word)}: given without a value, expected one")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        super().error(cut(message, _MOST_MESSAGE))


def make_parser(description: str, command: str | None = None) -> argparse.ArgumentParser:
    """A parser whose help is a module's docstring.

    Args:
      description: the docstring.
      command: what is typed after `ghn-jax`, None for a script.
    """
    return _Parser(
        prog=None if command is None else f"ghn-jax {command}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_hypernetwork(parser: argparse.ArgumentParser) -> None:
    """Adds the option --checkpoint."""
    from ghn_jax.weights import pretrained

    parser.add_argument("--checkpoint", default=pretrained.DEFAULT.stem, help="what ghn_jax.load takes (%(default)s)")


def add_images(parser: argparse.ArgumentParser) -> None:
    """Adds --dataset and --data_dir, for the images of a hypernetwork."""
    parser.add_argument("--dataset", help="another data set than the hypernetwork was trained on")
    parser.add_argument("--data_dir", help="where its files are")


def picture_path(text: str) -> Path:
    """The path of a picture to be written, for `type=` of an option.

    Raises:
      ArgumentTypeError: a name that does not say in which format.
    """
    path = Path(text)
    if path.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"{text}: expected a name ending in {', '.join(PICTURES)}")
    return path


def of(rule: Rule) -> Callable[[str], Any]:
    """For `type=` of an option: the number that a rule takes."""

    def take(text: str) -> Any:
        try:
            return rule.take(int(text) if isinstance(rule, Whole) else float(text))
        except (ValueError, OverflowError):
            raise argparse.ArgumentTypeError(f"{shown(text)}: expected {rule.expected}") from None

    return take


COUNT = of(Whole(1, 1 << 40))
INDEX = of(Whole(0, 1 << 40))


def add_several(parser: argparse.ArgumentParser) -> None:
    """Adds several hypernetworks with titles, and the images that they are compared on."""
    parser.add_argument("hypernetworks", nargs="+", metavar="TITLE=WHAT", help="a title and what ghn_jax.load takes")
    parser.add_argument("--dataset", required=True, help="images to classify")
    parser.add_argument("--data_dir", help="where its files are")


def load_hypernetwork(what: str) -> tuple[GHN, Task]:
    """A hypernetwork and the task of the networks that it predicts.

    Raises:
      CheckpointError: as for `ghn_jax.load`.
    """
    from ghn_jax.weights import loading

    ghn = loading.load(what)
    return ghn, loading.task(what, ghn.config)


class Setting(NamedTuple):
    """A hypernetwork, the task of the networks that it predicts, images for it, and where it comes from."""

    ghn: GHN
    task: Task
    dataset: Dataset
    provenance: dict[str, Any]


def load_setting(what: str, dataset: str | None, data_dir: str | None) -> Setting:
    """A hypernetwork with images that fit.

    Args:
      what: as for `ghn_jax.load`.
      dataset: name of a data set, None for the one that the hypernetwork was trained on.
      data_dir: where its files are, None for where the hypernetwork's run found them, or the usual places.

    Raises:
      CheckpointError, ImageError: as for `ghn_jax.load` and `images.load`.
      CommandError: nobody knows which data set, or it is for another task.
    """
    from ghn_jax import images
    from ghn_jax.weights import checkpoint, loading

    ghn, task = load_hypernetwork(what)
    provenance = loading.provenance(what)
    if dataset is None:
        dataset = provenance.get("dataset")
        if dataset is None:
            raise CommandError(f"{what} does not say what it was trained on: give --dataset")
    if data_dir is None and Path(what).is_dir():
        stored = checkpoint.describe(what).train_config
        data_dir = stored.get("data_dir") if stored.get("dataset") == dataset else None
    data = images.load(dataset, data_dir)
    if data.task != task:
        raise CommandError(f"{dataset} is for {data.task}, the hypernetwork predicts networks for {task}")
    return Setting(ghn, task, data, provenance)


def load_several(entries: Iterable[str], dataset: str, data_dir: str | None) -> tuple[dict[str, GHN], Dataset]:
    """Hypernetworks by title, and the images that they are compared on.

    Raises:
      CheckpointError, ImageError: as for `loading.load_titled` and `images.load`.
    """
    from ghn_jax import images
    from ghn_jax.weights import loading

    data = images.load(dataset, data_dir)
    return loading.load_titled(entries, data.num_classes), data


def refuse_foreign(folder: Path, rows: str, *names: str) -> None:
    """Checks that tables and pictures of a study would replace only those that were made of its rows.

    Args:
      folder: for results.
      rows: name of the file there that the study adds its results to.
      names: of what is made of them.

    Raises:
      CommandError: one of `names` is there, and no rows.
      FileError: what is there may not be replaced, or nothing can be written there.
    """
    for path in (folder / name for name in names):
        if os.path.lexists(path) and not (folder / rows).is_file():
            raise CommandError(f"{path} stays as it is: --out={folder} has no {rows} that it was made of")
        files.refuse_to_replace(path)
    files.refuse_unwritable(folder / rows)


def refuse_existing(path: Path | None, overwrite: bool, folder: bool = False) -> None:
    """Checks that nothing would be replaced unasked, or could not be written in the end.

    Args:
      path: to be written, None for nothing.
      overwrite: replace what is there.
      folder: a folder is to be written, not a file.

    Raises:
      CommandError: there is something at `path`, or a file where a folder is to be written, or the other way round.
      FileError: with `overwrite`, something that this program did not write (`files.refuse_to_replace`); or nothing
        can be written there.
    """
    if path is None:
        return
    if os.path.lexists(path) and not overwrite:
        raise CommandError(f"--out={path} exists; --overwrite replaces it")
    if path.exists() and path.is_dir() != folder and (path.is_dir() or path.is_file()):
        raise CommandError(f"--out={path} stays as it is: a file and a folder do not replace each other")
    files.refuse_to_replace(path)
    files.refuse_unwritable(path)
