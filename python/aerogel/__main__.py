"""`python -m aerogel` and the script `aerogel`: the command of the C++ library, with the same arguments."""
from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from . import _core


def command() -> str:
    """Path of the command: the one installed with this package, else AEROGEL_COMMAND, else the one on PATH."""
    # Beside the extension: an editable install leaves the sources elsewhere.
    packaged = Path(_core.__file__).parent / "bin" / "aerogel"
    if packaged.exists():
        return str(packaged)
    found = os.environ.get("AEROGEL_COMMAND") or shutil.which("aerogel")
    if not found or Path(found).resolve() == Path(sys.argv[0]).resolve():
        raise FileNotFoundError(f"the command aerogel is neither at {packaged} nor in AEROGEL_COMMAND nor on PATH")
    return found


def main() -> int:
    """Becomes the command; never returns when it starts."""
    sys.stdout.flush()
    try:
        path = command()
        os.execv(path, ["aerogel", *sys.argv[1:]])
    except OSError as error:
        print(f"aerogel: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
