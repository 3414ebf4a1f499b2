"""The Android library, as far as it can be checked without an SDK: its layout, and its JNI and Kotlin on a desktop's Java."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cxx.bundles import build, changed, needs_compilers, ran, write

from edgekd import package

JAVAC = shutil.which("javac")
JAVA_HOME = Path(JAVAC).resolve().parent.parent if JAVAC else Path()
needs_jdk = pytest.mark.skipif(
    not (JAVA_HOME / "include" / "jni.h").is_file(), reason="needs a JDK: apt-get install default-jdk-headless"
)
KOTLINC = shutil.which(os.environ.get("EDGEKD_KOTLINC", "kotlinc"))
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("android")
    package.write("android", write(folder / "bundle", "null"), folder / "library")
    return folder / "library"


@pytest.fixture(scope="module")
def native(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of libedgekd_student.so, built for this machine by the module's own CMakeLists.txt."""
    out = tmp_path_factory.mktemp("native")
    include = JAVA_HOME / "include"
    flags = f"-Wall -Wextra -Wconversion -Wpedantic -Werror -I{include} -I{include / 'linux'}"
    build(made / "student" / "src" / "main" / "cpp", out, flags=flags)
    return out


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


@pytest.mark.slow
@needs_compilers
@needs_jdk
def test_jni_from_java(native: Path, tmp_path: Path) -> None:
    """The same functions with the same types, declared in Java: run, self-test, and exceptions with the code of the C API."""
    ran(
        "javac",
        "-Xlint:all",
        "-Werror",
        "-h",
        tmp_path / "headers",
        "-d",
        tmp_path,
        HERE / "Native.java",
        HERE / "Main.java",
    )
    said = ran(
        "java", "-Xcheck:jni", f"-Djava.library.path={native}", "-cp", tmp_path, "dev.edgekd.Main"
    ).stdout.decode()
    assert said.splitlines()[-1] == "all is well", said
    assert "WARNING" not in said
    declared = (tmp_path / "headers" / "dev_edgekd_Native.h").read_text()
    names = set(re.findall(r"Java_dev_edgekd_Native_\w+", declared))
    exported = {
        line.split()[-1]
        for line in ran("nm", "-D", "--defined-only", native / "libedgekd_student.so").stdout.decode().splitlines()
    }
    assert names <= exported
    assert {"edgekd_open", "edgekd_run", "edgekd_self_test"} <= exported  # the C API, for other languages


@pytest.mark.slow
@needs_compilers
@needs_jdk
@pytest.mark.skipif(
    KOTLINC is None, reason="needs kotlinc, or EDGEKD_KOTLINC to say where it is: npm's kotlin-compiler has it"
)
def test_the_kotlin_wrapper(made: Path, native: Path, tmp_path: Path) -> None:
    wrapper = made / "student" / "src" / "main" / "kotlin" / "dev" / "edgekd" / "Student.kt"
    jar = tmp_path / "wrapper.jar"
    ran(str(KOTLINC), "-Werror", "-include-runtime", "-d", jar, wrapper, HERE / "Main.kt")
    said = ran("java", "-Xcheck:jni", f"-Djava.library.path={native}", "-cp", jar, "dev.edgekd.MainKt").stdout.decode()
    assert said.splitlines()[-1] == "all is well", said
