"""The layers of the house: no include points to a layer above, none makes a cycle, third-party headers stay
where they belong, public headers need nothing but the standard library and each other, values of a thread stay in base, and
models touch no element of their arrays."""

import re

import pytest
from source_tree import CPP_SUFFIXES, LAYER_LINE, ROOT, includes, report, source_files

MAY_INCLUDE = {"base": set()}
MAY_INCLUDE["core"] = {"base"}
MAY_INCLUDE["formats"] = MAY_INCLUDE["core"] | {"core"}
MAY_INCLUDE["kernels"] = MAY_INCLUDE["formats"] | {"formats"}
MAY_INCLUDE["ops"] = MAY_INCLUDE["kernels"] | {"kernels"}
MAY_INCLUDE["quant"] = MAY_INCLUDE["sparse"] = MAY_INCLUDE["ops"] | {"ops"}
MAY_INCLUDE["model"] = MAY_INCLUDE["quant"] | {"quant", "sparse"}
MAY_INCLUDE["cli"] = MAY_INCLUDE["python"] = MAY_INCLUDE["bench"] = MAY_INCLUDE["model"] | {"model"}

# Folders under kernels/ that must not see each other: machines are independent, and the reference is an oracle.
KERNEL_WALLS = {"cpu": {"cuda"}, "cuda": {"cpu"}, "reference": {"cpu", "cuda"}}

THIRD_PARTY = {
    "Eigen/": {"quant", "model"},
    "yaml-cpp/": {"quant"},
    "fmt/": set(MAY_INCLUDE) - {"kernels"},
    "nlohmann/": {"core", "quant", "sparse", "model", "cli", "bench"},
    "CLI/": {"cli"},
    "png.h": {"model"},
    "pcre2.h": {"model"},
    "utf8proc.h": {"model"},
    "benchmark/": {"bench"},
    "nanobind/": {"python"},
    "cuda": {"kernels"},
}
# Where PTX stands in a kernel's primitives, another compiler gets the tests' emulator of a GPU.
EMULATED = ("src/kernels/cuda/primitives/", "emulator/")
SYSTEM = re.compile(r"sys/\w+\.h|(unistd|malloc|fcntl|pthread|sched|dlfcn|errno|signal|spawn|cpuid|x86intrin|\w*mmintrin)\.h")


def layer_of(path, text):
    parts = path.parts
    if parts[0] == "include":
        match = LAYER_LINE.search(text)
        return match[1] if match else None
    if parts[0] == "src":
        return parts[1] if len(parts) > 2 else None
    return parts[0]


def resolve(name, files):
    for candidate in (f"src/{name}", f"include/{name}", f"python/{name}"):
        if candidate in files:
            return candidate
    return None


def third_party_error(name, layer):
    if re.fullmatch(r"[a-z_0-9]+", name):  # the standard library
        return None
    if layer != "public" and SYSTEM.fullmatch(name):
        return None
    for prefix, layers in THIRD_PARTY.items():
        if name.startswith(prefix) and layer in layers:
            return None
    return f"<{name}> is not allowed in {layer}"


def arrow_error(source, target, layers):
    """Why the include source -> target is wrong, or None."""
    a, b = layers[source], layers[target]
    if source.startswith("include/") and not target.startswith("include/"):
        return f"public header includes the internal {target}"
    if a != b and b not in MAY_INCLUDE[a]:
        return f"{a} must not include {b} ({target})"
    machine, other = (p.split("/")[2] if p.startswith("src/kernels/") else "" for p in (source, target))
    if other in KERNEL_WALLS.get(machine, ()):
        return f"kernels/{machine} must not include kernels/{other} ({target})"
    return None


# What runs with the arrays of a model, wherever they lie.
ON_THE_DEVICE = ("src/model/wan/", "src/model/samplers/", "src/model/slots", "src/model/frame_sampler", "src/model/pipeline.", "src/model/transformer.")
TOUCHES = re.compile(r"\b(mutable_)?as<|\b(mutable_data|data_at)\(")


def violations(files):
    """files: path -> text. Every broken rule, one line each, the cycles too."""
    errors, layers, graph = [], {}, {}
    for path, text in files.items():
        layers[path] = layer_of(type(ROOT)(path), text)
        if layers[path] not in MAY_INCLUDE:
            errors.append(f"{path}: no known layer (folder of src/, or a line '// layer: NAME' in a public header)")
    if errors:
        return errors
    for path, text in files.items():
        if layers[path] != "base" and re.search(r"^[^/\n]*\bthread_local\b", text, re.MULTILINE):
            errors.append(f"{path}: thread_local belongs in base; scratch memory is a Workspace")
        if path.startswith(ON_THE_DEVICE) and (found := TOUCHES.search(text)):
            errors.append(f"{path}: {found[0]} is an element at hand; a model calls operations, which run where its tensors are")
        graph[path] = []
        for quoted, name in includes(text):
            if not quoted:
                error = third_party_error(name, "public" if path.startswith("include/") else layers[path])
            elif path.startswith(EMULATED[0]) and name.startswith(EMULATED[1]):
                continue
            elif (target := resolve(name, files)) is None:
                error = f'"{name}" is no file under src/ or include/'
            else:
                graph[path].append(target)
                error = arrow_error(path, target, layers)
            if error:
                errors.append(f"{path}: {error}")
    return errors + [f"include cycle: {' -> '.join(c)}" for c in cycles(graph)]


def cycles(graph):
    found, done, stack = [], set(), []

    def visit(node):
        if node in stack:
            found.append(stack[stack.index(node) :] + [node])
        elif node not in done:
            stack.append(node)
            for target in graph[node]:
                visit(target)
            stack.pop()
            done.add(node)

    for node in graph:
        visit(node)
    return found


def real_files():
    files = {str(p): (ROOT / p).read_text() for p in source_files(CPP_SUFFIXES, folders=("include", "src", "bench", "python"))}
    files["include/aerogel/version.h"] = (ROOT / "cmake/version.h.in").read_text()
    return files


def test_the_tree_obeys():
    files = real_files()
    assert len(files) > 3
    report(violations(files))


GOOD = {
    "include/aerogel/tensor.h": "// layer: core\n#include <vector>\n",
    "src/base/log.h": "#include <string>\n#include <sys/mman.h>\n",
    "src/quant/a.h": '#include "aerogel/tensor.h"\n#include <fmt/format.h>\n',
    "src/sparse/b.h": "",
    "src/kernels/cpu/c.cpp": '#include <immintrin.h>\n#include "base/log.h"\n// #include "quant/a.h"\n',
    "src/kernels/cuda/d.h": "",
    "src/kernels/cuda/primitives/gpu.h": '#include "emulator/primitives.h"',
    "src/model/e.cpp": '#include "quant/a.h"\n#include "sparse/b.h"\n',
}
BAD = {
    "upwards": ("src/base/x.h", '#include "quant/a.h"', "base must not include quant"),
    "public upwards": ("include/aerogel/x.h", '// layer: base\n#include "aerogel/tensor.h"', "base must not include core"),
    "siblings": ("src/sparse/x.h", '#include "quant/a.h"', "sparse must not include quant"),
    "machines": ("src/kernels/cpu/x.h", '#include "kernels/cuda/d.h"', "kernels/cpu must not include kernels/cuda"),
    "oracle": ("src/kernels/reference/x.h", '#include "kernels/cpu/c.cpp"', "kernels/reference must not"),
    "kernel third party": ("src/kernels/cpu/x.h", "#include <fmt/format.h>", "<fmt/format.h> is not allowed in kernels"),
    "unknown third party": ("src/base/x.h", "#include <boost/any.hpp>", "<boost/any.hpp> is not allowed in base"),
    "public third party": ("include/aerogel/x.h", "// layer: core\n#include <fmt/core.h>", "is not allowed in public"),
    "public system": ("include/aerogel/x.h", "// layer: core\n#include <unistd.h>", "is not allowed in public"),
    "public internal": ("include/aerogel/x.h", '// layer: core\n#include "base/log.h"', "public header includes"),
    "scratch memory of a thread": ("src/quant/x.h", "thread_local int x;", "thread_local belongs in base"),
    "element of a model": ("src/model/wan/x.cpp", "float a = tensor.as<float>()[0];", "as< is an element at hand"),
    "no layer": ("include/aerogel/x.h", "#pragma once", "no known layer"),
    "new room": ("src/misc/x.h", "", "no known layer"),
    "a kernel that knows the emulator": ("src/kernels/cuda/x.cuh", '#include "emulator/primitives.h"', "is no file"),
    "missing": ("src/base/x.h", '#include "log.h"', '"log.h" is no file'),
    "cycle": ("src/base/log.h", '#include "base/log.h"', "include cycle: src/base/log.h -> src/base/log.h"),
}


def test_a_good_tree_passes():
    assert violations(GOOD) == []


@pytest.mark.parametrize("case", BAD)
def test_each_violation_is_seen(case):
    path, text, message = BAD[case]
    errors = violations(GOOD | {path: text})
    assert len(errors) == 1 and message in errors[0]


def test_a_long_cycle_is_seen():
    tree = GOOD | {f"src/base/{a}.h": f'#include "base/{b}.h"' for a, b in ("xy", "yz", "zx")}
    assert violations(tree) == ["include cycle: src/base/x.h -> src/base/y.h -> src/base/z.h -> src/base/x.h"]
