"""Ed25519 signatures of bundles (RFC 8032): bundle.json holds the digest of every file, `bundle.sig` signs bundle.json.

    bundle.sig   {"format": 1, "algorithm": "Ed25519", "key": id, "signature": hex}

`key` is the first 16 hexadecimal digits of the SHA-256 of the 32 bytes of the public key. Key files are PEM, as openssl writes
them: PKCS #8 and SubjectPublicKeyInfo (RFC 8410). What is signed is bundle.json's bytes, nothing around them, so that
`openssl pkeyutl -verify -rawin` can check it too. The same in C++ is cmake/src/ed25519.cpp.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.errors import UserError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

FILE = "bundle.sig"
FORMAT = 1
ALGORITHM = "Ed25519"
OTHERS = 0o077  # what a private key's mode must not have
PACKAGE = "signatures need the package cryptography"


def new_key(private: Path) -> tuple[Path, str]:
    """Write a new key pair, `private` (mode 600) and `private`.pub; (the second path, the key's id). Overwrites nothing."""
    try:
        from cryptography.hazmat.primitives import serialization as pem
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError:
        raise UserError(PACKAGE, hint='pip install "edgekd[sign]"') from None
    public = private.with_name(f"{private.name}.pub")
    for path in (private, public):
        if path.exists():
            raise UserError(f"{path} exists", hint="a key that is lost cannot be made again: choose another name")
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    shown = key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    try:
        for path, content, mode in ((private, secret, 0o600), (public, shown, 0o644)):
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", hint="name a file in a folder of yours") from None
    return public, key_id(key.public_key())


def key_id(public: Ed25519PublicKey) -> str:
    """16 hexadecimal digits that tell keys apart."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]


def sign(folder: Path, private: Path) -> str:
    """Sign a bundle that is whole, in place of the signature that it may have; the key's id.

    Raises UserError for a damaged bundle, and for a key that others can read or that is no Ed25519 key.
    """
    from edgekd import bundle
    from edgekd.store import write_whole

    key = _private(private)
    bundle.read(folder)
    signature = key.sign((folder / bundle.MANIFEST).read_bytes()).hex()
    id_ = key_id(key.public_key())
    found = {"format": FORMAT, "algorithm": ALGORITHM, "key": id_, "signature": signature}
    made = folder.parent / f".{folder.name}-{FILE}"  # beside it: what a kill leaves inside would not be of the bundle
    try:
        write_whole(made, (json.dumps(found, indent=1) + "\n").encode())
        os.replace(made, folder / FILE)
    except OSError as error:
        raise UserError(f"cannot write {folder / FILE}: {error.strerror}", hint="copy the bundle first") from None
    return id_


def check(folder: Path, manifest: bytes, public: Path) -> str:
    """The id of the key, if `bundle.sig` is its signature of the manifest's bytes. Raises UserError if it is not."""
    key = _public(public)
    from cryptography.exceptions import InvalidSignature

    id_ = key_id(key)
    try:
        found = json.loads((folder / FILE).read_text("utf-8"))
        if found["format"] != FORMAT or found["algorithm"] != ALGORITHM:
            raise ValueError(f"a signature of format {found['format']}, {found['algorithm']}")
        signer, signature = str(found["key"]), bytes.fromhex(found["signature"])
    except FileNotFoundError:
        raise UserError(f"{folder} is not signed", hint=f"edgekd sign {folder} --key KEY") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / FILE} is damaged: {error}", hint="sign or copy the bundle again") from None
    try:
        key.verify(signature, manifest)
    except InvalidSignature:
        hint = "it was changed after it was signed, or the signature is of another bundle: copy it again"
        if signer != id_:
            hint = "who should have signed it? give the public key of that one"
        raise UserError(f"{folder}: the signature, of key {signer}, is not one of key {id_}", hint=hint) from None
    return id_


def _private(path: Path) -> Ed25519PrivateKey:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError:
        raise UserError(PACKAGE, hint='pip install "edgekd[sign]"') from None
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", hint="edgekd keygen KEY makes a pair of keys") from None
    if os.name == "posix" and mode & OTHERS:
        raise UserError(f"{path} can be read by others (mode {mode & 0o777:o})", hint=f"chmod 600 {path}")
    try:
        key = load_pem_private_key(content, None)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is no private key without password: {error}", hint="edgekd keygen KEY") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{path} is no Ed25519 key", hint="edgekd keygen KEY")
    return key


def _public(path: Path) -> Ed25519PublicKey:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise UserError(PACKAGE, hint='pip install "edgekd[sign]"') from None
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", hint="the public half of `edgekd keygen KEY` is KEY.pub") from None
    except ValueError as error:
        raise UserError(f"{path} is no public key: {error}", hint="the public half of `edgekd keygen KEY`") from None
    if not isinstance(key, Ed25519PublicKey):
        raise UserError(f"{path} is no Ed25519 key", hint="the public half of `edgekd keygen KEY` is KEY.pub")
    return key
