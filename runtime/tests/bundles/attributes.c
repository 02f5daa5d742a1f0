/* Extended attributes in digits: `attributes set FILE NAME HEX` sets one, `attributes show FILE...` prints all. */
#include <err.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>

static void show(const char *file) {
	char names[4096];
	unsigned char value[4096];
	ssize_t length = llistxattr(file, names, sizeof names);
	if (length < 0)
		err(1, "%s", file);
	for (char *name = names; name < names + length; name += strlen(name) + 1) {
		ssize_t size = lgetxattr(file, name, value, sizeof value);
		if (size < 0)
			err(1, "%s: %s", file, name);
		printf("%s %s ", file, name);
		for (ssize_t at = 0; at < size; at++)
			printf("%02x", value[at]);
		putchar('\n');
	}
}

int main(int argc, char **argv) {
	unsigned char value[4096];
	size_t size = 0;
	if (argc > 2 && !strcmp(argv[1], "show")) {
		for (int at = 2; at < argc; at++)
			show(argv[at]);
		return 0;
	}
	if (argc != 5 || strcmp(argv[1], "set"))
		errx(1, "usage: set FILE NAME HEX | show FILE...");
	for (const char *digits = argv[4]; size < sizeof value && sscanf(digits, "%2hhx", &value[size]) == 1; size++)
		digits += 2;
	if (lsetxattr(argv[2], argv[3], value, size, 0))
		err(1, "%s: %s", argv[2], argv[3]);
	return 0;
}
