# For gdb: prints the frames at each stop at one of ADDRESSES, up to MOST of them.
import gdb
import json
import re

for setting in ("pagination off", "confirm off", "width 0", "debuginfod enabled off", "startup-with-shell off",
                "disable-randomization on", "backtrace past-main on", "backtrace past-entry off",
                "print finish off", "breakpoint pending off", "stop-on-solib-events 0"):
    try:
        gdb.execute("set " + setting)
    except gdb.error:
        pass
gdb.execute("handle all nostop noprint pass", to_string=True)
gdb.execute("handle SIGTRAP stop print nopass", to_string=True)
# At the program's entry, the dynamic linker has mapped all.
gdb.execute("starti", to_string=True)
entry = re.search("Entry point: (0x[0-9a-f]+)", gdb.execute("info files", to_string=True)).group(1)
gdb.execute("tbreak *" + entry, to_string=True)
gdb.execute("continue", to_string=True)
for address in ADDRESSES:
    gdb.execute("break *%#x" % address, to_string=True)


def frames():
    found = []
    frame = gdb.newest_frame()
    innermost = frame.pc()
    while frame is not None:
        inlined = frame.type() == gdb.INLINE_FRAME
        # Of a function that has ended by calling another, nothing is on the stack: gdb infers it from what calls there are.
        inferred = frame.type() == gdb.TAILCALL_FRAME
        if not inferred and not (inlined and frame.pc() == innermost):
            found.append((frame.pc(), frame.name()))
        try:
            frame = frame.older()
        except gdb.error:
            break
    return found


stops = 0
while stops < MOST:
    if gdb.selected_inferior().pid == 0 or gdb.selected_thread() is None:
        break
    if gdb.newest_frame().pc() in ADDRESSES:
        print("STOP " + json.dumps(frames()), flush=True)
        stops += 1
    try:
        gdb.execute("continue", to_string=True)
    except gdb.error:
        break
if gdb.selected_inferior().pid != 0:
    gdb.execute("kill", to_string=True)
