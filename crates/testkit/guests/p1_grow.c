// Grows its memory until the host refuses, says so, and then does what its argument says:
// `trap`, or `exit N`.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
  const unsigned long step = 16; // Pages of 64 KiB: 1 MiB.
  while (__builtin_wasm_memory_grow(0, step) != -1ul) {
  }
  printf("refused at %lu MiB\n", (unsigned long)__builtin_wasm_memory_size(0) / step);
  fflush(stdout);
  if (argc > 1 && !strcmp(argv[1], "trap")) __builtin_trap();
  return argc > 2 ? atoi(argv[2]) : 0;
}
