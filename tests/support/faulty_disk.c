/* Makes one call on watched paths fail, or kills the process there: preloaded (LD_PRELOAD) into a run by disk_faults.py.

   A call is named by what it is and by its path below a watched folder, "write 0/checkpoints/00000001/state.ckpt". In
   the mode RECORD every call is written down; in the mode FAIL the n-th one of a name fails with `error`, or ends the
   process where `error` is 0. With `for_ever` 1 all calls of that kind fail from there on, with 2 all on that path.
   Reads are watched in the last folder, that of the data. */
#define _GNU_SOURCE
#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OFF, RECORD, FAIL };
static int mode = OFF, error_code, for_ever, log_handle = -1, folders;
static long wanted, seen;
static char folder[8][PATH_MAX], target[PATH_MAX + 64];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void faulty_watch(const char *path) { snprintf(folder[folders++], PATH_MAX, "%s", path); }

void faulty_record(const char *path) {
  log_handle = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  mode = RECORD;
}

void faulty_fail(const char *name, long nth, int code, int ever) {
  snprintf(target, sizeof target, "%s", name);
  wanted = nth, seen = 0, error_code = code, for_ever = ever, mode = FAIL;
}

void faulty_off(void) { mode = OFF; }

/* Names of temporary files and of event files differ from run to run. */
static void same_each_time(char *path) {
  char out[PATH_MAX] = "", *rest = path, *part;
  while ((part = strsep(&rest, "/"))) {
    if (!strncmp(part, "events.out.", 11)) part[10] = 0;
    if (!strncmp(part, "tmp", 3) && strlen(part) == 11) strcpy(part, "tmp");
    if (*part) strcat(strcat(out, "/"), part);
  }
  strcpy(path, out);
}

/* Whether `path` is watched; `name` is then what its calls are known by. */
static int watched(int at, const char *path, char *name) {
  char full[PATH_MAX * 2], base[PATH_MAX], link[64];
  if (mode == OFF || !path) return 0;
  if (path[0] == '/') snprintf(full, sizeof full, "%s", path);
  else {
    ssize_t n;
    snprintf(link, sizeof link, at == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", at);
    if ((n = readlink(link, base, sizeof base - 1)) < 0) return 0;
    base[n] = 0;
    snprintf(full, sizeof full, "%s/%s", base, path);
  }
  for (int i = 0; i < folders; i++) {
    size_t n = strlen(folder[i]);
    if (!strncmp(full, folder[i], n) && (full[n] == '/' || !full[n])) {
      char rest[PATH_MAX];
      snprintf(rest, sizeof rest, "%s", full + n);
      same_each_time(rest);
      snprintf(name, PATH_MAX, "%d%s", i, rest);
      return 1;
    }
  }
  return 0;
}

/* Whether this call has to fail, with errno set; `torn` is told so that a killed write leaves half of it. */
static int fails(const char *kind, int at, const char *path, void (*torn)(void *), void *what) {
  char name[PATH_MAX], call[PATH_MAX + 64];
  int now = 0;
  if (!watched(at, path, name)) return 0;
  if (!strcmp(kind, "read") && atoi(name) != folders - 1) return 0;
  snprintf(call, sizeof call, "%s %s", kind, name);
  if (mode == RECORD) {
    strcat(call, "\n");
    syscall(SYS_write, log_handle, call, strlen(call));
    return 0;
  }
  pthread_mutex_lock(&lock);
  if (seen >= wanted && for_ever == 1) now = !strncmp(call, target, strcspn(target, " ") + 1);
  else if (seen >= wanted && for_ever) now = !strcmp(name, target + strcspn(target, " ") + 1);
  else if (!strcmp(call, target)) now = ++seen == wanted;
  pthread_mutex_unlock(&lock);
  if (!now) return 0;
  if (!error_code) {
    if (torn) torn(what);
    kill(getpid(), SIGKILL);
  }
  errno = error_code;
  return 1;
}

static int handle_fails(const char *kind, int handle, void (*torn)(void *), void *what) {
  char link[64], path[PATH_MAX];
  ssize_t n;
  if (mode == OFF) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
  if ((n = readlink(link, path, sizeof path - 1)) <= 0 || path[0] != '/') return 0;
  path[n] = 0;
  return fails(kind, AT_FDCWD, path, torn, what);
}

#define OPENS(name, wide)                                                                  \
  int name(const char *path, int flags, ...) {                                             \
    va_list more;                                                                          \
    va_start(more, flags);                                                                 \
    mode_t access = va_arg(more, mode_t);                                                  \
    va_end(more);                                                                          \
    return fails("open", AT_FDCWD, path, 0, 0) ? -1 : REAL(name)(path, flags, access);    \
  }                                                                                        \
  int wide(int at, const char *path, int flags, ...) {                                     \
    va_list more;                                                                          \
    va_start(more, flags);                                                                 \
    mode_t access = va_arg(more, mode_t);                                                  \
    va_end(more);                                                                          \
    return fails("open", at, path, 0, 0) ? -1 : REAL(wide)(at, path, flags, access);      \
  }
OPENS(open, openat)
OPENS(open64, openat64)

FILE *fopen(const char *path, const char *how) {
  return fails("open", AT_FDCWD, path, 0, 0) ? NULL : REAL(fopen)(path, how);
}
FILE *fopen64(const char *path, const char *how) {
  return fails("open", AT_FDCWD, path, 0, 0) ? NULL : REAL(fopen64)(path, how);
}

struct piece { int handle; const void *bytes; size_t count; };
static void half(void *what) {
  struct piece *p = what;
  syscall(SYS_write, p->handle, p->bytes, p->count / 2);
}
ssize_t write(int handle, const void *bytes, size_t count) {
  struct piece all = {handle, bytes, count};
  return handle_fails("write", handle, half, &all) ? -1 : REAL(write)(handle, bytes, count);
}
ssize_t read(int handle, void *bytes, size_t count) {
  return handle_fails("read", handle, 0, 0) ? -1 : REAL(read)(handle, bytes, count);
}
ssize_t pread64(int handle, void *bytes, size_t count, off64_t at) {
  return handle_fails("read", handle, 0, 0) ? -1 : REAL(pread64)(handle, bytes, count, at);
}
ssize_t writev(int handle, const struct iovec *parts, int count) {
  return handle_fails("write", handle, 0, 0) ? -1 : REAL(writev)(handle, parts, count);
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t count) {
  return handle_fails("write", to, 0, 0) ? -1 : REAL(sendfile64)(to, from, at, count);
}
int fsync(int handle) { return handle_fails("fsync", handle, 0, 0) ? -1 : REAL(fsync)(handle); }
int fdatasync(int handle) { return handle_fails("fsync", handle, 0, 0) ? -1 : REAL(fdatasync)(handle); }
int rename(const char *from, const char *to) {
  return fails("rename", AT_FDCWD, from, 0, 0) ? -1 : REAL(rename)(from, to);
}
int unlink(const char *path) { return fails("unlink", AT_FDCWD, path, 0, 0) ? -1 : REAL(unlink)(path); }
int unlinkat(int at, const char *path, int flags) {
  return fails("unlink", at, path, 0, 0) ? -1 : REAL(unlinkat)(at, path, flags);
}
