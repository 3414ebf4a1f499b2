"""The bill of materials of a bundle: CycloneDX 1.6 as JSON, `sbom.cdx.json`: the model, edgekd, the runtime, every file.

Form: https://cyclonedx.org/docs/1.6/json/ (ECMA-424). It has no date, so that equal bundles have equal bills.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

from edgekd import __version__, digest

FILE = "sbom.cdx.json"
LONGEST_NAME = 80  # of a licence; some distributions give its whole text


def text(name: str, packages: Iterable[str], files: Mapping[str, str], licences: Iterable[str]) -> str:
    """The bill as JSON. `packages` are distributions as installed, `files` digests by path, `licences` file names of the model's."""
    model = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": name or "student",
        "licenses": [{"license": {"name": licence}} for licence in licences],
    }
    libraries = [_library(package) for package in dict.fromkeys(packages)]
    held = [
        {
            "type": "file",
            "bom-ref": f"file:{path}",
            "name": path,
            "hashes": [{"alg": "SHA-256", "content": sha256}],
        }
        for path, sha256 in sorted(files.items())
    ]
    engine = [part["bom-ref"] for part in held if str(part["name"]).startswith("engine/")]
    parts = [part for part in libraries if part is not None]
    found = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest.of_json([name, dict(files)]))}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "edgekd", "version": __version__}]},
            "component": model,
        },
        "components": [*parts, *held],
        "dependencies": [{"ref": "model", "dependsOn": [*(part["bom-ref"] for part in parts), *engine]}],
    }
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


def _library(package: str) -> dict[str, Any] | None:
    """An installed distribution with its version and licence; None for one that is not installed."""
    try:
        about = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        return None
    version = about["Version"]
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": f"pkg:pypi/{package.lower()}@{version}",
        "name": package,
        "version": version,
        "purl": f"pkg:pypi/{package.lower()}@{version}",
    }
    if licence := _licence(about):
        found["licenses"] = [licence]
    return found


def _licence(about: metadata.PackageMetadata) -> dict[str, Any] | None:
    """As the distribution says: an SPDX expression (PEP 639), else the licence's name, else its classifier."""
    said = about.json
    if expression := said.get("license_expression"):
        return {"expression": expression}
    classifiers = [str(c).rpartition(" :: ")[2] for c in said.get("classifier", ()) if str(c).startswith("License ::")]
    for name in (str(said.get("license", "")).strip(), *classifiers):
        if name and "\n" not in name and len(name) <= LONGEST_NAME:
            return {"license": {"name": name}}
    return None
