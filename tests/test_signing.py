"""Signatures: made by `edgekd sign`, checked by verify, load and openssl; refused where anything is not as it was signed."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cxx.bundles import changed, write
from project import edgekd as run

import edgekd
from edgekd import bundle, signing
from edgekd.errors import UserError

pytest.importorskip("cryptography", reason='pip install "edgekd[sign]"')


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A signed bundle, its private key, another's public key."""
    folder = tmp_path_factory.mktemp("signing")
    written = write(folder / "one", "null")
    for name in ("mine", "other"):
        signing.new_key(folder / name)
    signing.sign(written, folder / "mine")
    return written, folder / "mine", folder / "other.pub"


def test_the_commands(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    key, copy = tmp_path / "key", shutil.copytree(made[0], tmp_path / "b")
    done = run("keygen", key)
    assert done.returncode == 0 and "key.pub" in done.stdout
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert run("keygen", key).returncode == 2
    done = run("sign", copy, "--key", key)
    assert done.returncode == 0, done.stderr
    key_id = done.stdout.split()[-1]
    assert len(key_id) == 16 and key_id in run("verify", copy, "--public-key", f"{key}.pub").stdout
    assert json.loads(run("verify", copy, "--public-key", f"{key}.pub", "--json").stdout)["signed_by"] == key_id
    refused = run("verify", copy, "--public-key", made[2])
    assert refused.returncode == 2 and "is not one of key" in refused.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "key", "key.pub"]


def test_a_good_one_opens(made: tuple[Path, Path, Path]) -> None:
    for key in (f"{made[1]}.pub", None):
        with edgekd.load(made[0], public_key=key) as student:
            assert [port.name for port in student.signature.inputs] == ["x"]


def test_openssl_says_the_same(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    signature = json.loads((made[0] / "bundle.sig").read_text())["signature"]
    (tmp_path / "raw").write_bytes(bytes.fromhex(signature))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", f"{made[1]}.pub", "-rawin"]
    files = ["-in", str(made[0] / "bundle.json"), "-sigfile", str(tmp_path / "raw")]
    assert subprocess.run([*command, *files], capture_output=True, check=False).returncode == 0


def test_what_was_not_signed_so_is_refused(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    signed, key, other = made
    mine = Path(f"{key}.pub")
    with pytest.raises(UserError, match="is not one of key") as caught:
        bundle.read(signed, other)
    assert "who should have signed" in caught.value.hint
    forged = changed(signed, tmp_path / "forged", "bundle.json", name="other")  # its digests are true again
    bundle.read(forged)
    with pytest.raises(UserError, match="is not one of key") as caught:
        bundle.read(forged, mine)
    assert "changed after it was signed" in caught.value.hint
    (forged / "bundle.sig").unlink()
    with pytest.raises(UserError, match="is not signed"):
        edgekd.load(forged, public_key=mine)
    for text in ("", "{}", "[]", '{"format": 2, "algorithm": "Ed25519"}', "\xff"):
        (forged / "bundle.sig").write_text(text, "latin-1")
        with pytest.raises(UserError, match=r"bundle\.sig is damaged"):
            bundle.read(forged, mine)
    swapped = shutil.copytree(signed, tmp_path / "swapped")
    (swapped / "golden.npz").write_bytes(b"x")
    with pytest.raises(UserError, match=r"golden\.npz was changed"):
        bundle.read(swapped, mine)


def test_keys_that_are_none(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    signed, key, _ = made
    shared = tmp_path / "shared"
    shutil.copyfile(key, shared)
    shared.chmod(0o640)
    with pytest.raises(UserError, match=r"can be read by others \(mode 640\)") as caught:
        signing.sign(signed, shared)
    assert caught.value.hint == f"chmod 600 {shared}"
    for content in (b"", b"not a key"):
        (tmp_path / "no").write_bytes(content)
        (tmp_path / "no").chmod(0o600)
        with pytest.raises(UserError, match="is no private key"):
            signing.sign(signed, tmp_path / "no")
        with pytest.raises(UserError, match="is no public key"):
            bundle.read(signed, tmp_path / "no")
    with pytest.raises(UserError, match="No such file"):
        bundle.read(signed, tmp_path / "nowhere")
    with pytest.raises(UserError, match="No such file"):
        signing.new_key(tmp_path / "nowhere" / "key")
    with pytest.raises(UserError, match="not a bundle"):
        signing.sign(tmp_path, key)
