"""The bill of materials, held to what CycloneDX 1.6 requires, and to what is in the bundle."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from cxx.bundles import write

from edgekd import sbom

COMPONENT_TYPES = {  # enumeration component.type of bom-1.6.schema.json
    "application", "framework", "library", "container", "platform", "operating-system", "device", "device-driver",
    "firmware", "file", "machine-learning-model", "data", "cryptographic-asset",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("sbom") / "one")


def components(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [found["metadata"]["component"], *found["metadata"]["tools"]["components"], *found["components"]]


def test_it_has_what_the_specification_requires(made: Path) -> None:
    """The `required` and `pattern` entries of bom-1.6.schema.json for all that is used here."""
    found = json.loads((made / "sbom.cdx.json").read_text())
    assert (found["bomFormat"], found["specVersion"], found["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", found["serialNumber"])
    assert set(found) <= {
        "$schema", "bomFormat", "specVersion", "serialNumber", "version", "metadata", "components", "dependencies",
    }  # fmt: skip
    for one in components(found):
        assert one["type"] in COMPONENT_TYPES and one["name"]
        for hashed in one.get("hashes", []):
            assert hashed["alg"] == "SHA-256" and re.fullmatch(r"[0-9a-f]{64}", hashed["content"])
        for licence in one.get("licenses", []):
            assert set(licence) in ({"license"}, {"expression"})
            assert "expression" in licence or set(licence["license"]) == {"name"}
        assert set(one) <= {"type", "bom-ref", "name", "version", "purl", "licenses", "hashes"}
    names = [one["bom-ref"] for one in components(found) if "bom-ref" in one]
    assert len(names) == len(set(names))
    for dependency in found["dependencies"]:
        assert {dependency["ref"], *dependency["dependsOn"]} <= set(names)


def test_it_names_every_file_and_the_runtime(made: Path) -> None:
    found = json.loads((made / "sbom.cdx.json").read_text())
    held = {one["name"]: one["hashes"][0]["content"] for one in found["components"] if one["type"] == "file"}
    there = {p.relative_to(made).as_posix(): p for p in made.rglob("*") if p.is_file()}
    assert set(held) == set(there) - {"bundle.json", "sbom.cdx.json"}
    for name, sha256 in held.items():
        assert hashlib.sha256(there[name].read_bytes()).hexdigest() == sha256
    libraries = {one["name"]: one for one in found["components"] if one["type"] == "library"}
    assert libraries["onnxruntime"]["version"] == version("onnxruntime")
    assert libraries["onnxruntime"]["purl"] == f"pkg:pypi/onnxruntime@{version('onnxruntime')}"
    assert "MIT" in json.dumps(libraries["onnxruntime"]["licenses"])
    assert found["metadata"]["component"]["licenses"] == [{"license": {"name": "LICENSE"}}]
    assert {"licences/LICENSE", "licences/onnxruntime-LICENSE"} <= set(there)


def test_equal_bundles_have_equal_bills() -> None:
    files = {"engine/model.onnx": "0" * 64}
    first, second = (sbom.text("net", ["numpy", "no-such-package"], files, []) for _ in range(2))
    assert first == second != sbom.text("net", ["numpy"], {"engine/model.onnx": "1" * 64}, [])
    assert uuid.UUID(json.loads(first)["serialNumber"].removeprefix("urn:uuid:")).version == 5
    assert [one["name"] for one in json.loads(first)["components"]] == ["numpy", "engine/model.onnx"]
