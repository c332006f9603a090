// Copies stdin to stdout until its end, then says on stderr how many bytes it saw, and leaves with the code that its
// first argument says.
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv) {
  static char buffer[65536];
  long total = 0;
  ssize_t got;
  while ((got = read(0, buffer, sizeof buffer)) > 0) {
    for (ssize_t done = 0; done < got;) {
      ssize_t put = write(1, buffer + done, got - done);
      if (put < 0) return 2;
      done += put;
    }
    total += got;
  }
  fprintf(stderr, "end of input after %ld bytes\n", total);
  return got < 0 ? 1 : argc > 1 ? atoi(argv[1]) : 0;
}
