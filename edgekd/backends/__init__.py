"""Backends: one file each, found by name; each exports one `edgekd.backend.Backend` subclass.

Contract (`tests/backends/test_contract.py` holds every file to it):

* importing the file imports no runtime and no torch; `missing()` imports nothing and names the pip command;
* `unsupported` answers before any compilation, one line per node;
* `compile` writes the engine's files, `signature.json` and `engine.json` (through `backend.write_engine`) into `out`,
  gives the same bytes for the same program, and records every option that `load` needs;
* `load` needs numpy and the runtime only, and opens what an earlier process compiled; torch is imported by the backends
  whose runtime it is, or whose Python runtime is made of it (`torch`, `executorch`), and by no other;
* `profile`, where the runtime has a profiler, says what each operator takes: `edgekd check` names those that grew slower;
* a compiler that cannot live beside the others is the backend's `environment`: `unsupported` and `compile` are asked where it
  is seen, everything else where it is not;
* sessions do not time themselves: `edgekd/latency/clock.py` times them all the same way.
"""
