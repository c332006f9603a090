// Leaves with the code its first argument says, after a line on stdout that is still in libc's buffer.
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
  printf("leaving with %s\n", argc > 1 ? argv[1] : "nothing");
  exit(argc > 1 ? atoi(argv[1]) : 0);
}
