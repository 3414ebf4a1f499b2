"""The native side of the Android library and the Swift package, compiled and run on this machine: JNI, Kotlin, the C++ target."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from cxx.bundles import WARNINGS, build, needs_compilers, ran, runtime_library, write

from edgekd import package

JAVAC = shutil.which("javac")
JAVA_HOME = Path(JAVAC).resolve().parent.parent if JAVAC else Path()
KOTLINC = shutil.which(os.environ.get("EDGEKD_KOTLINC", "kotlinc"))
HERE = Path(__file__).parent
PROGRAM = """
#include <edgekd/edgekd.h>
#include <edgekd/runtimes.h>
#include <stdio.h>

int main(int count, char **words) {
    edgekd_student *student = NULL;
    edgekd_status status;
    if (count != 2) return 2;
    edgekd_link_runtimes();
    edgekd_link_runtimes();
    status = edgekd_open(words[1], NULL, &student);
    if (status.code == EDGEKD_OK) status = edgekd_self_test(student, 0, NULL);
    printf("%d %s", (int)status.code, status.code == EDGEKD_OK ? edgekd_backend(student) : status.message);
    edgekd_close(student);
    return 0;
}
"""

pytestmark = [
    pytest.mark.slow,
    needs_compilers,
    pytest.mark.skipif(
        not (JAVA_HOME / "include" / "jni.h").is_file(), reason="needs a JDK: apt-get install default-jdk-headless"
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle as both packages."""
    made = tmp_path_factory.mktemp("native")
    bundle = write(made / "bundle", "null")
    for host in ("android", "swift"):
        package.write(host, bundle, made / host)
    return made


@pytest.fixture(scope="module")
def native(folder: Path) -> Path:
    """The folder of libedgekd_student.so, built for this machine by the Gradle module's own CMakeLists.txt."""
    include = JAVA_HOME / "include"
    flags = f"{WARNINGS} -I{include} -I{include / 'linux'}"
    build(folder / "android" / "student" / "src" / "main" / "cpp", folder / "native", flags=flags)
    return folder / "native"


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


@pytest.mark.skipif(
    KOTLINC is None, reason="needs kotlinc, or EDGEKD_KOTLINC to say where it is: npm's kotlin-compiler has it"
)
def test_the_kotlin_wrapper(folder: Path, native: Path, tmp_path: Path) -> None:
    wrapper = folder / "android" / "student" / "src" / "main" / "kotlin" / "dev" / "edgekd" / "Student.kt"
    jar = tmp_path / "wrapper.jar"
    ran(str(KOTLINC), "-Werror", "-include-runtime", "-d", jar, wrapper, HERE / "Main.kt")
    said = ran("java", "-Xcheck:jni", f"-Djava.library.path={native}", "-cp", jar, "dev.edgekd.MainKt").stdout.decode()
    assert said.splitlines()[-1] == "all is well", said


def test_the_swift_packages_c_target(folder: Path, native: Path, tmp_path: Path) -> None:
    """Its own file and headers, with the library's sources, which test_swift.py holds to be the same, as built above."""
    target = folder / "swift" / "Sources" / "CEdgekd"
    (tmp_path / "main.c").write_text(PROGRAM)
    flags = (*WARNINGS.split(), f"-I{target / 'include'}")
    ran("cc", "-std=c99", *flags, "-c", tmp_path / "main.c", "-o", tmp_path / "main.o")
    library = native / "edgekd" / "libedgekd.a"
    ran(
        "c++",
        "-std=c++17",
        *flags,
        target / "runtimes.cpp",
        tmp_path / "main.o",
        library,
        "-ldl",
        "-pthread",
        "-o",
        tmp_path / "main",
    )
    bundle = folder / "swift" / "Sources" / "Edgekd" / "bundle"
    assert ran(tmp_path / "main", bundle).stdout == b"0 null"
    assert b"not a bundle" in ran(tmp_path / "main", tmp_path).stdout


@pytest.mark.skipif(
    shutil.which("clang") is None, reason="needs clang, which reads module maps as Swift does: apt-get install clang"
)
def test_the_module_map_is_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(
        PROGRAM.replace(
            "#include <edgekd/edgekd.h>\n#include <edgekd/runtimes.h>", "#pragma clang module import CEdgekd"
        )
    )
    include = folder / "swift" / "Sources" / "CEdgekd" / "include"
    checked = ran(
        "clang",
        "-fmodules",
        f"-fmodules-cache-path={tmp_path / 'cache'}",
        f"-I{include}",
        "-fsyntax-only",
        *WARNINGS.split(),
        tmp_path / "main.c",
    )
    assert checked.returncode == 0 and not checked.stderr


def test_a_runtime_that_the_app_links(native: Path, tmp_path: Path) -> None:
    """As on iOS: with EDGEKD_ONNXRUNTIME_LINKED nothing is loaded, wherever the environment says that a library is."""
    package.write("swift", write(tmp_path / "bundle"), tmp_path / "package")
    target, library = tmp_path / "package" / "Sources" / "CEdgekd", runtime_library()
    (tmp_path / "libonnxruntime.so.1").symlink_to(library)  # by the name that it gives itself
    (tmp_path / "main.c").write_text(PROGRAM)
    flags = (*WARNINGS.split(), f"-I{target / 'include'}")
    ran("cc", "-std=c99", *flags, "-c", tmp_path / "main.c", "-o", tmp_path / "main.o")
    ran(
        "c++", "-std=c++17", *flags, "-DEDGEKD_ONNXRUNTIME_LINKED", target / "runtimes.cpp", target / "session_onnxruntime.cpp",
        tmp_path / "main.o", native / "edgekd" / "libedgekd.a", library, f"-Wl,-rpath,{tmp_path}", "-ldl", "-pthread",
        "-o", tmp_path / "main",
    )  # fmt: skip
    bundle = tmp_path / "package" / "Sources" / "Edgekd" / "bundle"
    assert ran(tmp_path / "main", bundle, EDGEKD_ONNXRUNTIME_ROOT="/nowhere").stdout == b"0 onnxruntime"
