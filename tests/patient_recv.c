// Has MLX's ring wait for its neighbour's bytes: it asks for them again and again, a system call
// each, and where processes are more than cores it takes the time from the one it waits for.
// Preloaded by tests/ring.py.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>

typedef ssize_t (*Recv)(int, void*, size_t, int);

ssize_t recv(int socket, void* to, size_t size, int flags) {
  static Recv real;
  if (!real) real = (Recv)dlsym(RTLD_NEXT, "recv");
  ssize_t got = real(socket, to, size, flags);
  if (got >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) return got;
  struct pollfd one = {socket, POLLIN, 0};
  struct timespec most = {0, 100 * 1000};  // the same thread sends, so it waits no longer
  ppoll(&one, 1, &most, 0);
  return real(socket, to, size, flags);
}
