# What gdb says of the variables in scope at the first hit of each address, as JSON lines.
import json
import os
import re
import struct

import gdb

MASKS = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFFFFFF, 8: (1 << 64) - 1, 16: (1 << 128) - 1}


def leaves(value, name, out, depth):
    if len(out) > 400 or depth > 6:
        return
    try:
        kind = value.type.strip_typedefs()
        code = kind.code
        if code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION):
            for number, field in enumerate(kind.fields()):
                if not hasattr(field, "bitpos"):
                    continue
                part = value[field]
                inner = f"{name}.<{number}>" if field.is_base_class else f"{name}.{field.name or ''}"
                if field.bitsize:
                    out[inner] = f"i{int(part) & ((1 << field.bitsize) - 1)}"
                else:
                    leaves(part, inner, out, depth + 1)
        elif code == gdb.TYPE_CODE_ARRAY:
            low, high = kind.range()
            for index in range(low, min(high, low + 7) + 1):
                leaves(value[index], f"{name}[{index}]", out, depth + 1)
        elif code == gdb.TYPE_CODE_FLT:
            out[name] = "f" + struct.pack("<d", float(value)).hex()
        elif code == gdb.TYPE_CODE_COMPLEX:
            out[name] = "other"
        elif code in (gdb.TYPE_CODE_REF, gdb.TYPE_CODE_RVALUE_REF):
            out[name] = f"i{int(value.referenced_value().address)}"
        elif code in (gdb.TYPE_CODE_PTR,):
            out[name] = f"i{int(value) & MASKS[8]}"
        elif code in (gdb.TYPE_CODE_INT, gdb.TYPE_CODE_CHAR, gdb.TYPE_CODE_BOOL, gdb.TYPE_CODE_ENUM, gdb.TYPE_CODE_FLAGS):
            try:
                number = int(value)
            except OverflowError:
                number = int(value.format_string(format="x"), 16)
            out[name] = f"i{number & MASKS[kind.sizeof]}"
        else:
            out[name] = "other"
    except (Exception, KeyboardInterrupt) as error:
        text = str(error)
        if "optimized out" in text:
            out[name] = "optimized out"
        elif "synthetic pointer" in text:
            out[name] = "optimized out"
        elif "Cannot access memory" in text:
            out[name] = "fault"
        else:
            out[name] = f"error {text}"


def frames():
    frame = gdb.newest_frame()
    found = []
    while frame is not None and frame.is_valid():
        out = {}
        seen = set()
        try:
            block = frame.block()
        except RuntimeError:
            break
        while block is not None and not block.is_global and not block.is_static:
            for symbol in block:
                if not (symbol.is_argument or symbol.is_variable) or symbol.name in seen:
                    continue
                seen.add(symbol.name)
                try:
                    leaves(symbol.value(frame), symbol.name, out, 0)
                except (Exception, KeyboardInterrupt) as error:
                    out[symbol.name] = f"error {error}"
            if block.function is not None:
                break
            block = block.superblock
        found.append({"function": frame.name(), "variables": out})
        if frame.type() != gdb.INLINE_FRAME:
            break
        frame = frame.older()
    return found


def in_our_notation(text, file):
    """What gdb has printed where both say the same in other words; "error" where it says something else than the value.

    Names of functions and virtual tables behind addresses, and namespaces, are left out. Letters have no numbers with them.
    Rust's structures and tuples have C's brackets, and no names of their types."""
    if "<error" in text or "std::" in text or text.startswith(("&", "{void", "error")) and not file.endswith(".rs"):
        return "error " + text
    if text.startswith(("alloc::string::String", "alloc::vec::Vec")) or "<error" in text:
        return "error " + text
    text = re.sub(r"(0x[0-9a-f]+) <[^{}]*?>(?=[,}]|$)", r"\1", text)
    text = text.replace("<synthetic pointer>", "<optimized out>")
    text = re.sub(r"(?:\w+(?:<[^<>]*>)?::)+(?=\w)", "", text)
    letter = r"(-?\d+) ('(?:\\[^']+|[^'\\]|\\')')"
    text = re.sub(letter, r"\1" if file.endswith(".go") else r"\2", text)
    text = re.sub(r"^(\S+) \+ (\S+)i$", r"{\1, \2}", text)
    if file.endswith(".go"):
        text = re.sub(r'0x[0-9a-f]+ "', '"', text)
    if file.endswith(".rs"):
        text = re.sub(r"&(?:mut )?\[[^\]]*\] \[", "[", text)
        text = re.sub(r"[A-Z]\w*(?:<[^{}]*>)? \{", "{", text)
        text = re.sub(r"(\w+): ", r"\1 = ", text)
        text = re.sub(r"'\\x([0-9a-f]{2})'", lambda code: f"'{chr(int(code[1], 16))}'", text)
        text = text.translate(str.maketrans("()[]", "{}{}"))
    leaves = re.sub(r"[\w.$~<>:]+ = |[{}, ]", "", text.replace("<optimized out>", "!"))
    return "<optimized out>" if leaves and not leaves.strip("!") else text


def texts():
    """What gdb prints of each variable that can be named, in one line."""
    found = {}
    frame = gdb.newest_frame()
    while frame is not None and frame.is_valid():
        try:
            block = frame.block()
        except RuntimeError:
            break
        while block is not None and not block.is_global and not block.is_static:
            for symbol in block:
                if not (symbol.is_argument or symbol.is_variable) or symbol.name in found:
                    continue
                try:
                    value = symbol.value(frame)
                    reference = ""
                    if value.type.code in (gdb.TYPE_CODE_REF, gdb.TYPE_CODE_RVALUE_REF):
                        value = value.referenced_value()
                        reference = f"@{int(value.address):#x}: "
                    printed = value.format_string(
                        max_elements=200, repeat_threshold=0, symbols=False, static_members=False
                    )
                    found[symbol.name] = in_our_notation(reference + printed, frame.find_sal().symtab.filename)
                except (Exception, KeyboardInterrupt) as error:
                    found[symbol.name] = f"error {error}"
            if block.function is not None:
                break
            block = block.superblock
        if frame.type() != gdb.INLINE_FRAME:
            break
        frame = frame.older()
    return found


gdb.execute("set pagination off")
gdb.execute("set width 0")
gdb.execute("set print null-stop on")
gdb.execute("set host-charset UTF-8")
# It has assertions that some values do not meet.
for setting in ("quit", "corefile"):
    gdb.execute(f"maintenance set internal-error {setting} no")
gdb.execute("set exec-wrapper env -i GOMAXPROCS=1 GOGC=off")
gdb.execute("starti", to_string=True)
entries = {int(address, 16) for address in os.environ["ENTRIES"].split()}
stops = entries | {int(address, 16) for address in os.environ["STOPS"].split()}
for address in stops:
    gdb.execute(f"break *{address}", to_string=True)
output = open(os.environ["OUTPUT"], "w")
seen = set()
address = None
while True:
    try:
        if address not in stops - seen:
            gdb.execute("continue", to_string=True)
        address = gdb.selected_frame().pc()
    except gdb.error:
        break
    if address in seen or address not in stops:
        address = None
        continue
    seen.add(address)
    told = {"address": address, "frames": frames(), "after": [], "texts": texts()}
    if address in entries:
        # Where the function has stored its parameters.
        gdb.execute("next", to_string=True)
        told["after"] = frames()
        address = gdb.selected_frame().pc()
    print(json.dumps(told), file=output, flush=True)
output.close()
