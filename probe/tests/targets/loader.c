// Loads a shared object, uses it, unloads it, and does it again.
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv) {
    for (int round = 0; round < 3; round++) {
        void *plugin = dlopen(argv[1], RTLD_NOW);
        if (!plugin) return 1;
        int (*work)(int) = (int (*)(int))dlsym(plugin, "plugin_work");
        if (!work || work(40) != 42) return 2;
        dlclose(plugin);
    }
    return 0;
}
