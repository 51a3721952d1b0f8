"""Every module stands on a floor, and imports only from floors below; imports inside functions count too."""

import ast

import pytest
import scripts

PACKAGE = scripts.ROOT / "ghn_jax"

STAIR = (
    "errors",
    "checks",
    "runtime graphs",
    "networks",
    "ghn execution deepnets images",
    "weights",
    "prediction",
    "evaluation tracing",
    "training studies",
    "cli",
    "__main__",
)
FLOOR = {room: floor for floor, rooms in enumerate(STAIR) for room in rooms.split()}
MODULES = sorted(path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py"))


def name_of(path):
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


NAMES = {name_of(path) for path in MODULES}


def imported(path):
    """Modules of the package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse((PACKAGE.parent / path).read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            both = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [name if name in NAMES else node.module for name in both]
        else:
            continue
        yield from (name for name in found if name in NAMES)


@pytest.mark.parametrize("path", [path for path in MODULES if len(path.parts) > 1], ids=str)
def test_imports_lead_downwards(path):
    room = path.with_suffix("").parts[1]
    if room == "__init__":
        return  # the public names, which are imported when they are used
    for name in imported(path):
        there = name.split(".")[1] if "." in name else None
        allowed = there is None or there == room or FLOOR[there] < FLOOR[room]
        assert allowed, f"{path} imports {name}, which is not on a floor below {room}"


def test_no_circles():
    graph = {name_of(path): set(imported(path)) - {name_of(path), "ghn_jax"} for path in MODULES}
    graph["ghn_jax"] = set()
    while leaves := [name for name, needs in graph.items() if not needs & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert not graph, f"circles among {sorted(graph)}"


def test_few_modules_stand_outside_of_the_rooms():
    assert {path.stem for path in PACKAGE.glob("*.py")} <= {"__init__", "__main__", "errors", "runtime"}


def test_the_public_names_are_those_that_an_editor_sees():
    """Spelled three times: for editors, for `import *`, and where each comes from when it is used."""
    import ghn_jax

    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (seen,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imports = {alias.name: node.module for node in seen.body for alias in node.names}
    assert imports == {name: f"ghn_jax.{module}" for name, module in ghn_jax._MODULE_OF.items()}
    assert sorted(imports) == ghn_jax.__all__
    for name in ghn_jax.__all__:
        assert getattr(ghn_jax, name).__module__.startswith("ghn_jax.")
