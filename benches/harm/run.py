#!/usr/bin/env python3
"""Runs the programs of this folder unprobed, and under each way of probing them, and writes benches/docs/harm.md.

run.py STEPLESS [--print]

As root; STEPLESS is the command. With --print the page goes to the standard output."""

import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
TRACING = pathlib.Path("/sys/kernel/tracing")
FRIDA = HERE.parent / "src/peers/intercept.py"
# The order of the table, and what each is about.
PROGRAMS = {
    "red_zone": "a leaf function's data below its stack pointer, a 5-byte NOP probed",
    "vector_store": "`vmovdqu` stores 32 bytes",
    "locked": "`lock inc`",
    "pushf": "`pushf`",
    "system_call": "what `syscall` leaves in RCX",
    "sequence": "an instruction of a restartable sequence",
    "protection_key": "a load that a protection key forbids",
    "mappings": "what is mapped in the end",
    "trap_signal": "the program's own handler of SIGTRAP and its mask",
    "own_text": "what the program reads where it is probed",
    "return_address": "the return address, while returns are probed",
}
RETURNS = {"return_address"}
RETRIED = {"sequence"}
CALLS = 1000
SECONDS = 60


class Unavailable(Exception):
    """A way that this machine does not have."""


class Run:
    """A program, built in a folder of its own."""

    def __init__(self, folder, name):
        self.name = name
        self.program = folder / name
        subprocess.run(["gcc", "-O1", "-o", self.program, HERE / f"{name}.c"], check=True)
        self.report = folder / f"{name}.txt"
        symbols = subprocess.run(["nm", self.program], check=True, capture_output=True, text=True).stdout
        self.address = next(int(line.split()[0], 16) for line in symbols.splitlines() if line.endswith(" site"))
        self.function = name in RETURNS

    def offset(self):
        """Where `site` is in the file: the segments of these programs lie in it as in memory."""
        return self.address

    def said(self, status):
        """What the program said, or how it ended."""
        text = self.report.read_text().strip() if self.report.exists() else ""
        if text:
            return text
        if status is None:
            return f"WRONG: not at its end after {SECONDS} seconds"
        return f"WRONG: it ended by signal {-status}" if status < 0 else f"WRONG: it said nothing, status {status}"

    def start(self, command, **more):
        """Runs a command to its end; returns its status, `None` if it does not end, and its output."""
        self.report.unlink(missing_ok=True)
        try:
            done = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True,
                                  text=True, timeout=SECONDS, **more)
            return done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired:
            return None, "", ""

    def plain(self):
        return [self.program, self.report]


def unprobed(run):
    status, _, _ = run.start(run.plain())
    return run.said(status), None


def define(line):
    """Adds a line to uprobe_events, which cannot be sought in, as Python's own files want to."""
    events = os.open(TRACING / "uprobe_events", os.O_WRONLY | os.O_APPEND)
    try:
        os.write(events, line.encode() + b"\n")
    finally:
        os.close(events)


def uprobe(run):
    """By tracefs, placed before the program is started, as `perf probe` and bpftrace do."""
    if not (TRACING / "uprobe_events").exists():
        raise Unavailable("no tracefs with uprobe_events is mounted")
    kind = "r" if run.function else "p"
    line = f"{kind}:harm/{run.name} {run.program}:{run.offset():#x}"
    try:
        define(line)
    except OSError as error:
        return f"refused: {error.strerror}", None
    enable = TRACING / "events/harm" / run.name / "enable"
    try:
        try:
            enable.write_text("1")
        except OSError as error:
            return f"refused: {error.strerror}", None
        status, _, _ = run.start(run.plain())
        profile = (TRACING / "uprobe_profile").read_text().splitlines()
        hits = next((int(line.split()[2]) for line in profile if line.split()[1] == run.name), 0)
        return run.said(status), hits
    finally:
        try:
            enable.write_text("0")
        except OSError:
            pass
        define(f"-:harm/{run.name}")


def gdb(run):
    """A breakpoint whose commands continue."""
    if not shutil.which("gdb"):
        raise Unavailable("gdb is not installed")
    commands = ["set pagination off", "set confirm off", "break *&site", "commands",
                "silent", "continue", "end", "run", "info breakpoints"]
    script = run.report.with_suffix(".gdb")
    script.write_text("\n".join(commands) + "\n")
    status, out, _ = run.start(["gdb", "-nx", "-batch", "-x", script, "--args", *run.plain()])
    hits = next((int(line.split("already hit ")[1].split()[0]) for line in out.splitlines() if "already hit" in line), 0)
    ended = next((line for line in out.splitlines() if "terminated with signal" in line), None)
    if ended and not run.report.exists():
        return "WRONG: " + ended.strip().rstrip("."), hits
    return run.said(status), hits


def frida(run):
    """The Interceptor, with a function of JavaScript."""
    python = HERE.parent.parent / "target/peers/bin/python3"
    if subprocess.run([python, "-c", "import frida"], capture_output=True).returncode if python.exists() else True:
        raise Unavailable("frida is not installed in target/peers")
    way = "return" if run.function else "js"
    status, out, errors = run.start([python, FRIDA, way, run.address, run.report, *run.plain(), "stay"])
    if status:
        reason = errors.strip().splitlines()[-1] if errors.strip() else f"status {status}"
        if not run.report.exists():
            return ("refused: " if "unable to intercept" in reason else "WRONG: ") + reason, None
    return run.said(status), int(out) if out.strip().isdigit() else None


def stepless(*more):
    def probed(run):
        probe = f"{run.program}:site" + ("%return" if run.function else "")
        summary = run.report.with_suffix(".json")
        summary.unlink(missing_ok=True)
        status, _, errors = run.start([COMMAND, "stat", "--json", *more, "-o", summary, "-e", probe, "--", *run.plain()])
        hits = missed = 0
        if summary.exists() and summary.read_text().strip():
            probes = json.loads(summary.read_text())["probes"]
            hits, missed = (sum(each[key] for each in probes) for key in ("hits", "missed"))
        said = [line for line in errors.splitlines() if line.startswith("stepless: ")]
        if said and not hits:
            return f"refused: {said[0].removeprefix('stepless: ')}; the program: {run.said(status)}", None
        if missed:
            return f"{run.said(status)}; {missed} hits are said to be missed", None
        return run.said(status), hits

    return probed


COMMAND = sys.argv[1] if len(sys.argv) > 1 else sys.exit(__doc__)
WAYS = {
    "unprobed": unprobed,
    "kernel uprobe": uprobe,
    "gdb": gdb,
    "frida": frida,
    "Stepless": stepless(),
    "Stepless `--hardware`": stepless("--hardware"),
}


def version(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0]
    except (OSError, IndexError):
        return "not there"


def cell(name, result):
    verdict, hits = result
    # What is tried again is hit again.
    wrong = hits is not None and (hits < CALLS if name in RETRIED else hits != CALLS)
    if wrong and not verdict.startswith("WRONG"):
        verdict = f"WRONG: {hits} of {CALLS} hits seen; the program: {verdict}"
    elif hits is not None and not verdict.startswith("skipped"):
        verdict = f"{verdict} ({hits} hits)"
    for word in ("WRONG", "refused"):
        verdict = verdict.replace(word, f"**{word}**", 1)
    return verdict.replace("|", "\\|")


def page(results, unavailable):
    python = HERE.parent.parent / "target/peers/bin/python3"
    lines = ["# What probing does to the program", "",
             "The programs in `benches/harm` were run under each way of probing one of their instructions a thousand times; this is",
             "what they said of themselves, and how many hits were seen. Made by `benches/harm/run.py target/release/stepless`, as root.", "",
             f"- kernel {platform.release()}, {processor()}",
             f"- {version('gdb', '--version')}; frida {version(str(python), '-c', 'import frida; print(frida.__version__)')}", ""]
    lines += [f"- {name}: unavailable, {reason}" for name, reason in unavailable.items()]
    for name, about in PROGRAMS.items():
        lines += ["", f"## `{name}.c`: {about}", "", "| way | what it said |", "|---|---|"]
        lines += [f"| {way} | {cell(name, results[name][way])} |" for way in WAYS if way in results[name]]
    return "\n".join(lines) + "\n"


def processor():
    text = pathlib.Path("/proc/cpuinfo").read_text()
    line = next((line for line in text.splitlines() if line.startswith("model name")), ": unknown")
    return line.split(":", 1)[1].strip()


def main():
    results, unavailable = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in PROGRAMS:
            run = Run(pathlib.Path(folder), name)
            results[name] = {}
            for way, probe in WAYS.items():
                if way in unavailable:
                    continue
                try:
                    results[name][way] = probe(run)
                    if results[name][way][0].startswith("skipped"):
                        break
                except Unavailable as reason:
                    unavailable[way] = str(reason)
    text = page(results, unavailable)
    if "--print" in sys.argv:
        print(text, end="")
    else:
        (HERE.parent / "docs").mkdir(exist_ok=True)
        (HERE.parent / "docs/harm.md").write_text(text)


if __name__ == "__main__":
    main()
