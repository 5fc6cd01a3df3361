// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * The first process of each life in the test of the module: loads the module and its subsystem, and
 * jumps into the next kernel, as often as the subsystem says.
 *
 * What each is given stands on the kernel's command line: MODULE=..., TEST=..., with commas for blanks.
 * The next kernel, its initramfs and its command line are /next/{kernel,initramfs,command-line}.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kexec.h>
#include <linux/reboot.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

static void say(const char *format, ...)
{
	va_list list;

	va_start(list, format);
	printf("init: ");
	vprintf(format, list);
	printf("\n");
	fflush(stdout);
	/* Neither a jump nor a power off waits for what was printed; on a file this does nothing. */
	tcdrain(STDOUT_FILENO);
	va_end(list);
}

/*
 * Has this process print on the second serial line, if the machine has one: on the console its words and the
 * kernel's may stand within each other.
 */
static void own_line(void)
{
	int line = open("/dev/ttyS1", O_WRONLY | O_NOCTTY | O_CLOEXEC);

	if (line < 0)
		return;
	dup2(line, STDOUT_FILENO);
	close(line);
}

static void off(void)
{
	sync();
	reboot(LINUX_REBOOT_CMD_POWER_OFF);
	for (;;)
		pause();
}

static void fail(const char *what)
{
	say("failed: %s: %s", what, strerror(errno));
	off();
}

/* Reads a file of text, without the line's end. */
static char *text(const char *path, char *into, size_t size)
{
	int fd = open(path, O_RDONLY);
	ssize_t count = fd < 0 ? -1 : read(fd, into, size - 1);

	if (fd >= 0)
		close(fd);
	if (count < 0)
		return NULL;
	while (count > 0 && into[count - 1] == '\n')
		count--;
	into[count] = 0;
	return into;
}

/* Returns what stands behind KEY= on the kernel's command line, its commas blanks. */
static const char *given(const char *key, char *into, size_t size)
{
	static char line[4096];
	char *at;
	size_t length = strlen(key);

	*into = 0;
	if (!text("/proc/cmdline", line, sizeof(line)))
		return into;
	for (at = strtok(line, " "); at; at = strtok(NULL, " ")) {
		if (strncmp(at, key, length) || at[length] != '=')
			continue;
		snprintf(into, size, "%s", at + length + 1);
		for (at = into; *at; at++)
			if (*at == ',')
				*at = ' ';
		break;
	}
	return into;
}

static int load(const char *path, const char *key)
{
	char parameters[2048];
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	/* Built into the kernel: it has read its parameters itself. */
	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0 || syscall(SYS_finit_module, fd, given(key, parameters, sizeof(parameters)), 0)) {
		say("%s: %s", path, strerror(errno));
		return -1;
	}
	close(fd);
	return 0;
}

/* Whether one of the test's modules is there; @next: and is to live on. */
static int is_loaded(int next)
{
	static const char *const modules[] = {
		"/sys/module/heirloom_test/parameters/next",
		"/sys/module/heirloom_bench/parameters/next",
	};
	char line[64];
	size_t at;

	for (at = 0; at < 2; at++)
		if (text(modules[at], line, sizeof(line)) && (!next || *line == 'Y'))
			return 1;
	return 0;
}

static void jump(void)
{
	char line[4096];
	int kernel = open("/next/kernel", O_RDONLY), initramfs = open("/next/initramfs", O_RDONLY);

	if (kernel < 0 || initramfs < 0 || !text("/next/command-line", line, sizeof(line)))
		fail("/next");
	if (syscall(SYS_kexec_file_load, kernel, initramfs, strlen(line) + 1, line, 0))
		fail("kexec_file_load");
	say("jumping");
	reboot(LINUX_REBOOT_CMD_KEXEC);
	fail("kexec");
}

int main(void)
{
	own_line();
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
	if (load("/heirloom.ko", "MODULE"))
		say("the module is not loaded");
	else if (load("/heirloom_test.ko", "TEST") || load("/heirloom_bench.ko", "TEST"))
		fail("the test");
	/* Without a subsystem the takeover was stopped: this kernel ends in order. */
	if (is_loaded(1) || (!is_loaded(0) && !access("/next/kernel", F_OK)))
		jump();
	off();
}
