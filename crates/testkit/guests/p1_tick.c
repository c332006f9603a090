// Writes a numbered line to stdout every 10 ms for ever. Of a write that fails it says why in the file that its first
// argument names, and goes on.
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
  for (long number = 0;; number++) {
    char line[32];
    int size = snprintf(line, sizeof line, "line %ld\n", number);
    if (write(1, line, size) < 0) {
      int error = errno;
      FILE *file = fopen(argc > 1 ? argv[1] : "failed", "w");
      if (!file) return 1;
      fprintf(file, "%s\n", error == ENOSPC ? "ENOSPC" : strerror(error));
      fclose(file);
    }
    usleep(10000);
  }
}
