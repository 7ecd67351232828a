"""The lint run itself: its list of checks finds what it should, and its memory forgets what changed."""

import shutil
import subprocess

import pytest
import tidy
from source_tree import ROOT

TOOL = shutil.which("clang-tidy-14") or shutil.which("clang-tidy")


def findings(folder, code):
    (folder / "x.cpp").write_text(code)
    command = [TOOL, "--quiet", f"--config-file={ROOT / '.clang-tidy'}", "x.cpp", "--", "-std=c++20"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("code, check", [
    ("#include <string>\n#include <utility>\nunsigned long f(std::string a) {\n    std::string b = std::move(a);\n"
     "    return a.size() + b.size();\n}\n", "bugprone-use-after-move"),
    ("double half(int n) { return n / 2; }\n", "bugprone-integer-division"),
    ("using namespace std;\n", "google-build-using-namespace"),
    ("class row {};\n", "readability-identifier-naming"),
    ("int countRows();\n", "readability-identifier-naming"),
    ("class Row {\n    int count = 0;\n};\n", "readability-identifier-naming"),
    ("int f() {\n    constexpr int width = 4;\n    return width;\n}\n", "readability-identifier-naming"),
])
def test_mistakes_are_errors(tmp_path, code, check):
    done = findings(tmp_path, ("namespace std {}\n" if "using" in code else "") + code)
    assert done.returncode != 0 and check in done.stdout


def test_good_code_passes(tmp_path):
    code = "class Row {\n  public:\n    int count() const { return count_; }\n\n  private:\n    int count_ = 0;\n};\n" \
           "constexpr int kWidth = 4;\nint f(int wide_row) { return wide_row + kWidth; }\n"
    done = findings(tmp_path, code)
    assert done.returncode == 0, done.stdout


def test_a_changed_header_is_noticed(tmp_path):
    (tmp_path / "a.cpp").write_text('#include "b.h"\n')
    (tmp_path / "b.h").write_text('#include "c.h"\n')
    (tmp_path / "c.h").write_text("int c;\n")
    entry = {"file": str(tmp_path / "a.cpp"), "command": "/usr/bin/ccache g++ -c a.cpp"}
    before = tidy.fingerprint(entry, [tmp_path], b"")
    assert before == tidy.fingerprint(entry | {"command": "g++ -c a.cpp"}, [tmp_path], b"")
    assert before != tidy.fingerprint(entry | {"command": "g++ -O2 -c a.cpp"}, [tmp_path], b"")
    assert before != tidy.fingerprint(entry, [tmp_path], b"another list of checks")
    (tmp_path / "c.h").write_text("int d;\n")
    assert before != tidy.fingerprint(entry, [tmp_path], b"")
