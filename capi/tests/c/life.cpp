/* The C++ header over a life and two successors: what survives, what is thrown, what is given back. */
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory_resource>
#include <string>
#include <vector>

#include <heirloom.hpp>

#define REQUIRE(condition) \
	((condition) ? (void)0 : (std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition), std::abort()))

namespace {

struct note {
	/* First, so that one that leads to its own note has no distance. */
	hl::relative_ptr<note> next;
	hl::relative_ptr<const char> text;
	std::uint64_t life;
};

template <class Call> int thrown(Call call)
{
	try {
		call();
	} catch (const hl::error &error) {
		REQUIRE(error.code().category() == hl::category() && std::strlen(error.what()) > 0);
		return error.code().value();
	} catch (const std::bad_alloc &) {
		return HEIRLOOM_ERROR_OUT_OF_MEMORY;
	}
	return HEIRLOOM_ERROR_OK;
}

hl::memory start()
{
	bool found = false;
	heirloom_arena *arena = heirloom_inherited(&found, nullptr);
	if (found)
		return hl::memory::revive(arena, "life.cpp");
	const heirloom_range range = { std::uint64_t{1} << 32, 16 << 20, 0 };
	return hl::memory::create("life", &range, 1, "life.cpp");
}

/* Memory of containers goes with them. */
void containers(const hl::memory &memory)
{
	struct heirloom_stats before{}, after{};
	(void)heirloom_flush(memory.get());
	hl::check(heirloom_stats(memory.get(), &before));
	{
		hl::resource resource(memory.get());
		REQUIRE(resource == hl::resource(memory.get()));
		REQUIRE(resource != hl::resource(memory.get(), HEIRLOOM_ZEROED));
		std::pmr::map<int, std::pmr::string> names(&resource);
		for (int i = 0; i < 1000; i++)
			names.emplace(i, std::pmr::string(static_cast<std::size_t>(i), 'x', &resource));
		REQUIRE(names.at(999).size() == 999);
		std::vector<long, hl::allocator<long>> numbers{hl::allocator<long>(memory.get())};
		for (long i = 0; i < 100000; i++)
			numbers.push_back(i);
		REQUIRE(numbers[99999] == 99999);
		struct alignas(4096) page { char bytes[4096]; };
		std::vector<page, hl::allocator<page>> pages(3, numbers.get_allocator());
		REQUIRE(reinterpret_cast<std::uintptr_t>(pages.data()) % 4096 == 0);
		const int full = thrown([&] {
			std::vector<char, hl::allocator<char>> huge(std::size_t{1} << 30, 0, numbers.get_allocator());
		});
		REQUIRE(full == HEIRLOOM_ERROR_OUT_OF_MEMORY);
	}
	(void)heirloom_flush(memory.get());
	(void)heirloom_shrink(memory.get());
	hl::check(heirloom_stats(memory.get(), &after));
	REQUIRE(after.used <= before.used + 64);
}

/* A value that takes another's memory lets its own go, and one that could not be had stays the caller's. */
void values()
{
	const heirloom_range range = { std::uint64_t{1} << 32, 16 << 20, 0 };
	hl::memory one = hl::memory::create("one", &range, 1, "life.cpp");
	const int old = heirloom_arena_fd(one.arena());
	REQUIRE(fcntl(old, F_GETFD) >= 0);
	one = hl::memory::create("two", &range, 1, "life.cpp");
	REQUIRE(fcntl(old, F_GETFD) < 0);

	const int fd = heirloom_arena_share(one.arena());
	one = hl::memory::create("three", &range, 1, "life.cpp");
	heirloom_arena *left = heirloom_arena_open(fd);
	REQUIRE(left != nullptr && close(fd) == 0);
	REQUIRE(thrown([&] { hl::memory::revive(left, "life.cpp", nullptr, HEIRLOOM_SEAL_ONLY); }) ==
		HEIRLOOM_ERROR_NOT_SEALED);
	REQUIRE(heirloom_arena_has_entry(left) == 1);
	one = hl::memory::revive(left, "life.cpp");
	REQUIRE(one.generation() == 1);
	hl::memory &same = one;
	one = std::move(same);
	REQUIRE(one.get() != nullptr && one.arena() == left);
}

struct thrown_by_a_callback {};

template <class Call> bool throws(Call call)
{
	try {
		call();
	} catch (const thrown_by_a_callback &) {
		return true;
	}
	return false;
}

/* What is called throws: the call ends there, and the next goes on. */
void callbacks(hl::memory &memory)
{
	hl::cache<note> cache(memory, "walked", 1);
	note *notes[3];
	for (note *&made : notes)
		made = cache.make(nullptr, nullptr, std::uint64_t{0});
	int calls = 0;
	const auto throws_second = [&](const struct heirloom_handle &) -> bool {
		if (++calls == 2)
			throw thrown_by_a_callback();
		return false;
	};
	REQUIRE(throws([&] { cache.each_preserved(throws_second); }));
	REQUIRE(calls == 2);
	cache.each_preserved(throws_second);
	REQUIRE(calls == 5);
	cache.each_preserved([&](const struct heirloom_handle &) { return ++calls == 7; });
	REQUIRE(calls == 7);
	cache.each_unclaimed(throws_second);
	REQUIRE(calls == 7);
	for (note *made : notes)
		cache.free(made);
	hl::check(heirloom_cache_destroy(cache.get()));

	/* Two names that only the predecessor knew, if there was one. */
	calls = 0;
	if (memory.generation() > 0) {
		const auto throws_first = [&](const struct heirloom_unclaimed &unclaimed) -> bool {
			if (unclaimed.kind == HEIRLOOM_KIND_NAME && ++calls == 1)
				throw thrown_by_a_callback();
			return false;
		};
		REQUIRE(throws([&] { memory.finish(throws_first); }));
		REQUIRE(calls == 1);
		REQUIRE(memory.finish(throws_first).names == 2);
		REQUIRE(calls == 3);
	}
	hl::check(heirloom_publish(memory.get(), "first", "1", 1));
	hl::check(heirloom_publish(memory.get(), "second", "2", 1));
}

} // namespace

int main(int, char **argv)
{
	hl::memory memory = start();
	const std::uint64_t life = memory.generation();
	hl::cache<note> notes(memory, "notes", 1);

	hl::check(heirloom_resume(memory.get()));
	note *first = nullptr;
	struct heirloom_handle root{};
	std::size_t bytes = sizeof(root);
	if (life > 0) {
		hl::check(heirloom_retrieve(memory.get(), "notes", &root, &bytes));
		first = notes.find(root);
		REQUIRE(first != nullptr && first->life == life - 1);
	}
	/* A text of the note's own, preserved from birth as the note is. */
	const std::string said = "written by life " + std::to_string(life);
	auto *text = static_cast<char *>(
		hl::check(heirloom_alloc_with(memory.get(), said.size() + 1, 1, HEIRLOOM_PRESERVED)));
	std::memcpy(text, said.c_str(), said.size() + 1);
	note *added = notes.make(first, text, life);
	REQUIRE(added->next == first && notes.find(notes.handle(added)) == added);
	root = notes.handle(added);
	hl::check(heirloom_publish(memory.get(), "notes", &root, sizeof(root)));

	std::uint64_t seen = 0;
	for (const note *at = added; at != nullptr; at = at->next.get(), seen++)
		REQUIRE("written by life " + std::to_string(at->life) == at->text.get());
	REQUIRE(seen == life + 1);

	note *ring = notes.make(nullptr, nullptr, std::uint64_t{99});
	REQUIRE(!ring->next && ring->next == nullptr);
	ring->next = ring;
	REQUIRE(ring->next && ring->next->life == 99);
	const note copied = *ring;
	REQUIRE(copied.next.get() == ring);
	notes.free(ring);
	REQUIRE(thrown([&] { notes.free(ring); }) == HEIRLOOM_ERROR_DOUBLE_FREE);
	REQUIRE(thrown([&] { hl::cache<std::uint64_t>(memory, "notes", 1); }) != HEIRLOOM_ERROR_OK);

	containers(memory);
	values();
	callbacks(memory);
	hl::check(heirloom_finish(memory.get(), nullptr, nullptr, nullptr));
	if (life == 2)
		return 0;
	hl::check(heirloom_jump_exec(memory.get(), argv[0], argv));
	return 1;
}
