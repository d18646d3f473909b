"""Read somebody's adversarial images from a file that is not trusted: sizes come first, and nothing in it is run.

Read are `.npz` and safetensors with `x_adv` (n, C, H, W) and perhaps `index` (n,), and what AutoAttack's users save by
`torch.save`: a tensor, or a dictionary with it under `adv_complete` or `x_adv`; never a pickle of anything else.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np

from bench.core.errors import BenchError, IntegrityError, SecurityError, UsageError

IMAGES: Final = ("x_adv", "adv_complete", "adversarial")  # names of the array of images, the first that is there
INDEX: Final = "index"
HEADERS: Final = 1 << 16  # bytes that a file may have beside its arrays
COPIES: Final = 2  # of every test image
_ITEM: Final = 8  # bytes of a number at most, and of a place in the test set
_FLOATS: Final = ("float16", "float32", "float64")
_SAFETENSORS: Final = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I64": "<i8", "I32": "<i4", "I16": "<i2", "U8": "u1"}
_HEADERS: Final = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_DAMAGED: Final = (ValueError, KeyError, TypeError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Proposals:
    """The images of a file.

    Attributes:
        count: how many there are.
        images: (n, C, H, W) float32; None where `problem` says why they are none.
        index: places in the test set, (n,) int64; None where the file names none.
        problem: what is wrong with all of them, "" if nothing.
    """

    count: int
    images: np.ndarray | None
    index: np.ndarray | None
    problem: str = ""


def read_proposals(path: Path, shape: tuple[int, int, int], total: int) -> Proposals:
    """Return the images of a file.

    Args:
        path: the file.
        shape: (C, H, W) of an image of the board.
        total: images of the test set; a file may hold twice as many, in 8 bytes a number, and a place of each.

    Raises:
        UsageError: there is no file, or its format is another.
        IntegrityError: it is damaged, or lacks the images.
        SecurityError: it is, or unfolds to, more than the images can take; it holds more images, or more than tensors.
    """
    if not path.is_file():
        raise UsageError(f"{path}: expected a file with adversarial images, found none. Check the path.")
    most = COPIES * total * (math.prod(shape) + 1) * _ITEM + HEADERS
    if (size := path.stat().st_size) > most:
        raise SecurityError(
            f"{path}: expected at most {most:,} bytes, which hold every test image twice, got {size:,}. Split the file."
        )
    with path.open("rb") as stream:
        zipped = stream.read(4) == b"PK\x03\x04"
    try:
        arrays = _from_zip(path, most) if zipped else _from_safetensors(path)
    except _DAMAGED as error:
        if isinstance(error, BenchError):
            raise
        raise IntegrityError(
            f"{path}: expected adversarial images in a sound file, got {type(error).__name__}: {error}"[:400]
            + ". Save it again."
        ) from error
    return _proposals(path, arrays, shape, COPIES * total)


def _proposals(path: Path, arrays: Mapping[str, np.ndarray], shape: tuple[int, int, int], most: int) -> Proposals:
    """Return what the arrays of a file propose; other arrays than the images and the index do not count."""
    name = next((name for name in IMAGES if name in arrays), None)
    if name is None:
        raise IntegrityError(
            f"{path}: expected an array {IMAGES[0]!r} of images, got {', '.join(sorted(arrays))[:200] or 'none'}. "
            "Save the images under this name."
        )
    images, index = arrays[name], arrays.get(INDEX)
    count = len(images) if images.ndim else 1
    if count > most:
        raise SecurityError(
            f"{path}: expected at most {most:,} images, which is every test image twice, got {count:,}. Split the file."
        )
    if images.dtype.name not in _FLOATS:
        return Proposals(count, None, None, f"wrong dtype: {images.dtype}, expected floats in [0, 1]")
    if images.ndim != 4 or images.shape[1:] != shape:
        return Proposals(count, None, None, f"wrong shape: {images.shape}, expected (n, {', '.join(map(str, shape))})")
    if index is not None and (index.ndim != 1 or index.dtype.kind not in "iu"):
        problem = f"wrong index: {index.dtype} of shape {index.shape}, expected whole numbers of shape (n,)"
        return Proposals(count, None, None, problem)
    if index is not None and len(index) != count:
        return Proposals(count, None, None, f"wrong index: {len(index)} places for {count} images")
    with np.errstate(over="ignore"):  # a number that float32 cannot hold becomes infinite, and is refused as that
        images = np.ascontiguousarray(images, np.float32)
    return Proposals(count, images, None if index is None else index.astype(np.int64))


def _from_zip(path: Path, most: int) -> dict[str, np.ndarray]:
    """Return the arrays of an npz archive or of a file of `torch.save`, after their announced sizes were added up."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        unfolded = sum(member.file_size for member in members)
        if unfolded > most or len(members) > 1000:
            raise SecurityError(
                f"{path}: expected at most {most:,} bytes to unfold to in 1000 members, got {unfolded:,} in "
                f"{len(members):,}. Save the images alone."
            )
        names = {member.filename for member in members}
        if any(name.endswith("data.pkl") for name in names):
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise SecurityError(f"{path}: expected a file of torch.save, which compresses nothing. Save it again.")
            return _from_torch(path, most)
        arrays = {}
        for name in (*IMAGES, INDEX):
            if f"{name}.npy" in names:
                with archive.open(f"{name}.npy") as stream:
                    arrays[name] = _npy(path, stream, archive.getinfo(f"{name}.npy").file_size)
        return arrays


def _npy(path: Path, stream: IO[bytes], size: int) -> np.ndarray:
    """Return an array of an npz archive; its header must announce exactly the bytes that there are."""
    version = np.lib.format.read_magic(stream)  # type: ignore[arg-type]
    if version not in _HEADERS:
        raise ValueError(f"npy format {version}")
    shape, fortran, dtype = _HEADERS[version](stream)  # type: ignore[arg-type]
    if dtype.hasobject:
        raise SecurityError(f"{path}: expected arrays of numbers, got objects, which are pickles. Save numbers.")
    expected = math.prod(shape) * dtype.itemsize
    if expected > size:
        raise ValueError(f"an array of {expected} bytes in {size}")
    content = stream.read(expected)
    if len(content) != expected:
        raise ValueError(f"{len(content)} bytes of an array of {expected}")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _from_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file; safetensors itself checks that header and size agree."""
    from safetensors import SafetensorError, deserialize

    if path.suffix not in (".safetensors", ".st"):
        raise UsageError(
            f"{path}: expected an .npz, a .safetensors or a file of torch.save (1.6 or newer), got another format. "
            "Save the images as one of these."
        )
    try:
        found = deserialize(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    arrays = {}
    for name, facts in found:
        if name in (*IMAGES, INDEX):
            kind = _SAFETENSORS.get(facts["dtype"])
            data = np.frombuffer(facts["data"], kind or "u1")
            arrays[name] = data.reshape(facts["shape"]) if kind else np.zeros(facts["shape"][:1], "V1")
    return arrays


def _from_torch(path: Path, most: int) -> dict[str, np.ndarray]:
    """Return the tensors of a file of `torch.save`, read with `weights_only=True`; what else it holds is refused."""
    import pickle

    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        first = " ".join(str(error).split())[:200]
        raise SecurityError(
            f"{path}: expected nothing but tensors, got {first} Do not load it otherwise; ask for the tensor alone."
        ) from error
    named = found if isinstance(found, dict) else {IMAGES[0]: found}
    arrays = {}
    for name in (*IMAGES, INDEX):
        tensor = named.get(name)
        if isinstance(tensor, torch.Tensor):
            arrays[name] = _dense(path, tensor.detach(), most)
    if not arrays and isinstance(found, dict):
        names = ", ".join(str(name) for name in found)
        raise IntegrityError(
            f"{path}: expected {IMAGES[1]!r} or {IMAGES[0]!r}, got {json.dumps(names[:200])}. Rename it."
        )
    return arrays


def _dense(path: Path, tensor: object, most: int) -> np.ndarray:
    """Return a tensor as an array: dense, and no larger than its own memory, so that nothing is made up of strides."""
    import torch

    assert isinstance(tensor, torch.Tensor)
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
        raise ValueError(f"a tensor that is not dense ({tensor.layout})")
    size = tensor.numel() * tensor.element_size()
    if size > min(most, tensor.untyped_storage().nbytes()):
        raise SecurityError(f"{path}: expected a tensor that is stored whole, got one of {size:,} bytes. Save a copy.")
    if tensor.dtype is torch.bfloat16:
        return np.zeros(tensor.shape[:1], "V2")
    return tensor.numpy()
