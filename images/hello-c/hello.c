// Says hello to the argument, or to the world.
#include <stdio.h>

int main(int argc, char **argv) {
  printf("hello %s, from C\n", argc > 1 ? argv[1] : "world");
  return 0;
}
