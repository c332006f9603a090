/* What the kernel alone takes for the container of a hello: no shim, no engine, no containerd. The same root filesystem,
 * cgroups, namespaces and mounts, made and removed once in each turn.
 *
 * kernel TURNS FOLDER CGROUP_DIRECTORY...
 * One line for each turn: milliseconds to make it, to end it, to remove it. */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LONGEST = 4096, REST_US = 100000 };

static double now_ms(void) {
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static void make(const char *path) {
	if (mkdir(path, 0755))
		err(1, "make %s", path);
}

/* By thread where there is such a file, as the shim joins. */
static void join(const char *dir) {
	char path[LONGEST];
	snprintf(path, sizeof path, "%s/tasks", dir);
	int file = open(path, O_WRONLY);
	if (file < 0) {
		snprintf(path, sizeof path, "%s/cgroup.procs", dir);
		file = open(path, O_WRONLY);
	}
	if (file < 0 || write(file, "0", 1) != 1)
		err(1, "join %s", dir);
	close(file);
}

static void contained(char **cgroups, int ready, int go) {
	char byte = 'r';
	for (char **dir = cgroups; *dir; dir++)
		join(*dir);
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount("tmpfs", "root/dev/shm", "tmpfs", 0, "size=64k") ||
	    mount("tmpfs", "root/run", "tmpfs", 0, "size=64k") || chdir("root") || syscall(SYS_pivot_root, ".", ".") ||
	    umount2(".", MNT_DETACH) || chdir("/") || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		err(1, "enter the root filesystem");
	if (write(ready, &byte, 1) != 1 || read(go, &byte, 1) != 1)
		_exit(1);
	_exit(0);
}

static void turn(int number, char **cgroups) {
	char upper[64], work[64], options[256], byte = 'g';
	snprintf(upper, sizeof upper, "upper%d", number);
	snprintf(work, sizeof work, "work%d", number);
	snprintf(options, sizeof options, "lowerdir=lower,upperdir=%s,workdir=%s", upper, work);
	make(upper);
	make(work);
	int ready[2], go[2], status;
	if (pipe(ready) || pipe(go))
		err(1, "make a pipe");
	usleep(REST_US);
	double begun = now_ms();
	if (mount("overlay", "root", "overlay", 0, options))
		err(1, "mount the root filesystem");
	for (char **dir = cgroups; *dir; dir++)
		make(*dir);
	long namespaces = CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;
	pid_t child = syscall(SYS_clone, namespaces | SIGCHLD, NULL, NULL, NULL, NULL);
	if (child < 0)
		err(1, "clone");
	if (child == 0)
		contained(cgroups, ready[1], go[0]);
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		errx(1, "the process was not ready");
	double made = now_ms();
	if (write(go[1], &byte, 1) != 1 || waitpid(child, &status, 0) != child || status != 0)
		errx(1, "the process did not end well");
	double ended = now_ms();
	if (umount2("root", MNT_DETACH))
		err(1, "unmount the root filesystem");
	for (char **dir = cgroups; *dir; dir++)
		if (rmdir(*dir))
			err(1, "remove %s", *dir);
	double removed = now_ms();
	close(ready[0]);
	close(go[0]);
	close(go[1]);
	printf("%.3f %.3f %.3f\n", made - begun, ended - made, removed - ended);
}

int main(int count, char **words) {
	if (count < 4)
		errx(2, "expected: kernel TURNS FOLDER CGROUP_DIRECTORY...");
	if (chdir(words[2]) || unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL))
		err(1, "enter %s", words[2]);
	make("lower");
	make("lower/dev");
	make("lower/dev/shm");
	make("lower/run");
	make("root");
	for (int number = 0; number < atoi(words[1]); number++)
		turn(number, words + 3);
	return 0;
}
