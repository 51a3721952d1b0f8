"""Makes the notebooks of their sources, runs them, and checks that both agree.

    python notebooks/build.py                    # make and run all, with small sizes
    python notebooks/build.py predict paper      # these
    python notebooks/build.py --check            # run nothing: are the .ipynb files those of the .py files?

A source is a script in the percent format of jupytext.  Its first cell of code is `setup_cell.py`, the same in all.
Needs `pip install '.[notebooks]'`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).resolve().parent
NAMES = ("predict", "your_model", "train_on_tpu", "deepnets", "paper")

REPOSITORY = ""
"""OWNER/NAME on GitHub, for the badge "open in Colab"; without it there is no badge, so no link leads nowhere."""

CELL_SECONDS = 600
SETUP_MARK = '# %% tags=["setup"]\n'


def badge(name: str) -> str:
    """The line that stands first in a notebook."""
    if not REPOSITORY:
        return "*To run it in Colab: File, Upload notebook; then choose a runtime (Runtime, Change runtime type).*"
    address = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/{name}.ipynb"
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({address})"


def source(name: str) -> str:
    """The source of a notebook, with today's first cell of code."""
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    before, mark, after = text.partition(SETUP_MARK)
    if not mark:
        raise SystemExit(f"{name}.py has no cell {SETUP_MARK.strip()}")
    rest = re.split(r"(?m)^(?=# %%)", after, maxsplit=1)[1]
    return f"{before}{mark}{(FOLDER / 'setup_cell.py').read_text(encoding='utf-8')}\n{rest}"


def notebook(name: str) -> nbformat.NotebookNode:
    """The notebook without outputs."""
    made = jupytext.reads(source(name), fmt="py:percent")
    made.cells.insert(1, nbformat.v4.new_markdown_cell(badge(name)))
    made.metadata = nbformat.from_dict(
        {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
            "accelerator": "TPU" if name == "train_on_tpu" else "GPU",
            "colab": {"provenance": []},
        }
    )
    for number, cell in enumerate(made.cells):
        cell.id = f"{name}-{number}"
    return made


def cells(of: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """Kind and text of every cell."""
    return [(cell.cell_type, cell.source) for cell in of.cells]


def disagreement(name: str) -> str | None:
    """What keeps a notebook from being the one of its source, None if it is."""
    path = FOLDER / f"{name}.ipynb"
    if (FOLDER / f"{name}.py").read_text(encoding="utf-8") != source(name):
        return f"{name}.py: its first cell of code is not setup_cell.py"
    if not path.is_file():
        return f"{path.name} is not there"
    stored = nbformat.read(path, as_version=4)
    if cells(stored) != cells(notebook(name)):
        return f"{path.name} is not what {name}.py makes"
    if any(cell.cell_type == "code" and cell.source and not cell.execution_count for cell in stored.cells):
        return f"{path.name} has cells that were not run"
    return None


def run(name: str) -> float:
    """Makes a notebook, runs it in its folder and writes it with what it printed; returns the seconds it took."""
    from nbclient import NotebookClient

    (FOLDER / f"{name}.py").write_text(source(name), encoding="utf-8")
    made = notebook(name)
    began = time.monotonic()
    client = NotebookClient(made, timeout=CELL_SECONDS, kernel_name="python3", record_timing=False)
    client.execute(cwd=str(FOLDER))
    for cell in made.cells:
        if "outputs" in cell:
            cell.outputs = joined(cell.outputs)
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                raise SystemExit(f"{name}: {output.ename}: {output.evalue}")
            if output.output_type == "stream":
                output.text = as_seen(output.text)
    nbformat.write(made, FOLDER / f"{name}.ipynb")
    return time.monotonic() - began


def joined(outputs: list) -> list:
    """Outputs, with what was written to one stream in one piece."""
    found: list = []
    for output in outputs:
        if output.output_type == "stream":
            for known in found:
                if known.output_type == "stream" and known.name == output.name:
                    known.text += output.text
                    break
            else:
                found.append(output)
        else:
            found.append(output)
    return found


def as_seen(text: str) -> str:
    """A stream as one sees it at its end: a progress bar overwrites itself."""
    lines = (line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n"))
    return "\n".join(lines).strip("\n") + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=", ".join(NAMES))
    parser.add_argument("--check", action="store_true", help="run nothing")
    parser.add_argument("--full", action="store_true", help="full sizes: for a GPU or TPU")
    args = parser.parse_args()
    names = args.names or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"no notebook {', '.join(sorted(unknown))}: expected {', '.join(NAMES)}")
    if args.check:
        wrong = [reason for name in names if (reason := disagreement(name))]
        print("\n".join(wrong) or f"{len(names)} notebooks agree with their sources")
        return int(bool(wrong))
    os.environ["GHN_JAX_SMALL"] = "0" if args.full else "1"
    for name in names:
        print(f"{name}: {run(name):.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
