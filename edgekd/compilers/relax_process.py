"""What a process of relax_measuring.py runs: TVM's own loop of calls, without torch, which TVM would import and not use.

python -P -m edgekd.compilers.relax_process READ WRITE: the numbers of its two pipes.
"""

from __future__ import annotations

import sys
from importlib import import_module

if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]  # as if it were not installed
    import_module("tvm.exec.popen_worker").main()
