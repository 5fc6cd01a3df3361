//! What lies behind the root page's names.

use std::fmt::{Result, Write};

use super::shown::shown;
use super::table::{bytes, plural};
use crate::facts::{
    self, Handover, Held, Hex, Linux, Loans, Luo, Memfd, Named, Now, Own, Published, Subtree, What,
};
use crate::output::{BAD, FAINT, GOOD, HEAD, NAME, STRONG};

pub(super) fn write(out: &mut String, handover: &Handover) -> Result {
    if handover.subtrees.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{HEAD}Subtrees{HEAD:#}")?;
    write_each(out, handover)
}

fn write_each(out: &mut String, handover: &Handover) -> Result {
    let wide = |subtree: &Subtree| shown(&subtree.name).chars().count();
    let wide = handover.subtrees.iter().map(wide).max().unwrap_or(0);
    for subtree in &handover.subtrees {
        let Subtree { name, phys, size, what } = subtree;
        let (name, size) = (shown(name), size.map(bytes).unwrap_or_default());
        write!(out, "  {STRONG}{name:<wide$}{STRONG:#}  {phys:<12} {size:>9}")?;
        match what {
            What::Linux(Linux::Luo(luo)) => write_luo(out, luo)?,
            What::Linux(Linux::Metadata(metadata)) => writeln!(
                out,
                "  left by Linux {}, kexec {}",
                shown(&metadata.previous_release),
                metadata.kexec_count
            )?,
            What::Linux(Linux::Memblock(memblock)) => {
                writeln!(out, "  {}", memblock.compatible)?;
                for region in &memblock.regions {
                    let (start, size) = (region.start, bytes(region.size));
                    let name = shown(&region.name);
                    writeln!(out, "    {NAME}{name:<20}{NAME:#} {start:<12} {size:>9}")?;
                }
            }
            What::Linux(Linux::KhoTest(test)) => {
                let folios = plural(test.nr_folios.into(), "folio", "folios");
                let sum = match test.csum_recomputed_mod_ffff {
                    Some(sum) if sum == test.csum_mod_ffff => {
                        format!("{GOOD}as they were{GOOD:#} by Linux's checksum")
                    }
                    Some(_) => format!("{BAD}not as they were{BAD:#} by Linux's checksum"),
                    None => format!("{BAD}not compared{BAD:#} with Linux's checksum"),
                };
                writeln!(out, "  {}, {folios}, {sum}", test.compatible)?;
            }
            What::Own(own) => write_own(out, own)?,
            What::Loans(loans) => write_loans(out, loans)?,
            What::Published(published) => write_published(out, published)?,
            What::Other {} => writeln!(out, "  {FAINT}not known{FAINT:#}")?,
        }
    }
    Ok(())
}

/// What a root's handles name: on the root's own line, if it is one handle and nothing else.
fn write_published(out: &mut String, published: &Published) -> Result {
    if let Some(named) = &published.only {
        return write_named(out, named, "  handle: ", "    ");
    }
    writeln!(out, "  {}", plural(published.handles.len() as u64, "handle", "handles"))?;
    for named in published.each() {
        let head = format!("    byte {:<5} ", named.offset);
        write_named(out, named, &head, "      ")?;
    }
    Ok(())
}

fn write_named(out: &mut String, named: &Named, head: &str, indent: &str) -> Result {
    let Named { handle, addr, bytes: length, cache, gone, container, .. } = named;
    write!(out, "{head}{handle} at {addr}, {}", bytes(*length))?;
    if let Some(cache) = cache {
        write!(out, ", of cache {NAME}{}{NAME:#}", shown(cache))?;
    }
    if *gone {
        write!(out, ", {BAD}nothing is there{BAD:#}")?;
    }
    let Some(Held { kind, entries, broken, .. }) = container else { return writeln!(out) };
    let (one, many) = match *kind {
        "log" => ("record", "records"),
        "vector" => ("element", "elements"),
        _ => ("entry", "entries"),
    };
    writeln!(out, ": {kind} of {}", plural(*entries, one, many))?;
    match broken {
        Some(why) => writeln!(out, "{indent}{BAD}not sound{BAD:#}: {}", shown(why)),
        None => Ok(()),
    }
}

/// What a kernel that runs has yet to put into its lists.
pub(super) fn write_now(out: &mut String, now: &Now) -> Result {
    if now.sessions.is_empty() && now.memfds.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{HEAD}In no list until the jump{HEAD:#}")?;
    for session in &now.sessions {
        let holders = session.processes.iter().map(|of| match &of.program {
            Some(program) => format!("{} ({})", of.pid, shown(program)),
            None => of.pid.to_string(),
        });
        let holders: Vec<_> = holders.collect();
        let name = shown(&session.name);
        writeln!(out, "  session {NAME}{name}{NAME:#}, open in process {}", holders.join(", "))?;
    }
    for preserved in &now.memfds {
        write!(out, "  memfd at {:<12}", preserved.at)?;
        write_memfd(out, &preserved.memfd)?;
    }
    match now.unlisted {
        0 => Ok(()),
        more => {
            writeln!(out, "  {FAINT}and {}{FAINT:#}", plural(more, "more memfd", "more memfds"))
        }
    }
}

fn write_luo(out: &mut String, luo: &Luo) -> Result {
    writeln!(out, "  {}, live update {}", luo.compatible, luo.liveupdate_num)?;
    for session in &luo.sessions {
        let files = plural(session.files.len() as u64, "file", "files");
        let of = facts::session(&session.name).map(|of| format!(" {FAINT}({of}){FAINT:#}"));
        let (name, of) = (shown(&session.name), of.unwrap_or_default());
        writeln!(out, "    session {NAME}{name}{NAME:#}, {files}{of}")?;
        unlisted(out, "      ", session.unlisted.as_deref())?;
        for file in &session.files {
            write!(out, "      token {:<6} {:<10}", file.token, shown(&file.compatible))?;
            if let Some(memfd) = &file.memfd {
                write_memfd(out, memfd)?;
            } else {
                write!(out, " {FAINT}data {}{FAINT:#}", file.data)?;
                for (name, value) in file.proposed.iter().flatten() {
                    write!(out, ", {name} {value}")?;
                }
                writeln!(out)?;
            }
            if let Some(name) = &file.name {
                writeln!(out, "        {NAME}{}{NAME:#}", shown(name))?;
            }
            if let Some(kept) = &file.kept {
                writeln!(out, "        {NAME}{}{NAME:#}", shown(kept))?;
            }
            if let Some(why) = &file.broken {
                writeln!(out, "        {BAD}not sound{BAD:#}: {}", shown(why))?;
            }
        }
    }
    unlisted(out, "    ", luo.unlisted.as_deref())?;
    for flb in &luo.flbs {
        let files = plural(flb.count, "file", "files");
        let (name, data) = (shown(&flb.name), flb.data);
        writeln!(out, "    shared  {NAME}{name}{NAME:#}, data {data}, {files}")?;
    }
    Ok(())
}

/// What is left out of a list.
fn unlisted(out: &mut String, indent: &str, what: Option<&str>) -> Result {
    match what {
        Some(what) => writeln!(out, "{indent}{BAD}not listed{BAD:#}: {}", shown(what)),
        None => Ok(()),
    }
}

fn write_memfd(out: &mut String, memfd: &Memfd) -> Result {
    let folios = plural(memfd.nr_folios, "folio", "folios");
    write!(out, " {:>9} in {folios}", bytes(memfd.size))?;
    if !memfd.holes.is_empty() {
        let size = memfd.holes.iter().fold(0_u64, |sum, hole| sum.saturating_add(hole.bytes));
        let holes = plural(memfd.holes.len() as u64, "hole", "holes");
        write!(out, ", {} in {holes}", bytes(size))?;
    }
    if !memfd.seal_names.is_empty() {
        write!(out, ", sealed: {}", memfd.seal_names.join(" "))?;
    }
    if memfd.pos > 0 {
        write!(out, ", at {}", memfd.pos)?;
    }
    if memfd.flags > 0 {
        write!(out, ", flags {}", Hex(memfd.flags.into()))?;
    }
    writeln!(out)?;
    if let Some(hash) = &memfd.sha256 {
        writeln!(out, "        {FAINT}sha256 {hash}{FAINT:#}")?;
    }
    if let Some(why) = &memfd.unreadable {
        writeln!(out, "        {BAD}not readable{BAD:#}: {}", shown(why))?;
    }
    if let Some(why) = &memfd.left_out {
        writeln!(out, "        {BAD}left out{BAD:#}: {}", shown(why))?;
    }
    Ok(())
}

fn write_loans(out: &mut String, loans: &Loans) -> Result {
    let folios = plural(loans.lent_folios, "folio", "folios");
    writeln!(out, "  lent by Linux: {} in {folios}", bytes(loans.lent_bytes))?;
    let root = loans.entry.root;
    let Some(handover) = &loans.handover else {
        return writeln!(out, "    {BAD}no root page{BAD:#} at {root} that can be read");
    };
    let compatible = shown(&handover.compatible);
    let preserved = bytes(handover.bytes);
    let folios = plural(handover.folios, "folio", "folios");
    let nodes = plural(handover.nodes, "node", "nodes");
    writeln!(
        out,
        "    within: {compatible} handover, root page {root}, {preserved} in {folios}, {nodes}",
    )?;
    let mut subtrees = String::new();
    write_each(&mut subtrees, handover)?;
    subtrees.lines().try_for_each(|line| writeln!(out, "  {line}"))
}

fn write_own(out: &mut String, own: &Own) -> Result {
    let producer = shown(&own.producer);
    let longer = if own.longer { ", with more than this program knows" } else { "" };
    writeln!(out, "  {}, generation {}, by {producer}{longer}", own.compatible, own.generation)?;
    if let Some(before) = &own.before {
        writeln!(out, "    beside the root page {before}, whose entry may be good too")?;
    }
    match &own.seal {
        None if own.opened => {
            writeln!(out, "    {FAINT}was sealed, and opened by a successor{FAINT:#}")?;
        }
        None => writeln!(out, "    {FAINT}not sealed{FAINT:#}")?,
        Some(seal) if seal.sound == seal.entries => {
            let tables = plural(seal.entries, "table", "tables");
            writeln!(out, "    {GOOD}sealed{GOOD:#}, {tables} as they were")?;
        }
        Some(seal) => {
            let (sound, all) = (seal.sound, seal.entries);
            writeln!(out, "    {BAD}seal broken{BAD:#}: {sound} of {all} tables as they were")?;
        }
    }
    for cache in &own.caches {
        let objects = plural(cache.objects, "object", "objects");
        let slabs = plural(cache.slabs, "slab", "slabs");
        let kind = if cache.preserving { "preserving" } else { "by object" };
        write!(
            out,
            "    cache {NAME}{:<20}{NAME:#} {:>9}  {objects} in {slabs} of order {}, {kind}",
            shown(&cache.name),
            bytes(cache.object_size as u64),
            cache.order
        )?;
        match cache.broken_slabs {
            0 => writeln!(out)?,
            broken => writeln!(out, ", {BAD}{broken} not sound{BAD:#}")?,
        }
        unlisted(out, "      ", cache.unlisted.as_deref())?;
    }
    unlisted(out, "    ", own.unlisted.as_deref())?;
    Ok(())
}
