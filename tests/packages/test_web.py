"""`edgekd package web`: the page in a headless Chromium, with ONNX Runtime Web, against the bundle's golden outputs."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends.folders import int8_model, write_program
from cxx import text_cases
from cxx.bundles import changed, write

import edgekd
from edgekd import bundle as made
from edgekd import package
from edgekd.backend import load_engine, open_backend
from edgekd.errors import UserError
from edgekd.in_engine import fold
from edgekd.packages import web
from tests.report.chromium import PROGRAM, Browser

needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="needs a browser: apt-get install chromium")


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """npm's package, unpacked: what EDGEKD_ONNXRUNTIME_WEB names, or what npm fetches."""
    if given := os.environ.get("EDGEKD_ONNXRUNTIME_WEB"):
        return Path(given)
    folder = tmp_path_factory.mktemp("npm")
    if shutil.which("npm") is None:
        pytest.skip("needs npm, to fetch ONNX Runtime Web")
    try:
        return web._fetched(folder)
    except UserError as error:
        pytest.skip(error.message)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An int8 student, its tolerance that of a compiled one: integer kernels may round otherwise."""
    return write(tmp_path_factory.mktemp("bundle"), "onnxruntime", int8_model())


Served = Callable[[Path], dict[str, Any]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    opened = Browser()
    yield opened
    opened.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Served]:
    """Serve a folder, open its page, and wait until it is ready; what its self-test wrote."""
    servers: list[http.server.ThreadingHTTPServer] = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}  # noqa: RUF012

        def log_message(self, *arguments: Any) -> None:
            pass

    def open_page(folder: Path) -> dict[str, Any]:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.open(f"http://127.0.0.1:{server.server_port}/")
        end = time.monotonic() + 60
        while browser.eval("document.documentElement.dataset.ready") != "yes":
            assert time.monotonic() < end, browser.events
            time.sleep(0.05)
        found: dict[str, Any] = browser.eval("({...document.getElementById('self-test').dataset})")
        return {**found, "text": browser.eval("document.getElementById('self-test').textContent")}

    yield open_page
    for server in servers:
        server.shutdown()
        server.server_close()


@needs_chromium
def test_the_page_tests_the_bundle_and_classifies(
    bundle: Path, runtime: Path, visit: Served, browser: Browser, tmp_path: Path
) -> None:
    notes = package.write("web", bundle, tmp_path / "page", runtime)
    assert notes[0] == "to open it: python -m http.server 8000 inside it, then http://localhost:8000"
    licence = (tmp_path / "page" / "onnxruntime" / "LICENSE").read_text("utf-8")
    assert "MIT" in licence
    assert "Microsoft" in licence
    said = visit(tmp_path / "page")
    assert said["state"] == "ok", said["text"]
    found = json.loads(said["result"])
    assert found["samples"] == 4
    assert found["top1"] == 1
    assert found["difference"] <= found["tolerance"]["absolute"] == 1e-4
    assert found["calls"] >= 5
    assert found["median"] > 0
    assert f"Median {1000 * found['median']:.3g}"[:9] in said["text"]  # the latency is shown
    assert browser.eval("document.getElementById('runtime').textContent") == f"ONNX Runtime Web {web.VERSION}"
    with edgekd.load(bundle) as student, np.load(bundle / "golden.npz") as golden:
        labels = ["abcde"[student.run([x[None]])[0].argmax()] for x in golden["inputs"]]
    script = "(async b => { b.click(); const a = await b.answer; return a.label + ' ' + (a.seconds >= 0); })"
    pictures = "document.querySelectorAll('#golden button')"
    assert [browser.eval(f"{script}({pictures}[{i}])") for i in range(4)] == [f"{label} true" for label in labels]
    assert browser.eval("document.getElementById('answer').textContent") == labels[-1]
    assert browser.eval("document.getElementById('time').textContent").endswith(" ms")
    fetched = {e["request"]["url"].split("/")[2].split(":")[0] for e in browser.happened("Network.requestWillBeSent")}
    assert fetched == {"127.0.0.1"} or fetched == {"127.0.0.1", ""}  # nothing comes from elsewhere
    assert not [e for e in browser.happened("Log.entryAdded") if e["entry"]["level"] == "error"]
    assert not browser.happened("Runtime.exceptionThrown")


@needs_chromium
def test_a_drawing_is_preprocessed_as_python_does_it(
    bundle: Path, runtime: Path, visit: Served, browser: Browser, tmp_path: Path
) -> None:
    """A white square is drawn on the canvas; what the page says is what the student says of the same pixels."""
    package.write("web", bundle, tmp_path / "page", runtime)
    visit(tmp_path / "page")
    browser.eval(
        "(() => { const c = document.getElementById('canvas'), p = c.getContext('2d'); p.fillStyle = 'white';"
        "p.fillRect(0, 0, c.width / 2, c.height); })()"
    )
    browser.eval("document.getElementById('canvas').dispatchEvent(new PointerEvent('pointerup'))")
    pixels = np.zeros((8, 8))
    pixels[:, :4] = 255
    x = ((pixels / 255 - 0.5) / 0.25).astype(np.float32)  # mean and std of the first channel, as the bundle has them
    with edgekd.load(bundle) as student:
        logits = student.run([x[None, None]])[0][0]
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    end = time.monotonic() + 10
    while not (said := browser.eval("document.getElementById('shares').textContent")) and time.monotonic() < end:
        time.sleep(0.05)
    best = np.argsort(-shares)[:5]
    for index in best:
        assert f"{'abcde'[index]}  {100 * shares[index]:.1f}%" in said
    assert browser.eval("document.getElementById('answer').textContent") == "abcde"[best[0]]


@needs_chromium
def test_a_page_hands_bytes_to_an_engine_that_prepares_them(
    runtime: Path, visit: Served, browser: Browser, tmp_path: Path
) -> None:
    plain, folded, engine = write_program(tmp_path / "plain"), tmp_path / "folded", tmp_path / "engine"
    folded.mkdir()
    engine.mkdir()
    fold(plain, folded, {"scale": 1 / 255, "mean": [0.5], "std": [0.25], "layout": "NCHW"})
    open_backend("onnxruntime").compile(folded, engine, {}, 1)
    pixels = np.zeros((1, 8, 8, 1), np.uint8)
    pixels[:, :, :4] = 255
    with load_engine(engine) as session:
        outputs = session.run([pixels])[0]
    facts = {"name": "bytes", "edgekd": "0.1.0", "tolerance": {"top1": 1.0, "absolute": 1e-4}}
    made.write(tmp_path / "bundle", engine, facts, {"inputs": pixels, "outputs": outputs}, [], [])
    package.write("web", tmp_path / "bundle", tmp_path / "page", runtime)
    assert visit(tmp_path / "page")["state"] == "ok"
    browser.eval(
        "(() => { const c = document.getElementById('canvas'), p = c.getContext('2d'); p.fillStyle = 'white';"
        "p.fillRect(0, 0, c.width / 2, c.height); })()"
    )
    browser.eval("document.getElementById('canvas').dispatchEvent(new PointerEvent('pointerup'))")
    end = time.monotonic() + 10
    while not (said := browser.eval("document.getElementById('shares').textContent")) and time.monotonic() < end:
        time.sleep(0.05)
    shares = np.exp(outputs[0]) / np.exp(outputs[0]).sum()
    for index in np.argsort(-shares)[:5]:
        assert f"{'abcde'[index]}  {100 * shares[index]:.1f}%" in said
    script = "(async b => { b.click(); return (await b.answer).label; })(document.querySelector('#golden button'))"
    assert browser.eval(script) == "abcde"[outputs[0].argmax()]


@needs_chromium
def test_a_student_of_text_is_tested_and_no_more(
    runtime: Path, visit: Served, browser: Browser, tmp_path: Path
) -> None:
    package.write("web", text_cases.write(tmp_path / "bundle"), tmp_path / "page", runtime)
    assert visit(tmp_path / "page")["state"] == "ok"
    note = browser.eval("document.getElementById('note').textContent")
    assert (
        note == "This student takes text. This page prepares images only: it tests the bundle, and shows its latency."
    )
    assert browser.eval("document.getElementById('example').hidden")
    assert "classifies what is drawn" not in (tmp_path / "page" / "README.md").read_text("utf-8")


@needs_chromium
def test_what_is_not_as_promised_is_told(bundle: Path, runtime: Path, visit: Served, tmp_path: Path) -> None:
    wrong = changed(bundle, tmp_path / "wrong", "bundle.json")
    with np.load(bundle / "golden.npz") as golden:
        np.savez(wrong / "golden.npz", inputs=golden["inputs"], outputs=golden["outputs"] + np.float32(0.01))
    package.write("web", changed(wrong, tmp_path / "other", "bundle.json"), tmp_path / "page", runtime)
    said = visit(tmp_path / "page")
    assert said["state"] == "failed"
    assert json.loads(said["result"])["difference"] == pytest.approx(0.01, rel=1e-3)
    assert said["text"].startswith("Self-test failed. 4 golden samples: top-1 agreement 1, largest difference 0.01")
    model = tmp_path / "page" / "bundle" / "engine" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    said = visit(tmp_path / "page")
    assert said["state"] == "error"
    assert said["text"] == "Error: engine/model.onnx was changed; copy or compile the bundle again"


def test_the_runtime_is_taken_from_a_folder(bundle: Path, tmp_path: Path) -> None:
    """Either npm's folder or its `dist`; what is not one of them is said with the command that gets it."""
    given = tmp_path / "package"
    with pytest.raises(
        UserError, match=r"package: no package\.json: not npm's onnxruntime-web\nhint: npm pack onnxruntime-web@"
    ):
        package.write("web", bundle, tmp_path / "page", given)
    (given / "dist").mkdir(parents=True)
    (given / "package.json").write_text('{"version": "1.2.3"}')
    for name in web.FILES:
        (given / "dist" / name).write_text(name)
    (given / "LICENSE").write_text("theirs")
    notes = package.write("web", bundle, tmp_path / "page", given / "dist")
    assert "the page has 1.2.3: its self-test tells" in notes[1]
    assert (tmp_path / "page" / "onnxruntime" / "LICENSE").read_text() == "theirs"
    assert "ONNX Runtime Web 1.2.3" in (tmp_path / "page" / "README.md").read_text("utf-8")


def test_npm_that_is_missing_or_fails(monkeypatch: pytest.MonkeyPatch, bundle: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        UserError, match=r"fetched by npm, which is not installed\nhint: install npm; or npm pack onnxruntime-web@"
    ):
        package.write("web", bundle, tmp_path / "page")
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(UserError, match=r"npm cannot fetch onnxruntime-web \S+: npm error code ENOTFOUND"):
        package.write("web", bundle, tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_the_pinned_version_is_the_readmes_and_the_package_fetched_is_it(runtime: Path) -> None:
    assert json.loads((runtime / "package.json").read_text("utf-8"))["version"] == web.VERSION
