// Writes as many bytes of a pseudo-random pattern to stdout as its argument says, in writes of uneven sizes.
// The pattern is the top byte of x = x * 1664525 + 1013904223, from x = 1; the test computes the same.
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv) {
  static uint8_t buffer[70001];
  long left = argc > 1 ? atol(argv[1]) : 0;
  uint32_t x = 1;
  size_t size = 1;
  while (left > 0) {
    size = size * 7 % sizeof buffer + 1;
    if ((long)size > left) size = left;
    for (size_t i = 0; i < size; i++) {
      x = x * 1664525u + 1013904223u;
      buffer[i] = x >> 24;
    }
    for (size_t done = 0; done < size;) {
      ssize_t put = write(1, buffer + done, size - done);
      if (put < 0) return 2;
      done += put;
    }
    left -= size;
  }
  return 0;
}
