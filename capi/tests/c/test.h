/* What the tests in C share: a check that says what was expected, and what heirloom said. */
#ifndef TEST_H
#define TEST_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "heirloom.h"

static inline void told(const char *file, int line, const char *what)
{
	char text[256];

	heirloom_error_text(text, sizeof(text));
	fprintf(stderr, "%s:%d: not so: %s (last error %d: %s)\n", file, line, what, heirloom_last_error(), text);
	exit(1);
}

#define CHECK(condition) ((condition) ? (void)0 : told(__FILE__, __LINE__, #condition))

/* What a call says that fails: in a kernel an errno. */
#if defined(HEIRLOOM_HOSTED)
#define SAYS(error) (error)
#else
#define SAYS(error) (-heirloom_errno(error))
#endif

/* A call that returns `int` fails with an error, and says which. */
#define FAILS(error, call)                                   \
	do {                                                 \
		CHECK((call) == SAYS(error));                \
		CHECK(heirloom_last_error() == (int)(error)); \
	} while (0)

/* A call that returns a pointer does. */
#define NO_POINTER(error, call)                              \
	do {                                                 \
		CHECK((call) == NULL);                       \
		CHECK(heirloom_last_error() == (int)(error)); \
	} while (0)

/* The last error's text has a part. */
#define TELLS(part)                                              \
	do {                                                     \
		char told_text[256];                             \
		heirloom_error_text(told_text, sizeof(told_text)); \
		CHECK(strstr(told_text, part) != NULL);          \
	} while (0)

#endif
