// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What a handover preserves, for crash: the command heirloom on the memory that crash looks at.
 *
 *	cc -shared -fPIC -DX86_64 -I/usr/include/crash -o heirloom.so heirloom.c
 *
 *	crash> extend ./heirloom.so
 *	crash> heirloom check --for 7.3
 *	crash> heirloom inspect | less
 *
 * The command is the one on PATH, or what the environment's HEIRLOOM says. It is given the dump that crash has open, or
 * --live. Where there are several root pages that could be meant it names them, and "--root", address chooses one.
 */
#include <defs.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a shell says of a command that it cannot run. */
#define CANNOT 127

static void cmd_heirloom(void);

static char *help[] = {
	"heirloom",
	"what a KHO handover in the dump preserves",
	"inspect|check|list|extract|diff [argument ...]",
	"  Runs the program heirloom, with these arguments, on the dump that this session looks at,",
	"  or on the live system. `heirloom COMMAND --help` in a shell tells them.",
	"\nEXAMPLES",
	"  What is preserved, and whether Linux 7.3 would take it:\n",
	"    %s> heirloom inspect",
	"    %s> heirloom check --for 7.3",
	NULL
};

static struct command_table_entry commands[] = {
	{ "heirloom", cmd_heirloom, help, 0 },
	{ NULL, NULL, NULL, 0 },
};

/* Runs the program, with its output where crash's goes, and returns what waitpid says of it; -1 if it cannot. */
static int run(char *const argv[])
{
	struct sigaction ignore = { .sa_handler = SIG_IGN }, before;
	pid_t pid, ended;
	int status;

	/* An interrupt ends the program; in crash it would jump away from here, and leave it. */
	sigemptyset(&ignore.sa_mask);
	sigaction(SIGINT, &ignore, &before);
	fflush(fp);
	pid = fork();
	if (pid == 0) {
		signal(SIGINT, SIG_DFL);
		/* A pager that was left before the end. */
		signal(SIGPIPE, SIG_DFL);
		if (dup2(fileno(fp), STDOUT_FILENO) >= 0)
			execvp(argv[0], argv);
		_exit(CANNOT);
	}
	do
		ended = pid < 0 ? pid : waitpid(pid, &status, 0);
	while (ended < 0 && pid >= 0 && errno == EINTR);
	sigaction(SIGINT, &before, NULL);
	return ended < 0 ? -1 : status;
}

static void cmd_heirloom(void)
{
	char *argv[MAXARGS + 3];
	char *program = getenv("HEIRLOOM");
	int count = 0, status, i;

	if (argcnt < 2)
		cmd_usage("heirloom", SYNOPSIS);
	if (!ACTIVE() && !pc->dumpfile)
		error(FATAL, "heirloom: this session has no dump\n");
	argv[count++] = program ? program : "heirloom";
	argv[count++] = args[1];
	argv[count++] = ACTIVE() ? "--live" : pc->dumpfile;
	for (i = 2; i < argcnt && i < MAXARGS; i++)
		argv[count++] = args[i];
	argv[count] = NULL;

	status = run(argv);
	if (status == -1 || (WIFEXITED(status) && WEXITSTATUS(status) == CANNOT))
		error(FATAL, "heirloom: cannot run %s: is it on PATH, or what HEIRLOOM says?\n", argv[0]);
	if (WIFSIGNALED(status) && WTERMSIG(status) != SIGINT && WTERMSIG(status) != SIGPIPE)
		error(FATAL, "heirloom: ended by signal %d\n", WTERMSIG(status));
}

static void __attribute__((constructor)) heirloom_init(void)
{
	register_extension(commands);
}
