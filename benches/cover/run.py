#!/usr/bin/env python3
"""What coverage costs, beside a bare stop, gdb and cargo-tarpaulin, and that it changes nothing.

run.py STEPLESS [count|cold|warm|placing|tarpaulin|crates|same]... [--rounds N] [--tarpaulin PATH] [--crate DIR]...

All of them without a name. As root; gcc, gdb and cargo are needed, and cargo-tarpaulin (cargo install cargo-tarpaulin)
and sources of crates without dependencies where these are to be compared. Everything is on one processor. Times are
processor time of the tool and of what it traces, without that of starting: the difference between many and few."""

import argparse
import json
import os
import pathlib
import platform
import resource
import shutil
import statistics
import subprocess
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
TARPAULIN = "tarpaulin --engine ptrace --skip-clean --offline --out Lcov"


def run(command, status=None, **more):
    """Runs a command to its end; returns processor time and time in seconds."""
    used = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    before, start = used(), time.monotonic()
    done = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, **more)
    taken = used() - before, time.monotonic() - start
    if status is not None and done.returncode != status:
        raise Failed(f"{command}: status {done.returncode}: {done.stderr.decode()[-2000:]}")
    return taken


class Failed(Exception):
    """A program has ended as it should not."""


def patiently(once, most=5):
    """The result of what fails now and then, which is told."""
    for _ in range(most):
        try:
            return once()
        except Failed as failure:
            print(f"  (failed once more: {str(failure).strip().splitlines()[-1]})", flush=True)
    raise SystemExit("it always fails")


def each(command, times, few=1):
    """Microseconds of processor time of each of so many: COMMAND is a function of the number."""
    return (command(times) - command(few)) / (times - few) * 1e6


class Bench:
    def __init__(self, options, folder):
        self.stepless, self.rounds, self.tarpaulin = options.stepless, options.rounds, options.tarpaulin
        self.crates, self.folder = options.crate, folder

    def build(self, name, *flags, sources=None):
        program = self.folder / name
        sources = sources or [HERE / f"{name}.c"]
        subprocess.run(["gcc", "-pthread", *flags, "-o", program, *sources], check=True)
        return program

    def cover(self, *arguments):
        return [self.stepless, "cover", "--format", "lcov", "-o", self.folder / "found.info", *arguments]

    def lines(self, program):
        """How many lines a program has, and how many of them it executes."""
        file = self.folder / "found.json"
        run([self.stepless, "cover", "--json", "-o", file, "--", program], 0)
        lines = json.loads(file.read_text())["totals"]["lines"]
        return lines["total"], lines["covered"]

    def hits(self, report):
        """How many hits a report tells of."""
        lines = (self.folder / report).read_text().split("\n")
        return sum(int(line.rsplit(",", 1)[1]) for line in lines if line.startswith("DA:"))

    def interleaved(self, ways, floor):
        """Runs all ways in turn, and prints their medians."""
        found = {name: [] for name in ways}
        for _ in range(self.rounds):
            for name, way in ways.items():
                found[name].append(way())
        medians = {name: statistics.median(values) for name, values in found.items()}
        for name, median in medians.items():
            ratio = f"{median / medians[floor]:8.2f} of the floor" if floor else ""
            print(f"  {name:<58} {median:9.3f} us {ratio}", flush=True)
        return medians

    def floor(self):
        program = self.build("floor", "-O1")
        return lambda: each(lambda times: run([program, times])[0], 20001)

    def count(self):
        """What each hit costs that is counted."""
        print("A HIT THAT IS COUNTED")
        near = self.build("near", "-O0", "-g")
        site = self.folder / "site.o"
        subprocess.run(["gcc", "-O1", "-g", "-c", "-DSITE", "-o", site, HERE / "isolated.c"], check=True)
        isolated = self.build("isolated", "-O1", "-g0", sources=[HERE / "isolated.c", site])

        def by(command, program, threads, times, lines=1):
            return lambda: each(lambda n: run([*command, program, n, threads])[0], times) / threads / lines

        counting = self.cover("--count", "--")
        gdb = lambda file, lines: ["gdb", "-batch", "-nx", *(
            part for line in lines for part in ("-ex", f"break {file}:{line}")), *(
            part for number, _ in enumerate(lines, 1) for part in ("-ex", f"ignore {number} 1000000000")),
            "-ex", "run", "--args"]
        # Of a turn of the loop four lines are executed.
        self.interleaved({
            "the floor": self.floor(),
            "stepless stat, isolated": by([self.stepless, "stat", "-o", "/dev/null", "-e", f"{isolated}:isolated", "--"],
                                          isolated, 1, 20001),
            "stepless cover --count, isolated": by(counting, isolated, 1, 20001),
            "stepless cover --count, isolated, 4 threads": by(counting, isolated, 4, 5001),
            "stepless cover --count, near": by(counting, near, 1, 400001, 4),
            "stepless cover --count, near, 4 threads": by(counting, near, 4, 5001, 4),
            "gdb, isolated": by(gdb("isolated.c", [4]), isolated, 1, 1001),
            "gdb, near": by(gdb("near.c", [8, 9, 11, 12]), near, 1, 501, 3),
        }, "the floor")

    def count_hot(self):
        """The same beside cargo-tarpaulin, by what each of them counts."""
        print("LINES OF A CRATE THAT ARE COUNTED")
        if not self.tarpaulin:
            return print("  cargo-tarpaulin: not here")
        target, crate = self.folder / "hot", self.folder / "hot-crate"
        shutil.copytree(HERE / "hot", crate, dirs_exist_ok=True)

        def counted(command, report, test, many, few=10):
            """Microseconds of each hit that the report tells of."""
            used, hits = [], []
            for times in few, many:
                environment = {**os.environ, "HOT": str(times), "RUST_TEST_THREADS": "1"}
                used.append(run([*command(), test], 0, env=environment, cwd=crate)[0])
                hits.append(self.hits(report))
            return (used[1] - used[0]) / (hits[1] - hits[0]) * 1e6

        theirs = lambda: [self.tarpaulin, *TARPAULIN.split(), "--count", "--target-dir", target, "--output-dir", self.folder,
                          "--manifest-path", crate / "Cargo.toml", "--"]
        # What it has built is what is covered.
        ours = lambda: [*self.cover("--count", "--source", crate / "src", "--"), test_of("turns", target)]
        run([*theirs(), "near"], 0, cwd=crate)
        for test, times in ("near", 4001), ("isolated", 4001), ("threads", 1001):
            found = self.interleaved({
                f"cargo-tarpaulin --count, {test}": lambda: patiently(
                    lambda: counted(theirs, "lcov.info", test, times)),
                f"stepless cover --count, {test}": lambda: counted(ours, "found.info", test, 2 * times)}, None)
            one, other = found.values()
            print(f"    {one / other:.1f} times as fast", flush=True)

    def cold(self):
        """What a site costs that is hit once."""
        print("A HIT OF A SITE THAT IS WANTED ONCE")
        ways = {"the floor": self.floor()}
        for name, function, call, flags in (
                ("straight lines", "{\n    sum += x;\n    if (x & 1)\n        sum ^= 3;\n    sum <<= 1;\n}", "", "-O0"),
                ("loops", "{\n    for (int i = 0; i < 3; i++)\n        sum += x;\n    sum ^= x;\n}", "", "-O0"),
                ("isolated", "{ sum += x; }", "for (int k = 0; k < 100; k++) far ^= far << 3 ^ k;", "-O1")):
            program = self.of_functions(name.split()[0], function, call, flags)
            _, lines = self.lines(program)
            ways[f"stepless cover, {name}, {lines} lines"] = (
                lambda program=program, lines=lines:
                (run([*self.cover("--"), program], 0)[0] - run([*self.cover("--"), program, "x"], 0)[0]) / lines * 1e6)
        self.interleaved(ways, "the floor")

    def of_functions(self, name, function, call, flags):
        """A program that calls each of 3,000 functions once, or none of them with an argument. Only those have lines."""
        functions, caller = self.folder / f"{name}.c", self.folder / f"{name}-main.c"
        functions.write_text("extern volatile long sum;\n" + "".join(
            f"void f{i}(long x)\n{function}\n" for i in range(3000)))
        declared = "".join(f"void f{i}(long);\n" for i in range(3000))
        calls = "".join(f"    f{i}({i});\n    {call}\n" for i in range(3000))
        caller.write_text(f"volatile long sum;\nlong far;\n{declared}int main(int c, char **v)\n{{\n"
                          f"    if (c > 1)\n        return 0;\n{calls}    return 0;\n}}\n")
        parts = [functions.with_suffix(".o"), caller.with_suffix(".o")]
        subprocess.run(["gcc", flags, "-g", "-c", "-o", parts[0], functions], check=True)
        subprocess.run(["gcc", "-O1", "-c", "-o", parts[1], caller], check=True)
        return self.build(name, sources=parts)

    def warm(self):
        """What code costs that has been reached."""
        print("A PROGRAM ALL OF WHOSE LINES HAVE BEEN REACHED")
        near = self.build("near", "-O0", "-g")
        took = lambda command: each(lambda times: run([*command, near, times, 1])[0], 400_000_001, 1000)
        ratios = [took(self.cover("--")) / took([]) for _ in range(self.rounds)]
        print(f"  {statistics.median(ratios):.3f} times its own time")

    def placing(self):
        """How long it takes to place many sites."""
        print("100,000 SITES")
        source = self.folder / "sites.c"
        functions = "".join(f"void f{i}(long x)\n{{\n    sum += x;\n    sum ^= 3;\n    sum <<= 1;\n}}\n" for i in range(20000))
        source.write_text(f"volatile long sum;\n{functions}int main(void)\n{{\n    return 0;\n}}\n")
        program = self.build("sites", "-O0", "-g", sources=[source])
        lines, _ = self.lines(program)
        times = [run([*self.cover("--"), program], 0) for _ in range(self.rounds)]
        used, passed = (statistics.median(values) for values in zip(*times))
        print(f"  {lines} lines: {passed:.2f} s for the whole command, {used:.2f} s of "
              f"processor time")

    def one_shot(self):
        """The tests of crates, as a whole, beside cargo-tarpaulin."""
        print("TESTS OF CRATES, SECONDS")
        for crate in self.crates:
            copy = self.folder / crate.name
            shutil.copytree(crate, copy, dirs_exist_ok=True)
            target = self.folder / f"{crate.name}-target"
            common = ["--lib", "--target-dir", target, "--manifest-path", copy / "Cargo.toml"]
            for count in ([], ["--count"]):
                theirs = [self.tarpaulin, *TARPAULIN.split(), *count, *common, "--output-dir", self.folder]
                run(theirs, 0, cwd=copy)
                build = ["cargo", "test", "--no-run", "--offline", *common]
                run(build, 0, cwd=copy, env={**os.environ, "RUSTFLAGS": "-Cdebuginfo=2"})
                ours = [*self.cover(*count, "--source", copy, "--"), test_of(crate.name, target), "-q"]
                rounds = []
                for _ in range(self.rounds):
                    took = [run(theirs, 0, cwd=copy),
                            run(build, 0, cwd=copy, env={**os.environ, "RUSTFLAGS": "-Cdebuginfo=2"}), run(ours, 0, cwd=copy)]
                    rounds.append([took[0][0], took[1][0] + took[2][0], took[2][0], took[0][1], took[1][1] + took[2][1]])
                counts = f"; hits counted: {self.hits('lcov.info')} and {self.hits('found.info')}" if count else ""
                cpu, own, alone, wall, own_wall = (statistics.median(values) for values in zip(*rounds))
                print(f"  {crate.name} {' '.join(count):<8} cargo-tarpaulin {cpu:.2f}, cargo and stepless {own:.2f} of processor "
                      f"time ({alone:.2f} stepless alone); {wall:.2f} and {own_wall:.2f} by the clock{counts}", flush=True)

    def same(self):
        """32 threads, forks, and an object that is loaded: the output is what it is unprobed."""
        rounds = max(self.rounds, 1)
        print(f"THE SAME OUTPUT, {rounds} RUNS")
        program = self.build("same", "-O0", "-g", "-ldl")
        subprocess.run(["gcc", "-O0", "-g", "-shared", "-fPIC", "-o", self.folder / "later.so", HERE / "later.c"], check=True)
        output = lambda command: (lambda done: (done.returncode, done.stdout))(
            subprocess.run([str(part) for part in command], capture_output=True, cwd=self.folder))
        expected = output([program])
        text = (HERE / "same.c").read_text().split("\n")
        line = next(number for number, text in enumerate(text, 1) if "atomic_fetch_add" in text)
        for count, times in ([], 1), (["--count"], (32 + 4 * 3) * 300):
            command = [*self.cover("--follow", *count, "--object", "*same", "--object", "*later.so", "--"), program]
            counted = lambda: f"\nDA:{line},{times}\n" in (self.folder / "found.info").read_text()
            same = sum(output(command) == expected and counted() for _ in range(rounds))
            print(f"  cover {' '.join(count):<8} {same} of {rounds}, line {line} executed {times} times", flush=True)


def test_of(name, target):
    """The tests that cargo has built last of what has that name, with or without a version."""
    name = name.rsplit("-", 1)[0].replace("-", "_")
    programs = [path for path in (target / "debug/deps").glob(f"{name}-*") if not path.suffix and os.access(path, os.X_OK)]
    return max(programs, key=lambda path: path.stat().st_mtime)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stepless", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("what", nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tarpaulin", default=shutil.which("cargo-tarpaulin"))
    parser.add_argument("--crate", type=pathlib.Path, action="append", default=[])
    options = parser.parse_args()
    whats = {"count": Bench.count, "cold": Bench.cold, "warm": Bench.warm, "placing": Bench.placing,
             "tarpaulin": Bench.count_hot, "crates": Bench.one_shot, "same": Bench.same}
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))} if "same" not in options.what else os.sched_getaffinity(0))
    model = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    print(f"{time.strftime('%Y-%m-%d')}, {model}, Linux {platform.release()}, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, pathlib.Path(folder))
        for what in options.what or [what for what in whats if what != "same"]:
            whats[what](bench)


if __name__ == "__main__":
    main()
