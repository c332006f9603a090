// Shows what a container gives a program: arguments, environment, files of a volume, an exit code.
//   notes hello | notes read FILE | notes write FILE TEXT | notes exit CODE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed(const char *verb, const char *path) {
  fprintf(stderr, "notes: %s %s: %s\n", verb, path, strerror(errno));
  return 1;
}

int main(int argc, char **argv) {
  const char *verb = argc > 1 ? argv[1] : "hello", *what = argc > 2 ? argv[2] : "";
  if (!strcmp(verb, "hello")) {
    const char *who = getenv("WHO");
    printf("hello %s\n", who ? who : "world");
    return 0;
  }
  if (!strcmp(verb, "exit")) return atoi(what);
  if (!strcmp(verb, "read")) {
    FILE *file = fopen(what, "r");
    if (!file) return failed("read", what);
    for (int c; (c = getc(file)) != EOF;) putchar(c);
    return 0;
  }
  if (!strcmp(verb, "write")) {
    FILE *file = fopen(what, "w");
    if (!file) return failed("write", what);
    fprintf(file, "%s\n", argc > 3 ? argv[3] : "");
    return fclose(file) ? failed("write", what) : 0;
  }
  fprintf(stderr, "notes: unknown verb %s: expected hello, read, write or exit\n", verb);
  return 2;
}
