"""The pages for people: links lead somewhere, files that are named are there, README's index reaches every page, and each page
begins with what it covers."""

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
        named = [(name, name) for name in NAMED_FILE.findall(text)] + [(name, f"include/{name}") for name in NAMED_HEADER.findall(text)]
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


def test_broken_pages_are_seen(tmp_path: Path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "CONTRIBUTING.md").write_text("# C++ & `code`\n\n```\n[not](a-link)\n# not a heading\n```\n")
    (tmp_path / "README.md").write_text(
        "# R\n\n[a](CONTRIBUTING.md#c--code) [b](CONTRIBUTING.md#not-a-heading) [c](docs/gone.md) [d](https://example.com/gone)\n"
        "`src/gone.cpp` `src/kernels/cpu/LEVEL` `aerogel/gone.h` `docs/` `CONTRIBUTING.md`\n")
    assert broken_links(tmp_path) == ["README.md: CONTRIBUTING.md#not-a-heading: there is no such heading",
                                      "README.md: docs/gone.md: there is no such file"]
    assert missing_files(tmp_path) == ["README.md: src/gone.cpp is named and not there", "README.md: aerogel/gone.h is named and not there"]
