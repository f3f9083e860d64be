// Stands before the C library, by LD_PRELOAD, and lets chosen system calls fail, as a full or dying
// disk would.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

namespace {

enum Kind { kOpen, kRead, kWrite, kSync, kRename, kRemove, kFolder, kClose, kRoom, kKinds };

long failing = 0;  // the call, counted from 1, that fails; 0 lets all pass
bool lasting = false;
int error_number = 0;
long calls = 0;
long by_kind[kKinds] = {};

// Whether this call fails. A full disk can still be read and tidied up.
bool fails(Kind kind) {
  if (failing == 0) return false;
  ++calls;
  ++by_kind[kind];
  if (calls < failing || (calls > failing && !lasting)) return false;
  const bool makes_room = kind == kRead || kind == kRemove || kind == kClose;
  if (calls > failing && makes_room && error_number != EIO) return false;
  errno = error_number;
  return true;
}

template <typename Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

// Calls are counted from here on.
void arm(long call, int error, int lasts) {
  calls = 0;
  memset(by_kind, 0, sizeof(by_kind));
  error_number = error;
  lasting = lasts != 0;
  failing = call;
}

long disarm(long* kinds) {
  failing = 0;
  memcpy(kinds, by_kind, sizeof(by_kind));
  return calls;
}

#define OPEN(name)                                                         \
  int name(const char* path, int flags, ...) {                             \
    va_list rest;                                                          \
    va_start(rest, flags);                                                 \
    const mode_t mode = va_arg(rest, mode_t);                              \
    va_end(rest);                                                          \
    if (fails(kOpen)) return -1;                                           \
    return next<int (*)(const char*, int, ...)>(#name)(path, flags, mode); \
  }                                                                        \
  static_assert(true, "")
#define OPENAT(name)                                                                    \
  int name(int folder, const char* path, int flags, ...) {                              \
    va_list rest;                                                                       \
    va_start(rest, flags);                                                              \
    const mode_t mode = va_arg(rest, mode_t);                                           \
    va_end(rest);                                                                       \
    if (fails(kOpen)) return -1;                                                        \
    return next<int (*)(int, const char*, int, ...)>(#name)(folder, path, flags, mode); \
  }                                                                                     \
  static_assert(true, "")

OPEN(open);
OPEN(open64);
OPENAT(openat);
OPENAT(openat64);

DIR* opendir(const char* path) {
  if (fails(kOpen)) return nullptr;
  return next<DIR* (*)(const char*)>("opendir")(path);
}

ssize_t read(int file, void* to, size_t size) {
  if (fails(kRead)) return -1;
  return next<ssize_t (*)(int, void*, size_t)>("read")(file, to, size);
}

// Half of what was to be written is, before the disk is full.
ssize_t write(int file, const void* from, size_t size) {
  const auto real = next<ssize_t (*)(int, const void*, size_t)>("write");
  if (fails(kWrite)) {
    const int error = errno;
    if (size > 1) (void)!real(file, from, size / 2);
    errno = error;
    return -1;
  }
  return real(file, from, size);
}

ssize_t pwrite64(int file, const void* from, size_t size, off64_t where) {
  if (fails(kWrite)) return -1;
  return next<ssize_t (*)(int, const void*, size_t, off64_t)>("pwrite64")(file, from, size, where);
}

ssize_t writev(int file, const iovec* parts, int count) {
  if (fails(kWrite)) return -1;
  return next<ssize_t (*)(int, const iovec*, int)>("writev")(file, parts, count);
}

int ftruncate64(int file, off64_t size) {
  if (fails(kWrite)) return -1;
  return next<int (*)(int, off64_t)>("ftruncate64")(file, size);
}

// No power is lost here, so nothing waits for the disk.
int fsync(int) { return fails(kSync) ? -1 : 0; }

int rename(const char* from, const char* to) {
  if (fails(kRename)) return -1;
  return next<int (*)(const char*, const char*)>("rename")(from, to);
}

int unlink(const char* path) {
  if (fails(kRemove)) return -1;
  return next<int (*)(const char*)>("unlink")(path);
}

int mkdir(const char* path, mode_t mode) {
  if (fails(kFolder)) return -1;
  return next<int (*)(const char*, mode_t)>("mkdir")(path, mode);
}

// The file is closed all the same, as Linux does.
int close(int file) {
  const int done = next<int (*)(int)>("close")(file);
  return fails(kClose) ? -1 : done;
}

int statvfs64(const char* path, struct statvfs64* room) {
  if (fails(kRoom)) return -1;
  return next<int (*)(const char*, struct statvfs64*)>("statvfs64")(path, room);
}

int statvfs(const char* path, struct statvfs* room) {
  if (fails(kRoom)) return -1;
  return next<int (*)(const char*, struct statvfs*)>("statvfs")(path, room);
}

}  // extern "C"
