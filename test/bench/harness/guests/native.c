/* What the wasm guests hello, sleep and the service do, as a program of the node: for the runtimes of ordinary containers. */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int say(const char *line) { return write(1, line, strlen(line)) < 0; }

/* Answers every request of a connection that comes in one piece, one connection after the other; on the port that the
   wasm guests are given, or 8080. */
static int serve(void) {
    static const char answer[] = "HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\nhello from wasm\n";
    const char *address = getenv("WASMTIME_HTTP_PROXY_SOCKET_ADDR");
    const char *port = address ? strrchr(address, ':') + 1 : "8080";
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&any, sizeof any) || listen(listener, 16))
        return 1;
    for (;;) {
        char request[4096];
        int client = accept(listener, 0, 0);
        while (read(client, request, sizeof request) > 0 && write(client, answer, sizeof answer - 1) > 0) {
        }
        close(client);
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "serve") == 0)
        return serve();
    if (argc < 2 || strcmp(argv[1], "sleep") != 0)
        return say("hello from wasm\n");
    int failed = say("sleeping\n");
    pause();
    return failed;
}
