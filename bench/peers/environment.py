"""The peers' own Python environment, made on demand. It sees the packages of the environment that runs (PyTorch above all) and adds the others."""
import hashlib
import site
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER, REQUIREMENTS = ROOT / ".venv-peers", ROOT / "requirements-peers.txt"


def make(folder: Path = FOLDER, requirements: Path = REQUIREMENTS) -> str:
    """Makes or completes the environment; fast when that is done. Returns what went wrong, or nothing: without it, peers are missing."""
    stamp, wanted = folder / ".requirements.sha256", hashlib.sha256(requirements.read_bytes() + sys.prefix.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return ""
    print(f"installing {requirements.name} into {folder.name}", file=sys.stderr)
    python = folder / "bin/python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)]
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True, text=True)
        (packages,) = (folder / "lib").glob("python3.*/site-packages")
        (packages / "of_aerogel.pth").write_text("\n".join(site.getsitepackages()) + "\n")
        subprocess.run(pip, check=True, capture_output=True, text=True)
    except (subprocess.CalledProcessError, OSError, ValueError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        return f"{folder.name} could not be made: {said[-1] if said else error}"
    stamp.write_text(wanted)
    return ""
