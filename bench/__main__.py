"""`python -m bench`: run every benchmark and write docs/reference/figures.md; with `--only NAME` one, and its table in there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec

from bench.harness import Result, Skipped

HOME = Path(__file__).parent
PAGE = HOME.parent / "docs" / "reference" / "figures.md"


def main(flags: list[str]) -> int:
    """Run each benchmark in a process of its own; 0 when every goal of each holds."""
    names = sorted(p.stem for p in HOME.glob("[a-z]*.py") if "\ndef main(arguments" in p.read_text())
    only = "--only" in flags
    if only:
        at = flags.index("--only")
        names = [name for name in names if name in flags[at + 1 : at + 2]]
        if not names:
            print(f"There is no benchmark {' '.join(flags[at + 1 : at + 2])!r}.", file=sys.stderr)
            return 2
        flags = [*flags[:at], *flags[at + 2 :]]
    results, codes = {}, {}
    for name in names:
        command = [sys.executable, "-m", f"bench.{name}", *flags]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=HOME.parent)
        people, _, last = ran.stdout.rstrip().rpartition("\n")
        print(people, flush=True)
        codes[name] = ran.returncode
        if "--setup" not in flags:
            results[name] = read_result(last)
    if results and only:
        PAGE.write_text(replaced(PAGE.read_text(), *(table(name, result, flags) for name, result in results.items())))
    elif results:
        PAGE.write_text(page(results, flags))
    return 1 if any(codes.values()) else 0


def read_result(last_line: str) -> Result:
    """A benchmark's last line; of one that broke, that it did."""
    try:
        return msgspec.json.decode(last_line, type=Result)
    except msgspec.MsgspecError:
        return Result([], [Skipped("all", "the benchmark did not come to its end")])


def page(results: dict[str, Result], flags: list[str]) -> str:
    """The reference page of all figures."""
    command = " ".join(["python -m bench", *flags])
    parts = [f"# Figures\n\nPrinted by `{command}`; each table names its own command. Nothing here is typed by hand.\n"]
    return "\n".join([*parts, *(table(name, result, flags) for name, result in results.items())])


def table(name: str, result: Result, flags: list[str]) -> str:
    """The part of the page that one benchmark has."""
    parts = [f"## `python -m bench.{name}{''.join(f' {flag}' for flag in flags)}`\n"]
    parts.append("| figure | measured | goal | |\n|---|---:|---|---|")
    parts += [f"| {f.name} | {f.value:.4g} {f.unit} | {f.goal} | {_verdict(f.goal, f.ok)} |" for f in result.figures]
    parts += [f"| {s.name} | not measured | | {s.reason} |" for s in result.skipped]
    parts.append("\n" + ", ".join(f"{key}: {value}" for key, value in result.conditions.items()) + "\n")
    return "\n".join(parts)


def replaced(whole: str, *tables: str) -> str:
    """The page with these tables in place of those of the same benchmarks; raises LookupError where there is none."""
    parts = whole.split("\n## ")
    for one in tables:
        own = one.removeprefix("## ")
        begin = re.match(r"`python -m bench\.\w+", own)
        assert begin is not None
        at = next((at for at, part in enumerate(parts) if re.match(re.escape(begin[0]) + r"\b", part)), None)
        if at is None:
            raise LookupError(f"{PAGE} has no table that begins {begin[0]}.")
        parts[at] = own
    return "\n## ".join(parts)


def _verdict(goal: str, ok: bool) -> str:
    return "" if not goal else "ok" if ok else "**missed**"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
