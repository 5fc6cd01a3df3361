// SPDX-License-Identifier: MIT OR Apache-2.0
/* Of crash's header, where it is not installed, what cli/crash/heirloom.c and host.c name. */
#include <stdio.h>

#define MAXARGS (100)
#define FATAL (2)
#define LIVE_SYSTEM (0x1)
#define ACTIVE() (pc->flags & LIVE_SYSTEM)
#define SYNOPSIS (0x1)

typedef unsigned long ulong;
typedef unsigned long long ulonglong;

struct command_table_entry {
	char *name;
	void (*func)(void);
	char **help_data;
	ulong flags;
};

struct program_context {
	ulonglong flags;
	char *dumpfile;
};

extern struct program_context *pc;
extern FILE *fp;
extern char *args[MAXARGS];
extern int argcnt;

void register_extension(struct command_table_entry *);
int error(int, char *, ...);
void cmd_usage(char *, int);
