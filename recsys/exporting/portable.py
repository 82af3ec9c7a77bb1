"""The programs of a bundle for ONNX Runtime, and compiled ahead of time, and ways to run these."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, Literal, assert_never

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from features.errors import RunConfigError
from recsys.scoring.scorer import Program

Kind = Literal["onnx", "aoti"]
SUFFIXES: dict[Kind, str] = {"onnx": ".onnx", "aoti": ".aoti.pt2"}

_ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")

_SEARCHSORTED = torch.ops.aten.searchsorted.Tensor


def check_tools(kinds: tuple[Kind, ...]) -> None:
    """Make sure that programs can be written and run.

    Raises:
        RunConfigError: something has to be installed.
    """
    mistakes = []
    missing = [name for name in _ONNX_PACKAGES if find_spec(name) is None]
    if "onnx" in kinds and missing:
        mistakes.append(
            f"--onnx: needs {', '.join(_ONNX_PACKAGES)}, got no {', '.join(missing)}; "
            f"do `pip install {' '.join(missing)}`"
        )
    if "aoti" in kinds and (reason := _no_compiler()) is not None:
        mistakes.append(
            f"--aoti: needs a C++ compiler, got none ({reason}); install g++ or clang, or set CXX"
        )
    if mistakes:
        raise RunConfigError(mistakes)


def write_program(program: ExportedProgram, file: Path, *, kind: Kind) -> Program:
    """Write a program another way; gives it as read back.

    Args:
        program: Of the bundle.
        file: To make.
        kind: How.

    Raises:
        RunConfigError: the program has no such form.
    """
    try:
        with _quiet():
            match kind:
                case "onnx":
                    known = program.run_decompositions({_SEARCHSORTED: _searchsorted})
                    torch.onnx.export(known, f=str(file), verbose=False, external_data=False)
                    return OnnxProgram(file)
                case "aoti":
                    torch._inductor.aoti_compile_and_package(program, package_path=str(file))
                    return torch._inductor.aoti_load_package(str(file))
                case _:
                    assert_never(kind)
    except Exception as error:  # of many kinds, none of them documented
        raise RunConfigError(
            f"--{kind}: PyTorch cannot write this model so, got {_first_cause(error)}; leave "
            f"--{kind} out: model.pt2 scores without"
        ) from error


class OnnxProgram:
    """A program that ONNX Runtime runs.

    Args:
        file: Its path.
    """

    def __init__(self, file: Path) -> None:
        import onnxruntime  # pyright: ignore[reportMissingImports]  may be absent

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = torch.get_num_threads()
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(file, options, providers=providers)
        self._inputs = [each.name for each in self._session.get_inputs()]

    def __call__(self, *arguments: Any) -> Any:
        """As the program of torch.export."""
        tensors = pytree.tree_leaves(arguments)
        by_name = dict(zip(self._inputs, (t.numpy() for t in tensors), strict=True))
        outputs: list[Tensor] = [torch.from_numpy(x) for x in self._session.run(None, by_name)]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _searchsorted(
    sorted_S: Tensor,
    values: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """How many of the sorted numbers lie before each value: ONNX has no operator of that name."""
    assert sorter is None, "no program sorts by another tensor"
    assert sorted_S.dim() == 1, "no program searches in several rows"
    compared = values.unsqueeze(-1)
    is_before = sorted_S <= compared if right or side == "right" else sorted_S < compared
    return is_before.sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


def _no_compiler() -> str | None:
    """Why nothing can be compiled; None where it can."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:  # of torch's own kind, private
        return " ".join(str(error).split())[:100] or type(error).__name__
    return None


def _first_cause(error: BaseException) -> str:
    """Its kind and its first line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters talk of their own insides."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
