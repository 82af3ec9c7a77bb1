"""Tensors of a checkpoint, read where they lie: a table is never in memory as a whole.

A `.distcp` file is a row of archives of `torch.save`, one for each part of a tensor. Its numbers
lie in the archive as they are, so a part can be mapped into memory; what cannot is read whole.
"""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from recsys.checkpoint import alone_without_warning, reading

_NUMPY = {torch.float32: np.dtype(np.float32), torch.float16: np.dtype(np.float16)}
_LOCAL_HEADER = 30
"""Bytes of a zip file's local header before the name."""


@dataclass(frozen=True)
class _Part:
    """A shard of a tensor.

    Attributes:
        first_row: Place in the tensor.
        first_column: Likewise; 0 of a vector.
        values: Rows and columns of it.
    """

    first_row: int
    first_column: int
    values: NDArray[np.float16 | np.float32]

    @property
    def end_row(self) -> int:
        """Row after the last."""
        return self.first_row + len(self.values)


class StoredMatrix:
    """A tensor (V, D) or (V,) of a checkpoint, sharded in any way.

    Args:
        size: Of the whole.
        parts: All shards.
    """

    def __init__(self, size: tuple[int, ...], parts: list[_Part]) -> None:
        self.shape = size
        self.parts = parts

    def rows(self, rows_S: NDArray[np.int64], columns: slice) -> NDArray[np.float32]:
        """Some rows, of some columns; a vector has one column.

        Args:
            rows_S: In any order.
            columns: A range with both ends.
        """
        found = np.empty((len(rows_S), columns.stop - columns.start), dtype=np.float32)
        for part in self.parts:
            low = max(columns.start, part.first_column)
            high = min(columns.stop, part.first_column + part.values.shape[1])
            is_here = (rows_S >= part.first_row) & (rows_S < part.end_row)
            if low >= high or not is_here.any():
                continue
            there = slice(low - part.first_column, high - part.first_column)
            here = slice(low - columns.start, high - columns.start)
            found[is_here, here] = part.values[rows_S[is_here] - part.first_row, there]
        return found


class StoredTensors:
    """All tensors of a checkpoint.

    Args:
        directory: The checkpoint.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @cached_property
    def _metadata(self) -> Metadata:
        with reading(self.directory):
            return FileSystemReader(self.directory).read_metadata()

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Sizes, by name."""
        found = self._metadata.state_dict_metadata
        return {n: tuple(m.size) for n, m in found.items() if isinstance(m, TensorStorageMetadata)}

    def tensors(self, names: list[str]) -> dict[str, Tensor]:
        """Whole tensors in memory, by name."""
        metadata = self._metadata.state_dict_metadata
        found: dict[str, Tensor] = {}
        for name in names:
            of_name = cast(TensorStorageMetadata, metadata[name])
            found[name] = torch.empty(of_name.size, dtype=of_name.properties.dtype)
        with alone_without_warning(), reading(self.directory):
            reader = FileSystemReader(self.directory)
            dcp.load(dict(found), storage_reader=reader, no_dist=True)
        return found

    def matrix(self, name: str) -> StoredMatrix:
        """A table, or a vector of a number per row, read where it lies."""
        of_name = cast(TensorStorageMetadata, self._metadata.state_dict_metadata[name])
        size = self.shapes[name]
        parts = []
        for index, stored in (self._metadata.storage_data or {}).items():
            if index.fqn != name:
                continue
            offset = tuple(index.offset or ()) or (0,) * len(size)
            [chunk] = [c for c in of_name.chunks if tuple(c.offsets) == offset]
            dtype = _NUMPY.get(of_name.properties.dtype)
            values = (
                _mapped(
                    self.directory / stored.relative_path,
                    offset=stored.offset,
                    length=stored.length,
                    shape=tuple(chunk.sizes),
                    dtype=dtype,
                )
                if dtype is not None and not stored.transform_descriptors
                else None
            )
            if values is None:
                whole = self.tensors([name])[name].float().numpy()
                return StoredMatrix(size, [_Part(0, 0, whole.reshape(len(whole), -1))])
            column = offset[1] if len(offset) > 1 else 0
            row = offset[0] if offset else 0
            parts.append(_Part(row, column, values.reshape(len(values), -1)))
        return StoredMatrix(size, parts)


def _mapped(
    file: Path, *, offset: int, length: int, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any] | None:
    """The numbers of one archive; None where they do not lie in it as they are."""
    num_bytes = dtype.itemsize * int(np.prod(shape))
    if num_bytes == 0:
        return np.zeros(shape, dtype=dtype)
    with file.open("rb") as whole:
        try:
            archive = zipfile.ZipFile(_Window(whole, offset, length))  # pyright: ignore[reportArgumentType]
        except zipfile.BadZipFile:
            return None
        entries = [e for e in archive.infolist() if "/data/" in e.filename]
        if len(entries) != 1:
            return None
        [entry] = entries
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != num_bytes:
            return None
        header = offset + entry.header_offset
        whole.seek(header)
        name_length, extra_length = struct.unpack("<26xHH", whole.read(_LOCAL_HEADER))
    start = header + _LOCAL_HEADER + name_length + extra_length
    return np.memmap(file, dtype=dtype, mode="r", offset=start, shape=shape)


class _Window:
    """A part of a file as a file of its own.

    Args:
        file: Open for reading.
        start: First byte.
        length: Bytes.
    """

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self.file, self.start, self.length, self.place = file, start, length, 0

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a byte."""
        self.place = (0, self.place, self.length)[whence] + offset
        return self.place

    def tell(self) -> int:
        """The present byte."""
        return self.place

    def read(self, size: int = -1) -> bytes:
        """Some bytes, or all that are left."""
        left = max(0, self.length - self.place)
        self.file.seek(self.start + self.place)
        found = self.file.read(left if size < 0 else min(size, left))
        self.place += len(found)
        return found
