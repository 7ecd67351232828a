"""What is built opens CUDA's driver itself where there is one: it links to nothing of CUDA or PyTorch."""

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from check_wheel import foreign_libraries


def test_nothing_links_to_cuda_or_torch(build):
    built = [build / "aerogel", *build.glob("python/aerogel/_core*.so"), *build.glob("libaerogel*.so*")]
    assert len(built) >= 2
    assert {path.name: foreign_libraries(path) for path in built if foreign_libraries(path)} == {}


def test_a_link_to_cuda_is_seen(tmp_path):
    for name, source, also in [("libcudart.so", "int f(void) { return 1; }", []),
                               ("program.so", "int f(void); int g(void) { return f(); }", [f"-L{tmp_path}", "-l:libcudart.so"])]:
        (tmp_path / "source.c").write_text(source)
        subprocess.run(["gcc", "-shared", "-fPIC", tmp_path / "source.c", "-o", tmp_path / name, *also], check=True)
    assert foreign_libraries(tmp_path / "program.so") == ["libcudart.so"]
