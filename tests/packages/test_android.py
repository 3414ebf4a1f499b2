"""The Android library, as far as it can be checked without an SDK: its layout. tests/packages/test_native.py runs its code."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cxx.bundles import changed, write

from edgekd import package


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("android")
    package.write("android", write(folder / "bundle", "null"), folder / "library")
    return folder / "library"


def test_the_layout_is_a_gradle_library(made: Path) -> None:
    module = made / "student"
    manifest = ElementTree.parse(module / "src" / "main" / "AndroidManifest.xml").getroot()  # noqa: S314  our own file
    assert manifest.tag == "manifest"
    assert "package" not in manifest.attrib  # the namespace is Gradle's since its plugin 8
    assert not list(manifest)  # a library asks for nothing
    gradle = (module / "build.gradle.kts").read_text("utf-8")
    assert gradle.count("{") == gradle.count("}")
    for needed in ('id("com.android.library")', 'namespace = "dev.edgekd.tiny"', "compileSdk = ", "minSdk = "):
        assert needed in gradle
    for path in re.findall(r'(?:file\(|headers = )"([^"]+)"', gradle):
        assert (module / path).exists(), path
    assert re.findall(r'include\("(.*?)"\)', (made / "settings.gradle.kts").read_text("utf-8")) == [":student"]
    assert "onnxruntime-android" not in gradle
    assert (module / "src" / "main" / "cpp" / "edgekd" / "include" / "edgekd" / "edgekd.h").is_file()


def test_the_runtime_is_the_one_that_the_bundle_was_compiled_with(tmp_path: Path) -> None:
    bundle = changed(
        write(tmp_path / "bundle"), tmp_path / "old", "engine/engine.json", versions={"onnxruntime": "1.30.2"}
    )
    package.write("android", bundle, tmp_path / "library")
    gradle = (tmp_path / "library" / "student" / "build.gradle.kts").read_text("utf-8")
    assert 'implementation("com.microsoft.onnxruntime:onnxruntime-android:1.30.2")' in gradle


def test_what_kotlin_calls_is_what_jni_defines(made: Path) -> None:
    """And what R8 must keep is what C++ finds by name."""
    main = made / "student" / "src" / "main"
    source, kotlin = ((main / p).read_text("utf-8") for p in ("cpp/jni.cpp", "kotlin/dev/edgekd/Student.kt"))
    external = set(re.findall(r"external fun (\w+)\(", kotlin))
    assert len(external) == 13
    assert external == set(re.findall(r"JNICALL Java_dev_edgekd_Native_(\w+)\(", source))
    kept = (made / "student" / "consumer-rules.pro").read_text("utf-8")
    for name in re.findall(r'FindClass\("([\w/]+)"\)', source):
        assert f"-keep class {name.replace('/', '.')} " in kept
    assert "-keep class dev.edgekd.Native " in kept
