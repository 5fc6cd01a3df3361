/*
 * The life of buffers and objects over three processes: the first boots, jumps by exec into the second, which starts the
 * third by fork and exec with nothing but the descriptor of the memory.
 */
#define _GNU_SOURCE
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

#define OBJECTS 1000
#define FOLIOS 3
/* Pages of folio n: 1, 8, 64. */
#define ORDER(n) (3 * (n))

struct session {
	uint64_t number;
	struct heirloom_handle buffer;
};

static const struct heirloom_cache_spec sessions_spec = {
	.name = "sessions",
	.size = sizeof(struct session),
	.fingerprint = 0x5e55,
	.flags = HEIRLOOM_CACHE_PRESERVING,
};

/* What each life constructs objects with. */
static unsigned char mark;

static void construct(void *object)
{
	memset(object, mark, 40);
}

static const struct heirloom_cache_spec marked_spec = {
	.name = "marked",
	.size = 40,
	.construct = construct,
};

/* The first life has an object that survives, and one that does not. */
static void leave_marked(struct heirloom *h)
{
	mark = 1;
	struct heirloom_cache *marked = heirloom_cache_create(h, &marked_spec);
	unsigned char *kept = heirloom_cache_alloc(marked), *other = heirloom_cache_alloc(marked);
	struct heirloom_handle handle;

	CHECK(kept && other && kept[0] == 1 && other[39] == 1);
	kept[0] = 77;
	CHECK(heirloom_preserve(h, kept, &handle) == 0);
	CHECK(heirloom_publish(h, "marked", &handle, sizeof(handle)) == 0);
}

/* The second constructs every place anew but that of what survived. */
static void take_marked(struct heirloom *h)
{
	struct heirloom_cache *marked;
	struct heirloom_handle handle;
	size_t bytes = sizeof(handle);
	uint64_t unclaimed = 0;

	mark = 2;
	marked = heirloom_cache_adopt(h, &marked_spec, &unclaimed);
	CHECK(marked && unclaimed == 1);
	CHECK(heirloom_retrieve(h, "marked", &handle, &bytes) == 0 && bytes == sizeof(handle));
	CHECK(heirloom_unpublish(h, "marked") == 0);
	unsigned char *kept = heirloom_restore(h, &handle);

	CHECK(kept && kept[0] == 77 && kept[1] == 1 && kept[39] == 1);
	for (int n = 0; n < 200; n++) {
		unsigned char *object = heirloom_cache_alloc(marked);

		CHECK(object && object != kept && object[0] == 2 && object[39] == 2);
	}
	CHECK(heirloom_unpreserve(h, kept) == 0);
	memset(kept, mark, 40);
	CHECK(heirloom_cache_free(marked, kept) == 0);
}

static size_t length(uint64_t number)
{
	return 1 + number * 37 % 9000;
}

static unsigned char byte(uint64_t number, size_t at)
{
	return (unsigned char)(number * 7 + at);
}

static uint64_t page_bytes(struct heirloom *h)
{
	struct heirloom_stats stats;

	CHECK(heirloom_stats(h, &stats) == 0);
	return stats.page_bytes;
}

/* The first life's folios are preserved, and their handles are published. */
static void leave_folios(struct heirloom *h)
{
	struct heirloom_handle handles[FOLIOS];

	for (unsigned int n = 0; n < FOLIOS; n++) {
		size_t bytes = page_bytes(h) << ORDER(n);
		unsigned char *folio = heirloom_folio_alloc(h, ORDER(n), HEIRLOOM_ZEROED);

		CHECK(folio && (uintptr_t)folio % page_bytes(h) == 0 && folio[bytes - 1] == 0);
		memset(folio, (int)n + 1, bytes);
		CHECK(heirloom_folio_preserve(h, folio, ORDER(n), &handles[n]) == 0);
	}
	CHECK(heirloom_publish(h, "folios", handles, sizeof(handles)) == 0);
}

/* The second restores them, frees the first, and leaves the others as they are. */
static void take_folios(struct heirloom *h)
{
	struct heirloom_handle handles[FOLIOS];
	size_t bytes = sizeof(handles);

	CHECK(heirloom_retrieve(h, "folios", handles, &bytes) == 0 && bytes == sizeof(handles));
	for (unsigned int n = 0; n < FOLIOS; n++) {
		unsigned int order = 99;
		unsigned char *folio = heirloom_folio_restore(h, &handles[n], &order);

		CHECK(folio && order == ORDER(n));
		for (size_t at = 0; at < page_bytes(h) << order; at++)
			CHECK(folio[at] == n + 1);
		NO_POINTER(HEIRLOOM_ERROR_FRAME_NOT_PRESERVED, heirloom_folio_restore(h, &handles[n], NULL));
		if (n == 0) {
			FAILS(HEIRLOOM_ERROR_FRAME_PRESERVED, heirloom_folio_free(h, folio, order));
			CHECK(heirloom_folio_unpreserve(h, folio, order) == 0);
			CHECK(heirloom_folio_free(h, folio, order) == 0);
		}
	}
	CHECK(heirloom_publish(h, "folios", handles, sizeof(handles)) == 0);
}

/* The third finds those two. */
static void end_folios(struct heirloom *h)
{
	struct heirloom_handle handles[FOLIOS];
	size_t bytes = sizeof(handles);

	CHECK(heirloom_retrieve(h, "folios", handles, &bytes) == 0 && bytes == sizeof(handles));
	NO_POINTER(HEIRLOOM_ERROR_FRAME_NOT_PRESERVED, heirloom_folio_restore(h, &handles[0], NULL));
	for (unsigned int n = 1; n < FOLIOS; n++) {
		unsigned char *folio = heirloom_folio_restore(h, &handles[n], NULL);

		CHECK(folio && folio[0] == n + 1 && heirloom_folio_unpreserve(h, folio, ORDER(n)) == 0);
		CHECK(heirloom_folio_free(h, folio, ORDER(n)) == 0);
	}
}

static int first(char *self)
{
	struct heirloom_range range = { .start = 5ull << 32, .bytes = 64 << 20 };
	struct heirloom_arena *arena = heirloom_arena_create("life", &range, 1);
	struct heirloom *h = heirloom_boot_arena(arena, "life 0");
	struct heirloom_cache *sessions = heirloom_cache_create(h, &sessions_spec);

	CHECK(arena && h && sessions && heirloom_get_arena(h) == arena);
	CHECK(heirloom_generation(h) == 0 && heirloom_arena_has_entry(arena) == 1);
	for (uint64_t number = 0; number < OBJECTS; number++) {
		struct session *session = heirloom_cache_zalloc(sessions);
		unsigned char *buffer = heirloom_alloc(h, length(number));

		CHECK(session && buffer && session->number == 0);
		CHECK(heirloom_usable_size(h, buffer) >= length(number));
		for (size_t at = 0; at < length(number); at++)
			buffer[at] = byte(number, at);
		session->number = number;
		CHECK(heirloom_preserve(h, buffer, &session->buffer) == 0);
	}
	/* Objects that no one is told of, and that do not survive. */
	for (int n = 0; n < 100; n++)
		CHECK(heirloom_zalloc(h, 100) != NULL);
	leave_folios(h);
	leave_marked(h);
	CHECK(heirloom_publish(h, "life", "three lives", 12) == 0);
	CHECK(heirloom_publish(h, "forgotten", "by all", 7) == 0);
	CHECK(heirloom_seal(h) == 0);
	char *const argv[] = { self, "second", NULL };

	FAILS(HEIRLOOM_ERROR_SYSTEM, heirloom_jump_exec(h, "/no/such/program", (const char *const *)argv));
	TELLS("/no/such/program");
	heirloom_jump_exec(h, self, (const char *const *)argv);
	CHECK(!"the jump was made");
	return 1;
}

struct seen {
	struct heirloom *h;
	uint64_t sessions;
};

static int claim(const struct heirloom_handle *handle, void *context)
{
	struct seen *seen = context;
	struct session *session = heirloom_restore(seen->h, handle);

	CHECK(session && session->number < OBJECTS);
	unsigned char *buffer = heirloom_restore(seen->h, &session->buffer);

	CHECK(buffer != NULL);
	for (size_t at = 0; at < length(session->number); at++)
		CHECK(buffer[at] == byte(session->number, at));
	seen->sessions++;
	/* Half of them end here: an ordinary free. */
	if (session->number % 2 == 0) {
		CHECK(heirloom_free(seen->h, buffer) == 0);
		CHECK(heirloom_free(seen->h, session) == 0);
	}
	return 0;
}

static int keep_names(const struct heirloom_unclaimed *unclaimed, void *context)
{
	struct heirloom_unclaimed *told_of = context;

	*told_of = *unclaimed;
	return unclaimed->kind == HEIRLOOM_KIND_NAME;
}

static int second(char *self)
{
	bool found = false;
	struct heirloom_entry entry, again;
	struct heirloom_arena *arena = heirloom_inherited(&found, &entry);

	CHECK(found && arena);
	struct heirloom *h = heirloom_revive_arena(arena, &entry, "life 1", HEIRLOOM_SEAL_REQUIRED);

	CHECK(h && heirloom_generation(h) == 1);
	CHECK(heirloom_entry(h, &again) == 0 && again.root == entry.root && again.scratch == entry.scratch);
	uint64_t unclaimed = 0;
	struct heirloom_cache *sessions = heirloom_cache_adopt(h, &sessions_spec, &unclaimed);

	CHECK(sessions && unclaimed == OBJECTS);
	struct seen seen = { .h = h };

	CHECK(heirloom_cache_each_unclaimed(sessions, claim, &seen) == 0 && seen.sessions == OBJECTS);
	char text[16];
	size_t bytes = 5;

	FAILS(HEIRLOOM_ERROR_TOO_SMALL, heirloom_retrieve(h, "life", text, &bytes));
	CHECK(bytes == 12);
	bytes = sizeof(text);
	CHECK(heirloom_retrieve(h, "life", text, &bytes) == 0 && bytes == 12 && !strcmp(text, "three lives"));
	FAILS(HEIRLOOM_ERROR_NOT_INHERITED, heirloom_retrieve(h, "life", text, &bytes));

	take_folios(h);
	take_marked(h);
	struct heirloom_unclaimed name = { 0 };
	struct heirloom_finished finished;

	CHECK(heirloom_finish(h, keep_names, &name, &finished) == 0);
	CHECK(name.kind == HEIRLOOM_KIND_NAME && !strcmp(name.name, "forgotten") && name.bytes == 7);
	CHECK(finished.names == 1 && !finished.blocks && !finished.slabs && !finished.objects);

	/* The third gets a descriptor and nothing else. */
	int fd = heirloom_arena_share(arena);
	int passed = dup(fd);

	CHECK(fd > 2 && passed > 2 && close(fd) == 0);
	FAILS(HEIRLOOM_ERROR_BUSY, heirloom_arena_close(arena));
	heirloom_close(h);
	CHECK(heirloom_arena_close(arena) == 0);
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		char number[16];

		unsetenv("HEIRLOOM_HANDOVER");
		snprintf(number, sizeof(number), "%d", passed);
		execl(self, self, "third", number, (char *)NULL);
		_exit(127);
	}
	int status;

	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
	return 0;
}

static int count(const struct heirloom_handle *handle, void *context)
{
	struct seen *seen = context;
	struct session *session = heirloom_find(seen->h, handle);

	CHECK(session && session->number % 2 == 1);
	unsigned char *buffer = heirloom_find(seen->h, &session->buffer);

	/* A small one is in use since it was resumed, a large one is claimed. */
	if (buffer == NULL)
		buffer = heirloom_restore(seen->h, &session->buffer);
	CHECK(buffer != NULL && buffer[0] == byte(session->number, 0));
	seen->sessions++;
	return seen->sessions == OBJECTS / 4;
}

static int third(int fd)
{
	struct heirloom_arena *arena = heirloom_arena_open(fd);

	CHECK(arena && close(fd) == 0);
	struct heirloom *h = heirloom_revive_arena(arena, NULL, "life 2", HEIRLOOM_SEAL_CHECKED);
	struct heirloom_cache *sessions = heirloom_cache_resume(h, &sessions_spec);
	struct seen seen = { .h = h };

	CHECK(h && sessions && heirloom_resume(h) == 0 && heirloom_generation(h) == 2);
	/* The walk ends where the callback says so. */
	CHECK(heirloom_cache_each_preserved(sessions, count, &seen) == 0 && seen.sessions == OBJECTS / 4);
	end_folios(h);
	struct heirloom_finished finished;
	struct heirloom_stats stats;

	CHECK(heirloom_finish(h, NULL, NULL, &finished) == 0 && finished.names == 2);
	CHECK(heirloom_stats(h, &stats) == 0 && stats.pages == (64 << 20) / stats.page_bytes);
	CHECK(stats.free + stats.cached + stats.used == stats.pages && stats.preserved < stats.used);
	heirloom_close(h);
	CHECK(heirloom_arena_close(arena) == 0);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "third"))
		return third(atoi(argv[2]));
	return argc == 2 ? second(argv[0]) : first(argv[0]);
}
