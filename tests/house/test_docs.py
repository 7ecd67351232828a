"""The pages for people: links lead somewhere, files that are named are there, README's index reaches every page, each page
begins with what it covers and wraps its prose, and the table of sparse types says what the code's says."""

import re
from pathlib import Path

from source_tree import ROOT, report

GENERATED = {"docs/python_api.md"}
FENCED = re.compile(r"^\s*```.*?^\s*```", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.M)
# `src/quant/load.cpp`, `bench/run.py`; not a pattern (LEVEL, *, ...) and not a path with options behind it.
NAMED_FILE = re.compile(r"`((?![^`]*\.\.\.)(?:bench|cmake|examples|fuzz|include|python|scripts|src|tests)/[a-z0-9_./]+)`")
NAMED_HEADER = re.compile(r"`(aerogel/[a-z0-9_]+\.h)`")
WRITTEN_HEADER = "aerogel/version.h"  # by CMake


def pages(root=ROOT):
    return sorted([root / "README.md", root / "CONTRIBUTING.md", *root.glob("docs/*.md"), *root.glob("examples/*/README.md")])


def anchors(text):
    """The anchors that GitHub gives to the headings of a page."""
    titles = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in HEADING.findall(FENCED.sub("", text)))
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


def links(page):
    """(link, file, anchor) of every link into the repository."""
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        if not re.match(r"\w+:", link):
            path, _, anchor = link.partition("#")
            yield link, (page.parent / path).resolve() if path else page, anchor


def broken_links(root):
    found = []
    for page in pages(root):
        for link, path, anchor in links(page):
            if not path.exists():
                found.append(f"{page.relative_to(root)}: {link}: there is no such file")
            elif anchor and anchor not in anchors(path.read_text()):
                found.append(f"{page.relative_to(root)}: {link}: there is no such heading")
    return found


def missing_files(root):
    found = []
    for page in pages(root):
        text = FENCED.sub("", page.read_text())
        named = [(name, name) for name in NAMED_FILE.findall(text)] + [(name, f"include/{name}") for name in NAMED_HEADER.findall(text) if name != WRITTEN_HEADER]
        found += [f"{page.relative_to(root)}: {name} is named and not there" for name, path in named if not (root / path).exists()]
    return found


def test_links_lead_somewhere():
    report(broken_links(ROOT))


def test_named_files_are_there():
    report(missing_files(ROOT))


def test_the_readme_leads_to_every_page():
    reached = {path for _, path, _ in links(ROOT / "README.md")}
    report([f"README.md has no link to {page.relative_to(ROOT)}" for page in sorted((ROOT / "docs").glob("*.md")) if page not in reached])


def test_pages_begin_with_what_they_cover():
    found = []
    for page in pages():
        title, _, rest = page.read_text().partition("\n\n")
        if str(page.relative_to(ROOT)) not in GENERATED and not (re.fullmatch("# .+", title) and re.match(r"[\w`*]", rest)):
            found.append(f"{page.relative_to(ROOT)}: begin with a title and a paragraph that says what the page covers")
    report(found)


def long_lines(root):
    found = []
    for page in pages(root) + [root / "CHANGELOG.md"]:
        text = FENCED.sub(lambda block: "\n" * block[0].count("\n"), page.read_text())
        found += [f"{page.relative_to(root)}:{number}: {len(line)} columns of prose" for number, line in enumerate(text.split("\n"), 1)
                  if len(line) > 120 and not line.startswith("|") and str(page.relative_to(root)) not in GENERATED]
    return found


def test_prose_wraps():
    report(long_lines(ROOT))


def headers_without_a_row(page):
    named = set(NAMED_HEADER.findall("\n".join(line for line in page.split("\n") if line.startswith("|"))))
    public = {f"aerogel/{path.name}" for path in (ROOT / "include/aerogel").glob("*.h")} | {WRITTEN_HEADER}
    return sorted(f"docs/cpp.md: no row of the table names {header}" for header in public - named)


def unknown_flags(page):
    code = "".join(path.read_text() for path in (ROOT / "src/cli").glob("*.cpp"))
    flags = set(re.findall(r"`(--?[a-z][a-z0-9-]*)", "\n".join(line for line in page.split("\n") if line.startswith("|"))))
    return sorted(f"docs/cpp.md: the command has no {flag}" for flag in flags - {"--version"} if not re.search(rf'[",]{flag}["{{,]', code))


def test_the_page_on_cpp_leads_to_every_header_and_real_flags():
    page = (ROOT / "docs/cpp.md").read_text()
    report(headers_without_a_row(page) + unknown_flags(page))
    assert headers_without_a_row(page.replace("aerogel/lora.h", "aerogel/tensor.h"))
    assert unknown_flags(page.replace("`--lora`", "`--loras`"))


# First cell of the page's table -> how a row of src/sparse/patterns/table.cpp says it.
ABILITIES = {"q and k of different length": ".lengths_differ = true", "several videos": ".videos = Videos::several", "a mask instead of": ".takes_mask = true",
             "key blocks of their own size": ".own_key_blocks = true", "`precision`": ".formats = kAllFormats", "`is_causal`": ".causal = true"}


def sparse_types(code):
    """Name -> text of its row."""
    _, *rows = code.partition("kTypes[] = {")[2].partition("\n};")[0].split('{.name = "')
    return {row.partition('"')[0]: row for row in rows}


def wrong_abilities(page, types):
    found = []
    (heading,) = re.findall(r"^\| (\| `.*`) \|$", page, re.M)
    names = re.findall(r"`(\w+)`", heading)
    if sorted(names) != sorted(types):
        return [f"the types are {sorted(types)}, the page has {sorted(names)}"]
    for start, member in ABILITIES.items():
        (line,) = re.findall(rf"^\| {re.escape(start)}.*\|$", page, re.M)
        for name, cell in zip(names, [cell.strip() for cell in line.split("|")[2:-1]], strict=True):
            said = "fp8" in cell if start == "`precision`" else bool(cell) and cell != "one video"
            has = member in types[name] or start == "several videos" and ".videos" not in types[name]
            if said != has:
                found.append(f"{start}: the page has {cell!r} for {name}, its row {'' if has else 'not '}{member}")
    return found


def test_the_table_of_sparse_types_is_that_of_the_code():
    types = sparse_types((ROOT / "src/sparse/patterns/table.cpp").read_text())
    assert len(types) > 3
    page = (ROOT / "docs/sparse_attention.md").read_text()
    report(wrong_abilities(page, types))
    assert len(wrong_abilities(page.replace("| `is_causal` | | |", "| `is_causal` | yes | |"), types)) == 1
    assert len(wrong_abilities(page.replace("| the same, fp8, mix, mxfp4 |", "| the same |"), types)) == 1


def test_broken_pages_are_seen(tmp_path: Path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "CONTRIBUTING.md").write_text("# C++ & `code`\n\n```\n[not](a-link)\n# not a heading\n```\n")
    (tmp_path / "README.md").write_text(
        "# R\n\n[a](CONTRIBUTING.md#c--code) [b](CONTRIBUTING.md#not-a-heading) [c](docs/gone.md) [d](https://example.com/gone)\n"
        "`src/gone.cpp` `src/kernels/cpu/LEVEL` `aerogel/gone.h` `docs/` `CONTRIBUTING.md`\n")
    assert broken_links(tmp_path) == ["README.md: CONTRIBUTING.md#not-a-heading: there is no such heading",
                                      "README.md: docs/gone.md: there is no such file"]
    assert missing_files(tmp_path) == ["README.md: src/gone.cpp is named and not there", "README.md: aerogel/gone.h is named and not there"]
    (tmp_path / "CHANGELOG.md").write_text(f"# C\n\n{'word ' * 30}\n| {'cell ' * 30}|\n```\n{'code ' * 30}\n```\n{'word ' * 24}\n")
    assert long_lines(tmp_path) == ["CHANGELOG.md:3: 150 columns of prose"]
