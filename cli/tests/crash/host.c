// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What crash is to an extension, and no more: loads one, and has its command run on a dump.
 *
 *	host EXTENSION DUMP|live OUTPUT [argument ...]
 */
#include <defs.h>

#include <dlfcn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static struct program_context context;
struct program_context *pc = &context;
FILE *fp;
char *args[MAXARGS];
int argcnt;

static struct command_table_entry *command;

void register_extension(struct command_table_entry *table)
{
	command = table;
}

/* Crash goes back to its prompt. */
int error(int type, char *format, ...)
{
	va_list list;

	va_start(list, format);
	vfprintf(stderr, format, list);
	va_end(list);
	exit(type == FATAL ? 3 : 4);
}

void cmd_usage(char *name, int type)
{
	fprintf(stderr, "Usage: %s %s\n", name, command->help_data[2]);
	exit(type == SYNOPSIS ? 5 : 6);
}

int main(int count, char **given)
{
	if (count < 4 || !dlopen(given[1], RTLD_NOW | RTLD_GLOBAL) || !command) {
		fprintf(stderr, "%s\n", dlerror());
		return 7;
	}
	if (strcmp(given[2], "live") == 0)
		pc->flags |= LIVE_SYSTEM;
	else
		pc->dumpfile = given[2];
	fp = fopen(given[3], "w");
	args[argcnt++] = command->name;
	for (int i = 4; i < count; i++)
		args[argcnt++] = given[i];
	fprintf(fp, "before\n");
	command->func();
	fprintf(fp, "behind\n");
	return fclose(fp);
}
