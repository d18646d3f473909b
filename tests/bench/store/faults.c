/* Preloaded by test_faults.py: counts the calls that change files of one folder, and makes the k-th one fail,
   end the process before it, or end the process half-way through it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { OFF, FAIL, DIE, HALF };
static char folder[4096];
static long wanted, made;
static int mode = OFF;

void fault_arm(const char *where, long k, int how) {
  strncpy(folder, where, sizeof folder - 1);
  wanted = k;
  made = 0;
  mode = how;
}

long fault_made(void) { return made; }

static int concerns(const char *path) { return strncmp(path, folder, strlen(folder)) == 0; }

static int hit(const char *path) {
  if (mode == OFF || !concerns(path)) return 0;
  made += 1;
  if (made != wanted) return 0;
  if (mode == DIE) _exit(137);
  return 1;
}

static int hit_file(int file) {
  char link[64], path[4096];
  if (mode == OFF) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 0) return 0;
  path[n] = 0;
  return hit(path);
}

static int failed(void) {
  if (mode == HALF) _exit(137);
  errno = ENOSPC;
  return -1;
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int file, const void *data, size_t n) {
  REAL(write);
  if (!hit_file(file)) return real(file, data, n);
  if (mode == HALF && real(file, data, n / 2)) {}
  return failed();
}

ssize_t pwrite64(int file, const void *data, size_t n, off64_t at) {
  REAL(pwrite64);
  if (!hit_file(file)) return real(file, data, n, at);
  if (mode == HALF && real(file, data, n / 2, at)) {}
  return failed();
}

ssize_t pwrite(int file, const void *data, size_t n, off_t at) {
  REAL(pwrite);
  if (!hit_file(file)) return real(file, data, n, at);
  if (mode == HALF && real(file, data, n / 2, at)) {}
  return failed();
}

int fsync(int file) {
  REAL(fsync);
  return hit_file(file) ? failed() : real(file);
}

int fdatasync(int file) {
  REAL(fdatasync);
  return hit_file(file) ? failed() : real(file);
}

int rename(const char *from, const char *to) {
  REAL(rename);
  return hit(to) ? failed() : real(from, to);
}

int unlink(const char *path) {
  REAL(unlink);
  return hit(path) ? failed() : real(path);
}
