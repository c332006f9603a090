// Does file operations, one per command, and prints one line for each: `COMMAND PATH: ok` or `...: ERRNO NAME`.
// Commands: read P | write P TEXT | append P TEXT | create P | list P | stat P | mkdir P | rmdir P | unlink P |
// symlink TARGET P | rename P Q | fill P MiB. Several commands are separated by the argument `--`.
// The exit code is the number of commands that failed.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *name_of(int error) {
  switch (error) {
  case EACCES: return "EACCES";
  case EBADF: return "EBADF";
  case EEXIST: return "EEXIST";
  case EINVAL: return "EINVAL";
  case EIO: return "EIO";
  case EISDIR: return "EISDIR";
  case ELOOP: return "ELOOP";
  case ENOENT: return "ENOENT";
  case ENOSPC: return "ENOSPC";
  case ENOTCAPABLE: return "ENOTCAPABLE";
  case ENOTDIR: return "ENOTDIR";
  case ENOTEMPTY: return "ENOTEMPTY";
  case ENOTSUP: return "ENOTSUP";
  case EPERM: return "EPERM";
  case EROFS: return "EROFS";
  case EXDEV: return "EXDEV";
  default: return strerror(error);
  }
}

static int copy_out(const char *path) {
  char buffer[4096];
  ssize_t got;
  int fd = open(path, O_RDONLY);
  if (fd < 0) return -1;
  char last = '\n';
  while ((got = read(fd, buffer, sizeof buffer)) > 0) {
    fwrite(buffer, 1, got, stdout);
    last = buffer[got - 1];
  }
  close(fd);
  if (last != '\n') putchar('\n');
  return got < 0 ? -1 : 0;
}

static int put(const char *path, int flags, const char *text) {
  int fd = open(path, flags, 0644);
  if (fd < 0) return -1;
  size_t size = strlen(text);
  int failed = write(fd, text, size) != (ssize_t)size;
  return close(fd) || failed ? -1 : 0;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char **)a, *(char **)b); }

static int list(const char *path) {
  char *names[256];
  int count = 0;
  DIR *dir = opendir(path);
  if (!dir) return -1;
  for (struct dirent *entry; count < 256 && (entry = readdir(dir));)
    if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) names[count++] = strdup(entry->d_name);
  closedir(dir);
  qsort(names, count, sizeof *names, by_name);
  for (int i = 0; i < count; i++) printf("entry %s\n", names[i]);
  return 0;
}

static int show(const char *path) {
  struct stat st;
  if (lstat(path, &st)) return -1;
  const char *kind = S_ISDIR(st.st_mode) ? "directory" : S_ISREG(st.st_mode) ? "file" : S_ISLNK(st.st_mode) ? "symlink" : "other";
  printf("%s %lld\n", kind, (long long)st.st_size);
  return 0;
}

static int fill(const char *path, long mib) {
  static char block[65536];
  memset(block, 'x', sizeof block);
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (fd < 0) return -1;
  for (long i = 0; i < mib * 16; i++)
    if (write(fd, block, sizeof block) < 0) return -1;
  return close(fd);
}

static int act(int argc, char **argv) {
  const char *verb = argv[0], *path = argc > 1 ? argv[1] : "", *more = argc > 2 ? argv[2] : "";
  if (!strcmp(verb, "read")) return copy_out(path);
  if (!strcmp(verb, "write")) return put(path, O_WRONLY | O_CREAT | O_TRUNC, more);
  if (!strcmp(verb, "append")) return put(path, O_WRONLY | O_APPEND, more);
  if (!strcmp(verb, "create")) return put(path, O_WRONLY | O_CREAT | O_EXCL, "");
  if (!strcmp(verb, "list")) return list(path);
  if (!strcmp(verb, "stat")) return show(path);
  if (!strcmp(verb, "mkdir")) return mkdir(path, 0755);
  if (!strcmp(verb, "rmdir")) return rmdir(path);
  if (!strcmp(verb, "unlink")) return unlink(path);
  if (!strcmp(verb, "symlink")) return symlink(path, more);
  if (!strcmp(verb, "rename")) return rename(path, more);
  if (!strcmp(verb, "fill")) return fill(path, atol(more));
  fprintf(stderr, "unknown command %s\n", verb);
  exit(100);
}

int main(int argc, char **argv) {
  int failed = 0;
  for (int first = 1, last; first < argc; first = last + 1) {
    for (last = first; last < argc && strcmp(argv[last], "--"); last++) {
    }
    errno = 0;
    int bad = act(last - first, argv + first);
    printf("%s %s: %s\n", argv[first], last - first > 1 ? argv[first + 1] : "", bad ? name_of(errno) : "ok");
    fflush(stdout);
    failed += !!bad;
  }
  return failed;
}
