"""Sign a pack with a key of one's own, and verify such a signature: the OpenSSF's format, no network, no service.

The signature `pack.sig` covers name and SHA-256 of every file of the folder. It is a Sigstore bundle as the package
`model-signing` writes it, so that its own command line verifies it as well.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from bench.core import files
from bench.core.errors import IntegrityError, MachineError, UsageError
from bench.core.text import one_line
from bench.packs.pack import SIGNATURE
from bench.packs.unpack import check_pack

_PACKAGE: Final = "model_signing"
_SHOWN: Final = 300  # characters of a library's message


def sign(folder: Path, key: Path) -> Path:
    """Sign a pack; an older signature is replaced.

    Args:
        folder: the pack.
        key: private key on an elliptic curve (P-256, P-384, P-521), PEM, without a password.

    Returns:
        The signature's file.

    Raises:
        UsageError: the key cannot be used.
        MachineError: the package `model-signing` is not installed, or the folder cannot be written.
        IntegrityError: a file of the pack is not as listed.
        SecurityError: a name that no pack of ours has.
    """
    signing, hashing = _library("signing"), _library("hashing")
    check_pack(folder)
    files.require_file(key, "--key")
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=key)
    except Exception as error:  # whatever the library raises on a file that is no such key
        raise UsageError(
            f"{key}: expected a private key on an elliptic curve in PEM without a password, got "
            f"{one_line(error, _SHOWN)}. Make one: openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
        ) from error
    path = folder / SIGNATURE
    with tempfile.TemporaryDirectory(prefix="bench-sign-") as scratch:
        made = Path(scratch) / SIGNATURE
        config.set_hashing_config(_covered(hashing)).sign(folder, made)
        files.write_bytes(path, made.read_bytes())
    return path


def verify_signature(folder: Path, key: Path) -> None:
    """Check that a pack is what the owner of a key has signed, file by file, with none missing and none added.

    Args:
        folder: the pack.
        key: their public key, PEM, from a place that you trust.

    Raises:
        UsageError: the key cannot be used.
        MachineError: the package `model-signing` is not installed.
        IntegrityError: there is no signature, it is another key's, or the files are not those that were signed.
        SecurityError: a name that no pack of ours has.
    """
    verifying, hashing = _library("verifying"), _library("hashing")
    files.require_file(key, "--key")
    path = folder / SIGNATURE
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except Exception as error:  # as above
        raise UsageError(
            f"{key}: expected a public key on an elliptic curve in PEM, got {one_line(error, _SHOWN)}. Ask its owner "
            "for it: openssl ec -in key.pem -pubout -out key.pub"
        ) from error
    if not path.is_file() or path.is_symlink():
        raise IntegrityError(f"{path}: expected a signature, found none. Ask for the pack with it.")
    try:
        config.set_hashing_config(_covered(hashing)).verify(folder, path)
    except Exception as error:  # the library has no class of its own for "does not hold"
        raise IntegrityError(
            f"{folder}: expected files as the owner of {key.name} signed them, got "
            f"{one_line(error, _SHOWN) or type(error).__name__}. Do not trust this pack."
        ) from error
    check_pack(folder)


def _covered(hashing: ModuleType) -> Any:
    """Return what is hashed: every file of the folder but the signature itself; links are refused."""
    config = hashing.Config().use_file_serialization(allow_symlinks=False)
    return config.set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


def _library(name: str) -> ModuleType:
    """Return a module of `model-signing`.

    Raises:
        MachineError: it is not installed.
    """
    try:
        return importlib.import_module(f"{_PACKAGE}.{name}")
    except ImportError as error:
        raise MachineError(
            "results sign: expected the package model-signing, which bench needs for signatures alone, got "
            f"{one_line(error, _SHOWN)}. Install it: pip install 'adversarial-bench[sign]'"
        ) from error
