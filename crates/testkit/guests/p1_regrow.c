// For each line of input: grows its memory until the host refuses, and says how large it is.
#include <stdio.h>

int main(void) {
  const unsigned long step = 16; // Pages of 64 KiB: 1 MiB.
  puts("ready");
  fflush(stdout);
  for (int c; (c = getchar()) != EOF;) {
    if (c != '\n') continue;
    while (__builtin_wasm_memory_grow(0, step) != -1ul) {
    }
    printf("%lu MiB\n", (unsigned long)__builtin_wasm_memory_size(0) / step);
    fflush(stdout);
  }
  return 0;
}
