// Loads a shared object, uses it, unloads it, and does it again, three times or as often as the argument says.
#include <dlfcn.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    int rounds = argc > 2 ? atoi(argv[2]) : 3;
    for (int round = 0; round < rounds; round++) {
        void *plugin = dlopen(argv[1], RTLD_NOW);
        if (!plugin) return 1;
        int (*work)(int) = (int (*)(int))dlsym(plugin, "plugin_work");
        if (!work || work(40) != 42) return 2;
        dlclose(plugin);
    }
    return 0;
}
