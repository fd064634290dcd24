"""Starts a program under frida, which calls an empty function at the start of one of the program's, or
where it returns, and prints how often.

intercept.py js|native|return OFFSET REPORT PROGRAM [ARGUMENT...]

OFFSET is where the function is in the program's image. The program is ended once it has written REPORT."""

import os
import sys
import time

import frida

JAVASCRIPT = """
let hits = 0;
Interceptor.attach(target, { onEnter() { hits++; } });
rpc.exports = { hits() { return hits; } };
"""

RETURN = JAVASCRIPT.replace("onEnter", "onLeave")

NATIVE = """
const cell = Memory.alloc(8);
const module = new CModule(`
#include <gum/guminterceptor.h>
extern gint64 hits;
void on_enter(GumInvocationContext *context) { hits++; }
`, { hits: cell });
Interceptor.attach(target, { onEnter: module.on_enter });
rpc.exports = { hits() { return cell.readS64().toNumber(); } };
"""


def main():
    way, offset, report, program = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    device = frida.get_local_device()
    pid = device.spawn(program, stdio="inherit")
    try:
        session = device.attach(pid)
        source = f"const target = Process.mainModule.base.add({offset});\n"
        script = session.create_script(source + {"js": JAVASCRIPT, "native": NATIVE, "return": RETURN}[way])
        ended = []
        session.on("detached", lambda *reason: ended.append(reason[0]))
        script.load()
        device.resume(pid)
        deadline = time.monotonic() + 60
        while not (os.path.exists(report) and os.path.getsize(report)):
            if ended:
                sys.exit(f"the program has ended: {ended[0]}")
            if time.monotonic() > deadline:
                sys.exit("the program has not come to its end")
            time.sleep(0.01)
        print(script.exports_sync.hits())
    finally:
        try:
            device.kill(pid)
        except frida.ProcessNotFoundError:
            pass


def version():
    print(frida.__version__)


if __name__ == "__main__":
    version() if sys.argv[1:] == ["version"] else main()
