/* Two processes that meet at names of files: `meet listen SOCKET FILE` passes FILE, opened for reading, to whoever
   connects to SOCKET; `meet connect SOCKET` prints what is in the file that it is passed; `meet hold FILE READY` locks
   FILE, makes READY and waits; `meet try FILE` tells whether it can be locked. */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int at(const char *name, int (*call)(int, const struct sockaddr *, socklen_t)) {
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	strncpy(address.sun_path, name, sizeof address.sun_path - 1);
	if (fd < 0 || call(fd, (struct sockaddr *)&address, sizeof address))
		err(1, "%s", name);
	return fd;
}

static struct msghdr message(struct iovec *data, char *space, size_t size) {
	static char byte;
	*data = (struct iovec){ &byte, 1 };
	return (struct msghdr){ .msg_iov = data, .msg_iovlen = 1, .msg_control = space, .msg_controllen = size };
}

int main(int argc, char **argv) {
	_Alignas(struct cmsghdr) char space[CMSG_SPACE(sizeof(int))];
	struct iovec data;
	struct msghdr header = message(&data, space, sizeof space);
	int fd;
	if (argc == 4 && !strcmp(argv[1], "listen")) {
		int listener = at(argv[2], bind);
		if (listen(listener, 1))
			err(1, "listen");
		int peer = accept(listener, NULL, NULL);
		fd = open(argv[3], O_RDONLY);
		struct cmsghdr *item = CMSG_FIRSTHDR(&header);
		*item = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
		memcpy(CMSG_DATA(item), &fd, sizeof fd);
		if (sendmsg(peer, &header, 0) != 1)
			err(1, "sendmsg");
	} else if (argc == 3 && !strcmp(argv[1], "connect")) {
		char text[100];
		if (recvmsg(at(argv[2], connect), &header, 0) != 1 || !CMSG_FIRSTHDR(&header))
			err(1, "recvmsg");
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&header)), sizeof fd);
		ssize_t length = read(fd, text, sizeof text);
		if (length < 0)
			err(1, "read");
		printf("%.*s", (int)length, text);
	} else if (argc == 4 && !strcmp(argv[1], "hold")) {
		if (flock(open(argv[2], O_RDWR), LOCK_EX) || open(argv[3], O_CREAT | O_WRONLY, 0600) < 0)
			err(1, "hold");
		pause();
	} else if (argc == 3 && !strcmp(argv[1], "try")) {
		puts(flock(open(argv[2], O_RDWR), LOCK_EX | LOCK_NB) ? "locked" : "free");
	} else {
		errx(2, "how to meet?");
	}
	return 0;
}
