"""A link to whatever has a POSIX shell: each thing that a link does is a short script run there.

Needed there: sh, cat, mkdir, mv, rm, ln, cp, chmod, find and sha256sum, as any Linux, Busybox or Android has.
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, final

from edgekd.devices.link import Link, LinkError, Talk, check_name, check_path

OLD_DAYS = 30  # files that were not used for so long are removed
SECONDS = 60.0  # for what moves no bytes
BYTES_A_SECOND = 50_000  # slower than that, a transfer hangs
SCRIPT_BYTES = 8_192  # a script is one argument, quoted once or twice on its way: Linux takes 128 KiB, adb 64 KiB
FULL = re.compile(r"No space left|File too large|File size limit|[Qq]uota exceeded")

# A lease is the one name in lease/: `free`, or HOLDER@BOOT@UNTIL@SECONDS in seconds since that boot. It changes hands by a
# rename, which one of two succeeds in. A time that is over, of another boot or of the future, holds nothing.
LEASE = """
[ -d lease ] || { mkdir "new.$$" && : > "new.$$/free" && mv "new.$$" lease; rm -rf "new.$$"; }
rm -rf lease/new.*
for try in 1 2 3; do
  boot=$(cut -c 1-8 /proc/sys/kernel/random/boot_id 2>/dev/null) || boot=none
  now=$(cut -d . -f 1 /proc/uptime 2>/dev/null) || now=$(date +%s)
  mine="$holder@$boot@$((now + seconds))@$seconds"
  for there in lease/*; do
    name=${there#lease/}
    [ "$name" = "$mine" ] && exit 0
    case $name in
    free | "$holder"@*) mv "$there" "lease/$mine" 2>/dev/null && exit 0 ;;
    *@*@*@*)
      other=${name%%@*}; rest=${name#*@}; its=${rest%%@*}; rest=${rest#*@}; ends=${rest%%@*}; length=${rest#*@}
      if [ "$its" != "$boot" ] || [ "$now" -ge "$ends" ] || [ "$now" -lt $((ends - length)) ]; then
        mv "$there" "lease/$mine" 2>/dev/null && exit 0
      else
        echo "$other"; exit 0
      fi ;;
    esac
  done
done
echo "the lease in $PWD/lease cannot be taken" >&2
exit 1
"""


class ShellLink(Link):
    """`root`: the folder there, absolute or from where the shell starts. `prefix`: the words before each program."""

    root: str
    prefix: tuple[str, ...] = ()

    @abstractmethod
    def execute(self, script: str, source: IO[bytes], sink: IO[bytes], timeout: float) -> tuple[int, str]:
        """Run a script with these streams: its exit code, and the end of what it said. Raises LinkError: cut, refused."""

    @abstractmethod
    def talk(self, script: str) -> Talk:
        """Start a script and talk with what it becomes."""

    @final
    def held(self, digests: Collection[str]) -> set[str]:
        """A file whose bytes are not its name's any more (a bad card) is removed there, and so is sent again."""
        said: list[str] = []
        for names in parts(sorted(map(check_name, digests))):
            script = f"""for name in {" ".join(names)}; do
              if [ -f "files/$name" ]; then
                found=$(sha256sum "files/$name")
                if [ "${{found%% *}}" = "$name" ]; then touch "files/$name"; echo "$name"; else rm -f "files/$name"; fi
              fi
            done"""
            said += self._run(script, timeout=10 * SECONDS).split()
        return set(said) & set(digests)

    @final
    def put(self, file: Path, named: str) -> None:
        name = check_name(named)
        script = f"""mkdir -p files && new="files/.$$.{name}" && trap 'rm -f "$new"' EXIT
            cat > "$new" && found=$(sha256sum "$new") || exit 74
            if [ "${{found%% *}}" != {name} ]; then exit 65; fi
            mv "$new" "files/{name}\""""
        with file.open("rb") as source:
            self._run(script, source, timeout=SECONDS + file.stat().st_size / BYTES_A_SECOND)

    @final
    def get(self, folder: str, path: str, file: Path) -> None:
        place = shlex.quote(f"work/{check_name(folder)}/{check_path(path)}")
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}-", delete=False) as sink:
            try:
                self._run(f"cat {place}", sink=sink, timeout=10 * SECONDS)
                sink.flush()
                os.replace(sink.name, file)
            finally:
                Path(sink.name).unlink(missing_ok=True)

    @final
    def make_folder(self, name: str, files: Mapping[str, str], programs: Collection[str]) -> None:
        work = f"work/{check_name(name)}"
        lines = [
            f'for other in work/*; do [ "$other" = {work} ] || rm -rf "$other"; done',
            f"find files -type f -mtime +{OLD_DAYS} -exec rm -f {{}} + 2>/dev/null || :",
            f"mkdir -p {work}",
        ]
        folders = sorted({str(Path(check_path(path)).parent) for path in files} - {"."})
        lines += [f"mkdir -p {shlex.quote(f'{work}/{folder}')} || exit 1" for folder in folders]
        for path, digest in files.items():
            here, there = f"files/{check_name(digest)}", shlex.quote(f"{work}/{path}")
            lines.append(f"ln -f {here} {there} 2>/dev/null || cp {here} {there} || exit 1")
            if path in programs:
                lines.append(f"chmod 700 {there} || exit 1")
        for some in parts(lines):
            self._run("\n".join(some))

    @final
    def remove_folder(self, name: str) -> None:
        self._run(f"rm -rf work/{check_name(name)}")

    @final
    def start(self, folder: str, command: Sequence[str], environment: Mapping[str, str]) -> Talk:
        given = [f"{key}={value}" for key, value in environment.items()]
        words = shlex.join(["env", *given, *self.prefix, *command])
        return self.talk(self._in_root(f"cd work/{check_name(folder)} && exec {words}"))

    @final
    def lease(self, holder: str, seconds: float) -> str:
        return self._run(f"holder={check_name(holder)} seconds={max(1, round(seconds))}\n{LEASE}").strip()

    @final
    def release(self, holder: str) -> None:
        self._run(f'for mine in lease/{check_name(holder)}@*; do [ -e "$mine" ] && mv "$mine" lease/free; done; :')

    def _in_root(self, script: str) -> str:
        root = shlex.quote(self.root)
        return f"LC_ALL=C; export LC_ALL; umask 077; mkdir -p {root} && cd {root} || exit 73\n{script}"

    def _run(
        self, script: str, source: IO[bytes] | None = None, sink: IO[bytes] | None = None, timeout: float = SECONDS
    ) -> str:
        """What the script printed, unless it went to `sink`. Raises LinkError for an exit code that is not 0."""
        with tempfile.TemporaryFile() as printed, open(os.devnull, "rb") as nothing:
            code, said = self.execute(self._in_root(script), source or nothing, sink or printed, timeout)
            if code:
                raise self._failed(code, said)
            printed.seek(0)
            return printed.read().decode("utf-8", "replace")

    def _failed(self, code: int, said: str) -> LinkError:
        if FULL.search(said):
            message = f"{self.label}: no space left in {self.root}"
            return LinkError(
                message, reason="full", stderr=said, hint="free space there, or name another [reach] folder"
            )
        if code == 73:
            message = f"{self.label}: the folder {self.root} cannot be made there"
            return LinkError(message, reason="failed", stderr=said, hint="name another one: [reach] folder")
        what = "a file arrived changed" if code == 65 else f"a script ended with exit code {code}"
        return LinkError(f"{self.label}: {what}", reason="failed", stderr=said)


def parts(words: Iterable[str], most: int = SCRIPT_BYTES) -> Iterator[list[str]]:
    """The words in their order, in groups of at most `most` bytes with a byte between them; a longer word is one alone.

    >>> list(parts(["a", "bb", "cc", "dddddd"], 5))
    [['a', 'bb'], ['cc'], ['dddddd']]
    """
    group: list[str] = []
    size = 0
    for word in words:
        length = len(word.encode()) + 1
        if group and size + length > most + 1:
            yield group
            group, size = [], 0
        group.append(word)
        size += length
    if group:
        yield group
