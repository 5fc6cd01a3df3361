# SPDX-License-Identifier: MIT OR Apache-2.0
"""What a handover preserves, for drgn: the command heirloom on the memory that drgn looks at.

As a script, with the command's arguments but the image:

    drgn -c vmcore heirloom.py check --for 7.3
    drgn heirloom.py inspect

From drgn's prompt, or another script:

    >>> import heirloom
    >>> heirloom.inspect(prog)["folios"]
    93
    >>> for folio in heirloom.folios(prog):
    ...     print(hex(folio.addr), folio.order, folio.page)

The command is the one on PATH, or what the environment's HEIRLOOM says. It finds the root page by itself; where there are
several that could be meant it names them, and "--root", address chooses one. What it prints is told by "heirloom schema".
"""

import json
import os
import subprocess
import sys
from typing import Any, Iterator, NamedTuple, Optional

from drgn import Object, Program, ProgramFlags


class Folio(NamedTuple):
    """A preserved folio."""

    addr: int
    """Its physical address."""
    order: int
    """It has 2**order pages, of the kernel that preserved it."""
    page: Optional[Object]
    """The struct page of the first, where drgn has the kernel's debugging information."""


class NoHandover(Exception):
    """The command found none, and says why."""


def command(prog: Program, name: str, *args: str) -> list[str]:
    """Returns the command line by which heirloom looks at what drgn looks at."""
    image = ["--live"]
    if not prog.flags & ProgramFlags.IS_LIVE:
        path = prog.core_dump_path
        if path is None:
            raise ValueError("this program has no core dump, and is no kernel that runs")
        image = [os.fsdecode(path)]
    return [os.environ.get("HEIRLOOM", "heirloom"), name, *image, *args]


def inspect(prog: Program, *args: str) -> dict[str, Any]:
    """Returns what "heirloom inspect --json" prints, with these arguments."""
    done = subprocess.run(command(prog, "inspect", "--json", *args), capture_output=True, text=True)
    if done.returncode != 0:
        raise NoHandover(done.stderr.strip())
    return json.loads(done.stdout)


def folios(prog: Program, *args: str) -> Iterator[Folio]:
    """Yields each preserved folio, by address."""
    for addr, order in inspect(prog, "--quick", *args)["preserved"]:
        yield Folio(int(addr, 16), order, _page(prog, int(addr, 16)))


def _page(prog: Program, addr: int) -> Optional[Object]:
    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        return None
    from drgn.helpers.linux.mm import phys_to_page

    try:
        return phys_to_page(prog, addr)
    except LookupError:
        # No debugging information.
        return None


def main(prog: Program, argv: list[str]) -> int:
    """Runs the command, and returns its exit status."""
    if not argv:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    return subprocess.run(command(prog, *argv)).returncode


if __name__ == "__main__":
    sys.exit(main(prog, sys.argv[1:]))  # noqa: F821, which drgn defines
