// Prints the wall clock, whether the monotonic clock moves forward, and two draws of random bytes.
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static void draw(const char *name) {
  unsigned char bytes[16];
  if (getentropy(bytes, sizeof bytes)) printf("%s failed\n", name);
  printf("%s ", name);
  for (unsigned i = 0; i < sizeof bytes; i++) printf("%02x", bytes[i]);
  printf("\n");
}

int main(void) {
  struct timespec wall, before, after, nap = {0, 2000000};
  clock_gettime(CLOCK_REALTIME, &wall);
  clock_gettime(CLOCK_MONOTONIC, &before);
  nanosleep(&nap, 0);
  clock_gettime(CLOCK_MONOTONIC, &after);
  long long passed = (after.tv_sec - before.tv_sec) * 1000000000ll + after.tv_nsec - before.tv_nsec;
  printf("wall %lld\n", (long long)wall.tv_sec);
  printf("monotonic %s\n", passed >= nap.tv_nsec ? "forward" : "backward");
  draw("random");
  draw("random");
  return 0;
}
