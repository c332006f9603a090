// A reactor in C: functions that are called by name, after its constructors.
#include <stdio.h>

static int ready;

__attribute__((constructor)) static void prepare(void) { ready = 1; }

__attribute__((export_name("greet"))) void greet(void) {
	puts(ready ? "greeted after constructors" : "greeted too early");
	fflush(stdout);
}

__attribute__((export_name("multiply"))) long long multiply(long long a, long long b) { return a * b; }
