// A shared object: its constructor calls its own function, and so may who loads it.
static int calls;

__attribute__((visibility("default"), noinline)) int plugin_work(int value) {
    calls++;
    return value + calls;
}

__attribute__((constructor)) static void construct(void) {
    plugin_work(0);
}
