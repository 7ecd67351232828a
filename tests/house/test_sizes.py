"""The sizes of the house: files under 600 lines, functions under 60 (120 in a kernel), at most five parameters outside of
kernels and bindings, no file whose name says nothing, none that does not say what it is. Counted without a compiler, for
C++ and Python."""

import ast
import re

import pytest
from source_tree import CPP_SUFFIXES, ROOT, Function, functions, report, source_files

MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_KERNEL_LINES, MAX_PARAMETERS = 599, 59, 120, 5
EMPTY_NAMES = re.compile(r"(^|_)(utils?|helpers?|manager|common|misc|stuff)(_|$)")

# Signatures that are not ours to choose: calls of MindIE SD that must keep working as they are, of the C library and
# of the CUDA driver.
_FLASH = "python/mindiesd/layers/flash_attn/"
GIVEN_SIGNATURES = {("python/aerogel/attention/sparse.py", "sparse_attention"), (f"{_FLASH}sparse_flash_attn.py", "sparse_attention"),
                    (f"{_FLASH}attention_forward.py", "attention_forward"),
                    (f"{_FLASH}attention_forward_varlen.py", "attention_forward_varlen"),
                    (_FLASH + "rf_v2_steps.py", "do_tensor_rearrange_pooling"), (_FLASH + "rf_v2_steps.py", "get_blockwise_mask"),
                    (_FLASH + "sparse_flash_attn_rf_v2.py", "rain_fusion_attention"),
                    ("python/mindiesd/layers/rope.py", "rotary_position_embedding"),
                    ("tests/fault/fault_shim.cpp", "mmap"), ("tests/fault/fault_shim.cpp", "mmap64"),
                    ("tests/emulator/fake_driver.cpp", "cuLaunchKernel"), ("tests/emulator/fake_driver.cpp", "cuTensorMapEncodeTiled"),
                    *(("tests/emulator/primitives_sm90.h", f"tma_load_{d}d") for d in (2, 3, 4))}  # those of src/kernels
# A kernel's body takes what it keeps in registers, a binding named arguments: neither gets better as a struct.
MANY_PARAMETERS = (("src", "kernels"), ("python", "bindings"))
GIVEN_PATHS = {"python/mindiesd/quantization/utils.py", "python/mindiesd/utils/utils.py", _FLASH + "common.py"}  # imported by this path


def python_functions(text):
    """Functions of a Python text. Keyword-only parameters are named fields already, so they do not count."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names = [a.arg for a in node.args.posonlyargs + node.args.args]
            count = len(names) - (names[:1] in (["self"], ["cls"]))
            found.append(Function(node.name, node.lineno, node.end_lineno - node.lineno + 1, count, True))
    return found


def errors_of(path, text):
    """Every broken rule of one file; path is relative to the root."""
    errors = []
    if EMPTY_NAMES.search(path.stem) and path.as_posix() not in GIVEN_PATHS:
        errors.append(f"{path}: the name says nothing about what is inside")
    if not re.fullmatch(r"[a-z_][a-z0-9_]*", path.stem):
        errors.append(f"{path}: file names are snake_case")
    if (lines := len(text.splitlines())) > MAX_FILE_LINES:
        errors.append(f"{path}: {lines} lines, at most {MAX_FILE_LINES}")
    if text and not re.match(r'(#!.*\n)?(//|""")', text):
        errors.append(f"{path}: begins without a comment that says what it is")
    limit = MAX_KERNEL_LINES if path.parts[:2] == ("src", "kernels") else MAX_FUNCTION_LINES
    counted = path.parts[:2] not in MANY_PARAMETERS
    for f in functions(text) if path.suffix in CPP_SUFFIXES else python_functions(text):
        if f.is_definition and f.lines > limit:
            errors.append(f"{path}:{f.line}: {f.name} has {f.lines} lines, at most {limit}")
        if counted and f.parameters > MAX_PARAMETERS and (path.as_posix(), f.name) not in GIVEN_SIGNATURES:
            errors.append(f"{path}:{f.line}: {f.name} takes {f.parameters} parameters, at most {MAX_PARAMETERS}")
    return errors


def test_the_tree_obeys():
    files = source_files((*CPP_SUFFIXES, ".py"))
    assert len(files) > 5
    report([e for p in files for e in errors_of(p, (ROOT / p).read_text())])


def test_the_scanner_finds_the_functions_of_the_tree():
    """Guards the check itself: a scanner that finds nothing would be content with everything."""
    files = source_files((".cpp",), folders=("src",))
    silent = [str(p) for p in files if not functions((ROOT / p).read_text())]
    assert len(silent) <= len(files) // 4, silent


Path = type(ROOT)


def body(lines):
    return "{\n" + "    x();\n" * (lines - 2) + "}\n"


@pytest.mark.parametrize("before, signature", [
    ("", "int f(int a) "),
    ("", "template <typename T>\nstd::vector<T> A<T>::f(std::span<const T> a, int b = {}) const noexcept "),
    ("class A : public B {\n  public:\n", "    A(int a, int b) : a_(a), b_{b}, c_{{1}} "),
    ("namespace a {\nnamespace {\n", "TEST(Suite, f) "),
    ("const char* s = R\"({{{)\";\n// {\nchar c = '{';\nint n = 1'000;\n", "bool operator==(const A& a, const A& b) "),
    ("#define OPEN {\nstruct P { int a = 0; };\nenum class E : int { kA, kB };\nconst P p{1};\n", "auto f() -> int "),
    ("const auto kA = [] { return 1; }();\nconstexpr int kB[] = {1, 2};\n", "int f(const std::function<void(int)>& g) "),
])
def test_long_functions_are_seen(before, signature):
    more = signature.count("\n")
    before = "// A test.\n" + before
    allowed = before + signature + body(MAX_FUNCTION_LINES - more)
    too_long = before + signature + body(MAX_FUNCTION_LINES - more + 1)
    assert errors_of(Path("src/ops/x.cpp"), allowed) == []
    (error,) = errors_of(Path("src/ops/x.cpp"), too_long)
    assert "has 60 lines" in error and f":{before.count(chr(10)) + 1}:" in error


@pytest.mark.parametrize("text, count", [
    ("void f();", 0),
    ("void f(void);", 0),
    ("int f(int a, std::map<int, int> b, int (*c)(int, int), int d = g(1, 2), T e = {1, 2});", 5),
    ("int f(int a, int b, int c, int d, int e, int f);", 6),
    ("struct S {\n    S(int a, int b, int c, int d, int e, int f);\n};", 6),
    ("class S final : public T<int, int> {\n    S(int a, int b, int c, int d, int e, int f) : a_{a} {}\n};", 6),
    ("inline bool operator()(int a, int b) {\n    return a < b;\n}", 2),
    ("[[nodiscard]] int f(int a, int b, int c, int d, int e, int f) noexcept { return 1; }", 6),
])
def test_parameters_are_counted(text, count):
    found = functions(text)
    assert [f.parameters for f in found] == [count]
    wrong = [e for e in errors_of(Path("include/aerogel/x.h"), text) if "parameters" in e]
    assert bool(wrong) == (count > MAX_PARAMETERS)


@pytest.mark.parametrize("text", [
    "int a = f(1, 2, 3, 4, 5, 6);", "using F = void(int, int, int, int, int, int);",
    "struct S {\n    int a = 0;\n};", "const std::vector<int> kA{1, 2, 3, 4, 5, 6, 7};", "enum class E { a, b };",
])
def test_other_things_are_no_functions(text):
    assert functions(text) == []


def test_kernels_may_be_longer():
    text = "// A test.\nvoid f() " + body(MAX_KERNEL_LINES)
    assert errors_of(Path("src/kernels/cpu/avx2/x.cpp"), text) == []
    assert len(errors_of(Path("src/kernels/cpu/avx2/x.cpp"), text.replace("{\n", "{\n\n"))) == 1
    assert len(errors_of(Path("src/ops/x.cpp"), text)) == 1


@pytest.mark.parametrize("path, count", [("src/kernels/cpu/avx2/x.cpp", 0), ("python/bindings/x.cpp", 0), ("src/ops/x.cpp", 1),
                                         ("python/aerogel/x.cpp", 1)])
def test_kernels_and_bindings_may_take_more_parameters(path, count):
    text = "// A test.\nvoid f(int a, int b, int c, int d, int e, int f) " + body(3)
    assert len(errors_of(Path(path), text)) == count


@pytest.mark.parametrize("path, text, message", [
    ("src/base/string_utils.h", "", "says nothing"),
    ("src/base/common.cpp", "", "says nothing"),
    ("src/base/ThreadPool.h", "", "snake_case"),
    ("src/base/x.h", "//\n" * 600, "600 lines"),
    ("src/base/x.h", "#pragma once\n// x\n", "begins without a comment"),
    ("bench/x.py", "import os\n", "begins without a comment"),
    ("bench/x.py", "\"\"\"x\"\"\"\ndef f(a, b, c, d, e, g):\n    pass\n", "6 parameters"),
    ("bench/x.py", "#!/usr/bin/env python3\n\"\"\"x\"\"\"\nclass A:\n    async def f(self):\n" + "        pass\n" * 59, "f has 60 lines"),
])
def test_bad_files_are_seen(path, text, message):
    errors = errors_of(Path(path), text)
    assert len(errors) == 1 and message in errors[0]


def test_good_python_passes():
    text = "\"\"\"x\"\"\"\nclass A:\n    def f(self, a, b, c, d, e, *, x=1, y=2):\n" + "        pass\n" * 58
    assert errors_of(Path("bench/x.py"), text) == []
