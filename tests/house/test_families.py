"""A model family is a folder of src/model and one row of its table: nothing else knows the family. A test of the C++ side
(tests/model/family_test.cpp) brings a second family along as such a row."""

import re

import pytest
from source_tree import CPP_SUFFIXES, ROOT, includes, report, source_files, strip_comments

TABLE = "src/model/families.cpp"
# What is around a transformer goes by the class of the pipeline, in one row of each of these.
PIPELINE_TABLES = ("src/model/pipelines.cpp", "src/model/text/prompt_encoder.cpp")


def families_of(files):
    """Folders of src/model with a transformer: {"wan"}."""
    return {m[1] for path in files if (m := re.fullmatch(r"src/model/(\w+)/transformer\.cpp", path))}


def violations(files):
    """files: path -> text. Every place outside of a family's folder and its row that knows the family."""
    errors = []
    for family in sorted(families_of(files)):
        home = f"src/model/{family}/"
        names = re.compile(rf"\b{''.join(part.capitalize() for part in family.split('_'))}[A-Z]\w*")
        if f'"model/{family}/transformer.h"' not in files.get(TABLE, ""):
            errors.append(f"{home}: no row of {TABLE} loads it")
        for path, text in files.items():
            if path.startswith(home) or path == TABLE:
                continue
            errors += [f"{path}: includes {name}" for _, name in includes(text) if name.startswith(f"model/{family}/")]
            known = set(names.findall(strip_comments(text)))
            if path in PIPELINE_TABLES:
                known = {name for name in known if not name.endswith("Pipeline")}
            errors += [f"{path}: knows {name}" for name in sorted(known)]
    return errors


def test_the_tree_obeys():
    files = {str(p): (ROOT / p).read_text() for p in source_files(CPP_SUFFIXES, folders=("include", "src", "bench"))}
    assert "wan" in families_of(files)
    report(violations(files))


GOOD = {TABLE: '#include "model/wan/transformer.h"\nFamilyRow{"WanTransformer3DModel", load_wan},\n',
        "src/model/wan/transformer.cpp": '#include "model/wan/config.h"\nWanConfig config;\n',
        "src/model/pipeline.cpp": "// as WanPipeline of diffusers\nTransformer& model;\n",
        "src/model/pipelines.cpp": 'PipelineRow{"WanPipeline"};\n'}


def test_a_good_tree_passes():
    assert violations(GOOD) == []


@pytest.mark.parametrize("path, text, message", [
    ("src/model/pipeline.cpp", '#include "model/wan/config.h"\n', "pipeline.cpp: includes model/wan/config.h"),
    ("src/model/pipelines.cpp", "WanConfig config;\n", "pipelines.cpp: knows WanConfig"),
    ("src/cli/generate.cpp", 'is("WanPipeline");\n', "generate.cpp: knows WanPipeline"),
    ("src/cli/forward.cpp", "void run(const WanTransformer& model);\n", "forward.cpp: knows WanTransformer"),
    ("include/aerogel/wan.h", "struct WanConfig;\n", "wan.h: knows WanConfig"),
    (TABLE, "", "src/model/wan/: no row"),
    ("src/model/cog/transformer.cpp", "", "src/model/cog/: no row"),
])
def test_each_violation_is_seen(path, text, message):
    (error,) = violations(GOOD | {path: text})
    assert message in error
