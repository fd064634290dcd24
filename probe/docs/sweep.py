#!/usr/bin/env python3
"""Has each call of a function fail once, run by run, and says what becomes of the program.

    sweep.py [--stepless PATH] [--errno NAME] [--before CMD] [--check CMD] FUNCTION[,FUNCTION...] -- CMD [ARG...]

    sweep.py malloc,calloc,realloc -- jq -n '1 + 1'
    sweep.py --errno ENOSPC --before 'rm -f t.db*' --check 'sqlite3 t.db "pragma integrity_check"' \\
        pwrite64,write -- sqlite3 t.db 'create table t(a); insert into t values (1)'

FUNCTION is one of libc.so.6. Without --errno, it is ENOMEM. Each N can be had again by itself:

    stepless inject -e libc.so.6:FUNCTION --errno ENOMEM --nth N --stack -- CMD

A program that ends by a signal, and only such a one, is run again without Stepless: a library that is preloaded
(fail-nth.c, beside this file) has the same call fail, and it must end by the same signal.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

TIMEOUT = 60
HERE = os.path.dirname(os.path.abspath(__file__))


def run(command, before=None, environment=None):
    """The status as a shell has it, and what was printed; None for one that does not end."""
    if before:
        subprocess.run(before, shell=True, check=True)
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=TIMEOUT, env={**os.environ, **(environment or {})})
    except subprocess.TimeoutExpired:
        return None, b"", b""
    status = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return status, done.stdout, done.stderr


def count(stepless, probe, command, before):
    """How often the function is called, undisturbed; and what the program prints then."""
    with tempfile.NamedTemporaryFile() as out:
        status, stdout, _ = run([stepless, "stat", "--json", "-o", out.name, "-e", probe, "--", *command], before)
        return json.load(open(out.name))["probes"][0]["hits"], status, stdout


def fail(stepless, probe, errno, number, command, before):
    """Has the call with that number fail. Returns status, output, and the stack of the call, if it was there."""
    with tempfile.NamedTemporaryFile() as out:
        arguments = ["-e", probe, "--errno", errno, "--nth", str(number), "--stack", "12"]
        status, stdout, _ = run([stepless, "inject", "--json", "-o", out.name, *arguments, "--", *command], before)
        events = [json.loads(line) for line in open(out.name)]
    frames = [name(frame) for frame in events[0]["stack"][1:]] if events else None
    return status, stdout, frames


def name(frame):
    """A function on a stack, or where in its file it is."""
    file = os.path.basename(frame["object"] or "?")
    return frame["function"] or f"{file}+{frame['offset'] or 0:#x}"


def outcome(status, stdout, undisturbed):
    """What has become of it, in a word or two."""
    if status is None:
        return "hangs"
    if status > 128:
        return f"signal {status - 128}"
    if (status, stdout) == undisturbed:
        return "handled: same output"
    if status == undisturbed[0]:
        return "same status, other output"
    return f"error exit {status}"


def confirm(function, errno, number, command, before, library):
    """The same without Stepless."""
    environment = {"LD_PRELOAD": library, "FAIL_FUNCTION": function, "FAIL_NTH": str(number), "FAIL_ERRNO": errno}
    return run(command, before, environment)[0]


def ranges(numbers):
    """1-3, 5"""
    parts = []
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stepless", default="stepless")
    parser.add_argument("--errno", default="ENOMEM")
    parser.add_argument("--before", help="what a shell does before each run")
    parser.add_argument("--check", help="what a shell does after each run; its status and output are part of the outcome")
    parser.add_argument("functions")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    library = os.path.join(tempfile.mkdtemp(), "fail-nth.so")
    compile = ["cc", "-O1", "-shared", "-fPIC", "-o", library, os.path.join(HERE, "fail-nth.c")]
    subprocess.run(compile, check=True)
    print("| function | N | outcome |\n|---|---|---|")
    for function in options.functions.split(","):
        probe = f"libc.so.6:{function}"
        hits, status, stdout = count(options.stepless, probe, command, options.before)
        if options.check:
            stdout += subprocess.run(options.check, shell=True, stdout=subprocess.PIPE).stdout
        outcomes = {}
        for number in range(1, hits + 1):
            failed, printed, frames = fail(options.stepless, probe, options.errno, number, command, options.before)
            if options.check:
                checked = subprocess.run(options.check, shell=True, stdout=subprocess.PIPE)
                printed += checked.stdout
            what = outcome(failed, printed, (status, stdout))
            if frames is None:
                what = f"not reached ({what})"
            elif options.check and checked.stdout.strip() not in (b"", b"ok"):
                what += f"; then {checked.stdout.decode().strip()}"
            if what.startswith("signal"):
                again = confirm(function, options.errno, number, command, options.before, library)
                how = "confirmed" if again == failed else f"NOT confirmed: status {again}"
                what += f" ({how} by LD_PRELOAD), called by {' < '.join(frames[:5])}"
            outcomes.setdefault(what, []).append(number)
            print(f"{function} {number}/{hits}: {what}", file=sys.stderr)
        for what, numbers in outcomes.items():
            print(f"| {function} | {ranges(numbers)} | {what} |", flush=True)
        if hits == 0:
            print(f"| {function} | none | is not called |", flush=True)


main()
