"""What compiling a model needs beside torch."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

from features.errors import RunConfigError


def check_compiler(device: str) -> None:
    """Make sure that torch can compile, before the first step asks it to.

    Args:
        device: `cpu` or `cuda`.

    Raises:
        RunConfigError: something is missing.
    """
    name = os.environ.get("CXX", "g++")
    missing = []
    if shutil.which(name) is None:
        missing.append(f"a C++ compiler ({name}; apt install g++)")
    if device == "cuda" and find_spec("triton") is None:
        missing.append("triton (it comes with torch for CUDA)")
    if missing:
        raise RunConfigError(
            f"model.init_args.compile: needs {' and '.join(missing)}, got none here; allowed "
            f"false; install it, or leave the line out"
        )
