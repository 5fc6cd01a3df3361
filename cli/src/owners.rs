//! What preserved memory belongs to: which table, file or cache names it.
//!
//! ```text
//!  root page ──> subtree ──> lists, sessions ──> files ──> list of folios, folios
//!            ──> heirloom ──> cache directory ──> caches ──> slabs
//! ```
//!
//! Each is a stretch of frames and a name. What nothing here leads to has no name: its owner alone knows it.

use std::collections::HashSet;

use heirloom_kho::linux::{KhoTest, Known, LoanPart, Loans, Luo, Memblock};
use heirloom_kho::{AreaInfo, AreaPart, Block, Error, Left, PhysAddr, Run};
use heirloom_slab::internal::ImageCaches;

use crate::image::Image;
use crate::lent::Handovers;
use crate::sessions::{Listing, each_session};
use crate::survey::Survey;

/// Stretches of frames and what each belongs to, by number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owners {
    pub(crate) names: Vec<String>,
    /// By where they start.
    pub(crate) runs: Vec<(Run, usize)>,
    /// How many more can be named. Sound tables name each page once; broken ones lead to the same again and again.
    room: u64,
}

impl Owners {
    /// What `handovers` lead to.
    pub(crate) fn of(handovers: &Handovers<'_>) -> Self {
        let mut owners =
            Self { room: handovers.outer.image.pages().saturating_mul(2), ..Self::default() };
        owners.survey(&handovers.outer, "");
        if let Some(within) = handovers.inner() {
            owners.survey(within, "heirloom: ");
        }
        owners.runs.sort_unstable_by_key(|(run, name)| (run.start(), *name));
        owners
    }

    fn survey(&mut self, survey: &Survey<'_>, within: &str) {
        let left = survey.left();
        let page = survey.image.page_size();
        let root = self.name(format!("{within}the root page"));
        self.bytes(survey, survey.at, page.bytes() as u64, root);
        for subtree in survey.subtrees() {
            let (name, size) = (subtree.name.as_str(), subtree.size.unwrap_or(page.bytes() as u64));
            let own = self.name(format!("{within}subtree {name}"));
            self.bytes(survey, subtree.addr, size, own);
            match Known::read(&left, &subtree) {
                Ok(Some(Known::Luo(luo))) => self.luo(survey, &left, &luo),
                Ok(Some(Known::KhoTest(test))) => self.kho_test(&left, &test, own),
                Ok(Some(Known::Memblock(memblock))) => self.memblock(survey, &left, &memblock),
                Ok(Some(Known::Loans(loans))) => self.loans(&left, &loans, own),
                // What cannot be read is among the findings.
                _ => {}
            }
        }
        if let Some(header) = &survey.header {
            for (number, record) in (0_u64..).zip(
                header
                    .cache_directory
                    .map(|at| ImageCaches::new(&left, at))
                    .iter()
                    .flat_map(|caches| caches.caches().map(move |record| (record, caches))),
            ) {
                let (record, caches) = record;
                if number >= self.room {
                    break;
                }
                let name = self.name(format!("{within}cache {}", record.name().as_str()));
                for slab in caches.slabs(&record) {
                    let block = Block::new(slab.pfn(), record.order());
                    if !block.is_some_and(|block| self.put(block.run(), name)) {
                        break;
                    }
                }
            }
        }
    }

    fn luo(&mut self, survey: &Survey<'_>, left: &Left<'_, Image>, luo: &Luo) {
        let lists = self.name("LUO: the list of sessions".to_owned());
        let mut seen = HashSet::new();
        let _ = luo.for_each_block(left, |block| self.once(block, lists, &mut seen));
        each_session(luo, left, |session, listing| {
            let Listing::Files(files) = listing else { return };
            let list = self.name(format!("session {}: its list of files", session.name));
            let _ = session.for_each_block(left, |block| self.once(block, list, &mut seen));
            for file in files.flatten() {
                let kind = format!("{}, token {}: {}", session.name, file.token, file.compatible);
                let Ok(Some(memfd)) = file.memfd(left) else { continue };
                if self.room == 0 {
                    return;
                }
                let table = self.name(format!("session {kind}, its list of folios"));
                self.bytes(survey, memfd.at, 1, table);
                if let Some(area) = memfd.area {
                    self.area(left, area, table);
                }
                let name = self.name(format!("session {kind}"));
                let _ = memfd.for_each_folio(left, |folio| {
                    let put = self.put(folio.block.run(), name);
                    if put { Ok(()) } else { Err(Stop) }
                });
            }
        });
        if let Ok(flbs) = luo.flbs(left) {
            let name = self.name("LUO: states that files share".to_owned());
            self.bytes(survey, luo.flbs, flbs.bytes(), name);
        }
    }

    fn kho_test(&mut self, left: &Left<'_, Image>, test: &KhoTest, own: usize) {
        self.area(left, test.area, own);
        let _ = test.for_each_folio(left, |block| {
            let put = self.put(block.run(), own);
            if put { Ok(()) } else { Err(Stop) }
        });
    }

    fn memblock(&mut self, survey: &Survey<'_>, left: &Left<'_, Image>, memblock: &Memblock) {
        let _ = memblock.for_each_region(left, |region| {
            let name = self.name(format!("region {}", region.name));
            let put = self.bytes(survey, region.start, region.size, name);
            if put { Ok(()) } else { Err(Stop) }
        });
    }

    fn loans(&mut self, left: &Left<'_, Image>, loans: &Loans, own: usize) {
        let folios = self.name("lent to heirloom".to_owned());
        let _ = loans.walk(left, |part| {
            let put = match part {
                LoanPart::Page(page) => self.put(page.run(), own),
                LoanPart::Folio { folio, .. } => self.put(folio.run(), folios),
                LoanPart::Wrong(_) => true,
            };
            if put { Ok(()) } else { Err(Stop) }
        });
    }

    fn area(&mut self, left: &Left<'_, Image>, area: AreaInfo, name: usize) {
        let _ = area.walk(left, |part| {
            let (AreaPart::Chunk(block) | AreaPart::Block(block)) = part;
            let put = self.put(block.run(), name);
            if put { Ok(()) } else { Err(Stop) }
        });
    }

    /// A block of a list, which ends where it comes to one again.
    fn once(
        &mut self,
        block: Block,
        name: usize,
        seen: &mut HashSet<PhysAddr>,
    ) -> Result<(), Error> {
        let first = seen.insert(block.addr()) && self.put(block.run(), name);
        let again = heirloom_kho::Fault::Shared { block };
        first.then_some(()).ok_or(again.in_table(heirloom_kho::Table::Records, block.addr(), 0))
    }

    fn name(&mut self, name: String) -> usize {
        self.names.push(name);
        self.names.len() - 1
    }

    fn bytes(&mut self, survey: &Survey<'_>, at: PhysAddr, bytes: u64, name: usize) -> bool {
        let run = survey.image.page_size().covering(at, bytes);
        run.is_some_and(|run| self.put(run, name))
    }

    /// Adds a stretch; `false` once there is no room.
    fn put(&mut self, run: Run, name: usize) -> bool {
        let Some(room) = self.room.checked_sub(1) else { return false };
        self.room = room;
        if let Some((last, of)) = self.runs.last_mut()
            && *of == name
            && last.end() == run.start()
            && let Some(joined) = Run::between(last.start(), run.end())
        {
            *last = joined;
        } else {
            self.runs.push((run, name));
        }
        true
    }
}

/// Why a walk ends early: no more is to be named.
struct Stop;

impl From<Error> for Stop {
    fn from(_: Error) -> Self {
        Self
    }
}
