//! Of a kernel that runs: sessions and memfds of a live update, before Linux writes the lists of them.
//!
//! ```text
//!  /proc/PID/fd/N ─> anon_inode:[luo_session] NAME    a session that is open; closed, it is gone
//!  a preserved page that starts as a memfd does,      a memfd that some session has
//!  with folios that are all preserved
//! ```
//!
//! Which session has which file is nowhere but in the kernel's own structures until the jump.

use std::collections::BTreeMap;
use std::fs;

use heirloom_kho::linux::{self as kho, Text};
use heirloom_kho::{Error, Left, Pages, PhysAddr};

use super::basic::Hex;
use super::memfd::Memfd;
use super::want::Want;
use crate::image::Image;
use crate::survey::Survey;

/// What a kernel that runs has yet to put into its lists.
#[derive(Clone, Debug, Default, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Now {
    pub(crate) sessions: Vec<Open>,
    pub(crate) memfds: Vec<Preserved>,
    /// Memfds that are not listed.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) unlisted: u64,
}

/// A session that is open.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Open {
    pub(crate) name: String,
    pub(crate) processes: Vec<Process>,
}

/// A process that has a session.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) program: Option<String>,
}

/// A memfd that is preserved.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Preserved {
    pub(crate) at: Hex,
    #[serde(flatten)]
    pub(crate) memfd: Memfd,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde wants it")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Memfds that are listed: more than any live update preserves.
const LISTED: usize = 100_000;

impl Now {
    /// What `survey` went through, of a kernel that runs on this machine.
    pub(crate) fn of(survey: &Survey<'_>, want: &Want<'_>) -> Self {
        let mut now = Self { sessions: sessions(), ..Self::default() };
        let left = survey.left();
        let page = survey.image.page_size();
        // The structure has a page of its own.
        for row in survey.rows.iter().filter(|row| row.first().order() == page.order()) {
            for i in 0..row.count() {
                let at = row.first().pfn().add(i << page.order().get()).addr();
                let Some(memfd) = memfd(&left, survey.image, at) else { continue };
                if now.memfds.len() < LISTED {
                    now.memfds
                        .push(Preserved { at: at.into(), memfd: Memfd::of(&memfd, &left, want) });
                } else {
                    now.unlisted += 1;
                }
            }
        }
        want.bar.finish_and_clear();
        now
    }
}

/// Returns the memfd of which the structure starts the page at `at`; `None` if the page starts otherwise: a preserved page may
/// hold anything.
fn memfd(left: &Left<'_, Image>, image: &Image, at: PhysAddr) -> Option<kho::Memfd> {
    /// `F_SEAL_SEAL` to `F_SEAL_EXEC`.
    const SEALS: u64 = 0x3f;
    // Of most pages this is all that is looked at: a page that is looked at as a table is kept.
    let mut head = [0; kho::Memfd::SIZE as usize];
    image.read(at, &mut head)?;
    let word = |i: usize| Some(u64::from_ne_bytes(*head.get(8 * i..)?.first_chunk()?));
    let (size, seals, folios, area) = (word(1)?, word(2)? & 0xffff_ffff, word(3)?, word(4)?);
    let page = left.page_size();
    // A page of zeroes is one without any folio.
    let may_be = folios > 0
        && folios <= size.div_ceil(page.bytes() as u64)
        && seals & !SEALS == 0
        && page.is_aligned(PhysAddr::new(area))
        && left.block_around(PhysAddr::new(area).pfn()).is_some();
    let compatible = Text::new(kho::Memfd::COMPATIBLE).filter(|_| may_be)?;
    let memfd = kho::File { at, compatible, data: at.get(), token: 0 }.memfd(left).ok()??;
    let mut found = 0;
    let each = |_| {
        found += 1;
        Ok::<_, Error>(())
    };
    memfd.for_each_folio(left, each).ok()?;
    (found == memfd.folios).then_some(memfd)
}

/// The sessions that processes of this machine have open, by name.
fn sessions() -> Vec<Open> {
    let mut found: BTreeMap<String, Vec<Process>> = BTreeMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        // One that has ended meanwhile has none.
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
        for name in links.filter_map(|link| session(link.to_str()?).map(str::to_owned)) {
            let of = found.entry(name).or_default();
            if of.last().is_none_or(|last| last.pid != pid) {
                let program = fs::read_to_string(format!("/proc/{pid}/comm")).ok();
                let program = program.map(|name| name.trim_end().to_owned());
                of.push(Process { pid, program });
            }
        }
    }
    found.into_iter().map(|(name, processes)| Open { name, processes }).collect()
}

/// The name of the session that a descriptor with this link is of.
fn session(link: &str) -> Option<&str> {
    link.strip_prefix("anon_inode:[luo_session] ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_known_by_the_link_of_its_descriptor() {
        assert_eq!(session("anon_inode:[luo_session] guest 1"), Some("guest 1"));
        for other in ["anon_inode:[eventpoll]", "/dev/liveupdate", "[luo_session] x", ""] {
            assert_eq!(session(other), None, "{other}");
        }
    }
}
