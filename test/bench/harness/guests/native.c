/* What the wasm guests hello and sleep do, as a program of the node: for the runtimes of ordinary containers. */
#include <string.h>
#include <unistd.h>

static int say(const char *line) { return write(1, line, strlen(line)) < 0; }

int main(int argc, char **argv) {
    if (argc < 2 || strcmp(argv[1], "sleep") != 0)
        return say("hello from wasm\n");
    int failed = say("sleeping\n");
    pause();
    return failed;
}
