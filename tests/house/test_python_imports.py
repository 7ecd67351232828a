"""No import circle in the Python packages: imports inside functions and for type checkers count too, since a circle that only
bites when a function is called is still one. A module of another package needs that package's __init__ as well, which runs first.
Read from the sources, nothing is imported."""

import ast

import pytest
from source_tree import ROOT, report

PACKAGES = ("aerogel", "mindiesd")


def modules_of(paths):
    """Module name -> path, for paths relative to the folder that holds the packages."""
    names = {}
    for path in paths:
        parts = path.with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports_of(module, is_package, text, modules):
    """The modules of ours that a module's text imports. `from . import x` needs x, not the package, unless x is a name in its __init__."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")
            base = base[: len(base) - node.level + is_package] if node.level else []
            base = ".".join(base + ([node.module] if node.module else []))
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                is_extension = alias.name == "_core"
                found.update({inner} if inner in modules else {base} if base in modules and not is_extension else ())
    return {needed for name in found for needed in with_packages(name, module)} & modules.keys() - {module}


def with_packages(name, module):
    """The name and the packages around it, but for those that are around the importing module too."""
    parts = name.split(".")
    around = [".".join(parts[:n]) for n in range(1, len(parts))]
    return [name, *(package for package in around if not f"{module}.".startswith(f"{package}."))]


def circle_in(graph):
    """One circle as a list of modules, first and last the same, or an empty list."""
    done = set()

    def walk(module, trail):
        if module in trail:
            return trail[trail.index(module):] + [module]
        if module in done:
            return []
        for other in sorted(graph[module]):
            if circle := walk(other, [*trail, module]):
                return circle
        done.add(module)
        return []

    return next((circle for module in sorted(graph) if (circle := walk(module, []))), [])


def graph_of(texts):
    """texts: path -> text. Module -> the modules that it imports."""
    modules = modules_of(texts)
    return {name: imports_of(name, path.stem == "__init__", texts[path], modules) for name, path in modules.items()}


def tree():
    folder = ROOT / "python"
    paths = [p for package in PACKAGES for p in (folder / package).rglob("*.py")]
    return graph_of({p.relative_to(folder): p.read_text() for p in paths})


def test_the_packages_have_no_import_circle():
    graph = tree()
    assert len(graph) > 20 and sum(map(len, graph.values())) > 40
    circle = circle_in(graph)
    report([" -> ".join(circle)] if circle else [])


Path = type(ROOT)


@pytest.mark.parametrize("files, circle", [
    ({"a/__init__.py": "from .x import f", "a/x.py": "from . import _core"}, []),
    ({"a/__init__.py": "from .x import f", "a/x.py": "from . import f"}, ["a", "a.x", "a"]),
    ({"a/__init__.py": "", "a/x.py": "import a.y", "a/y.py": "def f():\n    from .x import g"}, ["a.x", "a.y", "a.x"]),
    ({"a/__init__.py": "", "a/x.py": "from . import y", "a/y.py": "if TYPE_CHECKING:\n    from a import x"}, ["a.x", "a.y", "a.x"]),
    ({"a/__init__.py": "from .b import f", "a/b/__init__.py": "from .x import f", "a/b/x.py": "from .. import c", "a/c.py": ""}, []),
    ({"a/__init__.py": "", "a/b/__init__.py": "from .x import f", "a/b/x.py": "from ..c import g", "a/c.py": "from .b.x import f"},
     ["a.b", "a.b.x", "a.c", "a.b"]),
    ({"a/__init__.py": "", "a/b/__init__.py": "from .y import f", "a/b/x.py": "", "a/b/y.py": "from ..c import g", "a/c.py": "from .b.x import h"},
     ["a.b", "a.b.y", "a.c", "a.b"]),
    ({"a/__init__.py": "", "a/b/__init__.py": "from .y import f", "a/b/x.py": "from .y import f", "a/b/y.py": ""}, []),
    ({"a/__init__.py": "", "a/x.py": "import os\nfrom numpy import y", "a/y.py": "from .x import f"}, []),
])
def test_circles_are_found(files, circle):
    assert circle_in(graph_of({Path(name): text for name, text in files.items()})) == circle
