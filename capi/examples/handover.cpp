/*
 * The list of notes of handover.c, in C++: each start adds one, prints all, and execs its successor, three times.
 *
 *     c++ -std=c++17 -o handover handover.cpp $(pkg-config --cflags --libs heirloom) && ./handover
 */
#include <cstdio>
#include <exception>

#include <heirloom.hpp>

struct note {
	/* Where the next one is from here: good wherever the memory is next time. */
	hl::relative_ptr<note> next;
	std::uint64_t number;
	char text[40] = "";
};

static hl::memory start()
{
	bool found = false;
	heirloom_arena *arena = heirloom_inherited(&found, nullptr);
	if (found)
		return hl::memory::revive(arena, "handover.cpp");
	const heirloom_range range = { std::uint64_t{1} << 32, 16 << 20, 0 };
	return hl::memory::create("notes", &range, 1, "handover.cpp");
}

static void live(char **argv)
{
	hl::memory memory = start();
	/* All notes of the predecessor's are in use, as they were. The number is changed with the structure. */
	hl::cache<note> notes(memory, "notes", 1);
	const std::uint64_t life = memory.generation();

	note *first = nullptr;
	struct heirloom_handle root{};
	std::size_t bytes = sizeof(root);
	if (life > 0) {
		hl::check(heirloom_retrieve(memory.get(), "notes", &root, &bytes));
		first = notes.find(root);
	}
	note *added = notes.make(first, life);
	std::snprintf(added->text, sizeof(added->text), "written by life %d", static_cast<int>(life));
	/* The new list is found from here on: before, the old one was. */
	root = notes.handle(added);
	hl::check(heirloom_publish(memory.get(), "notes", &root, sizeof(root)));

	std::printf("life %d:", static_cast<int>(life));
	for (const note *at = added; at != nullptr; at = at->next.get())
		std::printf(" [%s]", at->text);
	std::printf("\n");
	std::fflush(stdout);

	hl::check(heirloom_finish(memory.get(), nullptr, nullptr, nullptr));
	if (life < 3)
		hl::check(heirloom_jump_exec(memory.get(), argv[0], argv));
}

int main(int, char **argv)
{
	try {
		live(argv);
	} catch (const std::exception &error) {
		std::fprintf(stderr, "%s\n", error.what());
		return 1;
	}
}
