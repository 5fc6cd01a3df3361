/*
 * A list of notes that outlives its process: each start adds one, prints all, and execs its successor, three times.
 *
 *     cc -o handover handover.c $(pkg-config --cflags --libs heirloom) && ./handover
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <heirloom.h>

/* What is stored holds handles, not pointers: the memory may be elsewhere next time. */
struct note {
	struct heirloom_handle next;
	uint64_t number;
	char text[40];
};

static const struct heirloom_cache_spec notes_spec = {
	.name = "notes",
	.size = sizeof(struct note),
	.fingerprint = 1, /* to be changed with the structure */
	.flags = HEIRLOOM_CACHE_PRESERVING,
};

static void die(const char *what)
{
	char text[200];

	heirloom_error_text(text, sizeof(text));
	fprintf(stderr, "%s: %s\n", what, text);
	exit(1);
}

static struct heirloom *start(void)
{
	struct heirloom_range memory = { .start = 1ull << 32, .bytes = 16 << 20 };
	bool found;
	struct heirloom_arena *arena = heirloom_inherited(&found, NULL);
	struct heirloom *h;

	if (found) {
		h = arena ? heirloom_revive_arena(arena, NULL, "handover.c", HEIRLOOM_SEAL_CHECKED) : NULL;
	} else {
		arena = heirloom_arena_create("notes", &memory, 1);
		h = arena ? heirloom_boot_arena(arena, "handover.c") : NULL;
	}
	if (!h)
		die("start");
	return h;
}

int main(int argc, char **argv)
{
	struct heirloom *h = start();
	/* Resumed: all notes of the predecessor's are in use, as they were. */
	struct heirloom_cache *notes = heirloom_cache_resume(h, &notes_spec);
	struct heirloom_handle first = { { 0 } };
	size_t bytes = sizeof(first);

	if (!notes)
		die("notes");
	if (heirloom_generation(h) > 0 && heirloom_retrieve(h, "notes", &first, &bytes))
		die("retrieve");

	struct note *note = heirloom_cache_zalloc(notes);

	if (!note)
		die("note");
	note->next = first;
	note->number = heirloom_generation(h);
	snprintf(note->text, sizeof(note->text), "written by life %d", (int)note->number);
	/* The new list is found from here on: before, the old one was. */
	if (heirloom_handle(h, note, &first) || heirloom_publish(h, "notes", &first, sizeof(first)))
		die("publish");

	printf("life %d:", (int)heirloom_generation(h));
	for (struct note *at = note; at; at = heirloom_find(h, &at->next))
		printf(" [%s]", at->text);
	printf("\n");
	fflush(stdout);

	if (heirloom_finish(h, NULL, NULL, NULL))
		die("finish");
	if (heirloom_generation(h) < 3) {
		heirloom_jump_exec(h, argv[0], (const char *const *)argv);
		die("exec");
	}
	(void)argc;
	return 0;
}
