// Prints its arguments, environment and initial working directory, one a line, in the order it received them.
#include <stdio.h>
#include <unistd.h>

extern char **environ;

int main(int argc, char **argv) {
  char cwd[256];
  for (int i = 0; i < argc; i++) printf("arg %d [%s]\n", i, argv[i]);
  for (char **e = environ; *e; e++) printf("env [%s]\n", *e);
  printf("cwd [%s]\n", getcwd(cwd, sizeof cwd) ? cwd : "?");
  return 0;
}
