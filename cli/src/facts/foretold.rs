//! Whether the next kernel will take a handover: each structure by what it says that it is.

use std::borrow::Cow;
use std::sync::atomic::Ordering::Relaxed;

use heirloom_kho::linux::{Known, Loans, Luo, Memblock, Metadata};
use heirloom_kho::{
    DeviceTree, Left, PAGE_SIZE, PageSize, PhysAddr, SUBTREE, Subtree, Table, Token,
};

use super::basic::{Hex, accepts};
use crate::code;
use crate::image::Image;
use crate::lent::Handovers;
use crate::machine::{ByteOrder, Machine};
use crate::next::{Kernel, Taking, name};
use crate::said;
use crate::sessions::{Listing, each_session};
use crate::survey::Survey;

/// What the next kernel will do with a handover.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Foretold {
    pub(crate) kernel: String,
    pub(crate) verdict: Takes,
    /// Each structure, in the order in which a kernel comes to it.
    pub(crate) structures: Vec<Structure>,
    /// How many are not in that list, if any.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) unlisted: u64,
    /// What the kernel must be started with.
    pub(crate) needs: Vec<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde wants it")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Whether something is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) enum Takes {
    #[serde(rename = "taken")]
    Yes,
    #[serde(rename = "not taken")]
    No,
    #[serde(rename = "not known")]
    Unknown,
}

/// A structure, and whether it is taken.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Structure {
    /// `root page`, `subtree`, `region`, `file`, `FLB`; of the machine, `machine` and `pages`; or what is limited:
    /// `scratch`, `seals`, `folio`.
    pub(crate) what: &'static str,
    /// Which of them, if there are several: `LUO`, `session-0, token 1`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    /// What it says that it is.
    pub(crate) says: String,
    pub(crate) takes: Takes,
    /// What it is, in words that stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<&'static str>,
    /// Why it is not taken, and what happens instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    pub(crate) at: Hex,
    /// Whether the user vouches for it.
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    pub(crate) accepted: bool,
}

/// Structures that are listed one by one.
const LISTED: usize = 10_000;

impl Foretold {
    /// What `kernel` will do with `handovers`; `accepted` are names that the user vouches for.
    pub(super) fn of(handovers: &Handovers<'_>, kernel: &Kernel, accepted: &[String]) -> Self {
        let found = Vec::new();
        let mut all = Foretelling { kernel, accepted, found, unlisted: 0, worst: Takes::Yes };
        all.survey(&handovers.outer);
        if let Some(within) = handovers.inner() {
            all.says("root page", "heirloom", within.compatible.clone(), within.at);
            all.header(within);
        }
        let names = all.found.iter().map(|of| name(&of.says));
        let mut needs: Vec<String> = Vec::new();
        for need in names.flat_map(|name| kernel.needs(name)) {
            if !needs.iter().any(|known| known == need) {
                needs.push(need.to_owned());
            }
        }
        let (structures, unlisted, verdict) = (all.found, all.unlisted, all.worst);
        Self { kernel: kernel.name().to_owned(), verdict, structures, unlisted, needs }
    }
}

/// A foretelling under way.
struct Foretelling<'k> {
    kernel: &'k Kernel,
    accepted: &'k [String],
    found: Vec<Structure>,
    unlisted: u64,
    worst: Takes,
}

impl Foretelling<'_> {
    fn survey(&mut self, survey: &Survey<'_>) {
        let page = survey.image.page_size();
        let taking = self.kernel.takes_root(&survey.compatible);
        self.add("root page", "", survey.compatible.clone(), survey.at, taking);
        self.machine(survey);
        let (pages, wanted) = (page.bytes() as u64, self.kernel.page_size());
        let says = || format!("pages of {pages} bytes");
        let kernel = self.kernel.name();
        match wanted {
            Some(wanted) if wanted != pages => {
                let reason = format!("{kernel} has pages of {wanted} bytes");
                self.refused("pages", "", says(), survey.at, code::NEXT_PAGE_SIZE, reason);
            }
            None if self.kernel.is_built() => {
                let reason = format!(
                    "which pages {kernel} has is not said in it: its configuration does, as CONFIG_PAGE_SHIFT, and may be \
                     given instead"
                );
                self.unknown("pages", says(), survey.at, code::NEXT_PAGE_SIZE, reason);
            }
            _ => {}
        }
        let areas = survey.scratch.as_ref().map_or(0, |areas| areas.len() as u64);
        if let Some(most) = self.kernel.at_most("scratch-areas").filter(|most| areas > *most) {
            let reason = format!("{} takes {most} at most", self.kernel.name());
            let says = format!("{areas} areas");
            self.refused("scratch", "", says, survey.at, code::NEXT_LIMIT, reason);
        }
        for subtree in survey.subtrees() {
            self.subtree(survey, &subtree);
        }
    }

    /// Whether the image is of a machine that the kernel is for.
    fn machine(&mut self, survey: &Survey<'_>) {
        let (kernel, at) = (self.kernel.name(), survey.at);
        let Some(wanted) = self.kernel.machine() else { return };
        let own = survey.image.machine();
        let said = own.map_or("not said", Machine::name).to_owned();
        if own.is_some_and(|own| own.name() != wanted.name()) {
            let reason = format!("{kernel} is for {}", wanted.name());
            return self.refused("machine", "", said, at, code::NEXT_MACHINE, reason);
        }
        // An image of another byte order than this machine's cannot be looked at.
        if let Some(order) = wanted.order().filter(|order| *order != ByteOrder::HERE) {
            let (reason, says) =
                (format!("{kernel} is {}", order.as_str()), ByteOrder::HERE.as_str().to_owned());
            return self.refused("machine", "", says, at, code::NEXT_BYTE_ORDER, reason);
        }
        if own.is_none() {
            let reason = format!(
                "{kernel} is for {}, and the image does not say of which machine it is",
                wanted.name()
            );
            self.unknown("machine", said, at, code::NEXT_MACHINE, reason);
        }
    }

    fn subtree(&mut self, survey: &Survey<'_>, subtree: &Subtree) {
        let (left, name, at) = (survey.left(), subtree.name.as_str(), subtree.addr);
        let image = survey.image;
        let text =
            |says: Option<String>| says.unwrap_or_else(|| "nothing that can be read".to_owned());
        match name {
            Luo::NAME => {
                // Up to version 2 it was a device tree.
                let says =
                    text_at(image, at).or_else(|| compatibles(image, subtree).into_iter().next());
                self.says("subtree", name, text(says), at);
                if let Ok(Some(Known::Luo(luo))) = Known::read(&left, subtree) {
                    self.luo(&luo, &left);
                }
            }
            Metadata::NAME => {
                let version = image.words(at, 8).and_then(|words| words.first());
                let version = version.map(|word| word.load(Relaxed).to_ne_bytes());
                let version = version.map(|[a, b, c, d, ..]| u32::from_ne_bytes([a, b, c, d]));
                let says = version.map(|version| format!("{name}-v{version}"));
                self.says("subtree", name, text(says), at);
            }
            Memblock::NAME => {
                let said = compatibles(image, subtree);
                self.says("subtree", name, text(said.first().cloned()), at);
                for says in said.into_iter().skip(1) {
                    self.says("region", "", says, at);
                }
            }
            heirloom_kho::linux::KhoTest::NAME => {
                let said = compatibles(image, subtree);
                self.says("subtree", name, text(said.first().cloned()), at);
            }
            SUBTREE if Loans::is_list(&left, at) => {
                let version = image.words(at, 16).and_then(|words| words.get(1));
                let version = version.map(|word| word.load(Relaxed).to_le_bytes());
                let version = version.map(|[a, b, c, d, ..]| u32::from_le_bytes([a, b, c, d]));
                let says = version.map(|version| format!("heirloom-loans-v{version}"));
                self.says("subtree", name, text(says), at);
            }
            SUBTREE => self.header(survey),
            // Roots that were published with heirloom are their owner's, as objects are.
            _ if survey.header.is_some() => {}
            _ => self.says("subtree", name, name.to_owned(), at),
        }
    }

    /// What heirloom's own header says.
    fn header(&mut self, survey: &Survey<'_>) {
        let own = survey.subtrees().find(|subtree| subtree.name.as_str() == SUBTREE);
        let Some(own) = own else { return };
        let says = text_at(survey.image, own.addr);
        let says = says.unwrap_or_else(|| "nothing that can be read".to_owned());
        self.says("subtree", SUBTREE, says, own.addr);
    }

    fn luo(&mut self, luo: &Luo, left: &Left<'_, Image>) {
        let (seals, order) = (self.kernel.at_most("seals"), self.kernel.at_most("folio-order"));
        each_session(luo, left, |session, listing| {
            let Listing::Files(files) = listing else { return };
            for file in files.flatten() {
                let name = format!("{}, token {}", session.name, file.token);
                self.says("file", &name, file.compatible.to_string(), file.at);
                // What cannot be read is among the findings.
                let Ok(Some(memfd)) = file.memfd(left) else { continue };
                let others = seals.map_or(0, |seals| u64::from(memfd.seals) & !seals);
                if others != 0 {
                    let reason =
                        format!("{} does not know {others:#x} of them", self.kernel.name());
                    let says = format!("seals {:#x}", memfd.seals);
                    self.refused("seals", &name, says, memfd.at, code::NEXT_SEALS, reason);
                }
                let Some(most) = order else { continue };
                let page = left_page(left);
                let mut largest = None;
                // As above.
                let _ = memfd.for_each_folio(left, |folio| {
                    let of = (said::order(folio.block.order(), page), folio.block.addr());
                    largest = largest.max(Some(of));
                    Ok::<_, heirloom_kho::Error>(())
                });
                if let Some((of, at)) = largest.filter(|(of, _)| u64::from(*of) > most) {
                    let reason = format!("{} takes order {most} at most", self.kernel.name());
                    let says = format!("order {of}");
                    self.refused("folio", &name, says, at, code::NEXT_LIMIT, reason);
                }
            }
        });
        for flb in luo.flbs(left).into_iter().flatten().flatten() {
            self.says("FLB", "", flb.name.to_string(), flb.at);
        }
    }

    /// Adds a structure that says that it is `says`.
    fn says(&mut self, what: &'static str, which: &str, says: String, at: PhysAddr) {
        let taking = self.kernel.takes(&says);
        self.add(what, which, says, at, taking);
    }

    /// Adds a structure that says that it is `says`, with what the kernel does with it.
    fn add(&mut self, what: &'static str, which: &str, says: String, at: PhysAddr, taking: Taking) {
        let kernel = self.kernel.name();
        let (takes, code, reason) = match taking {
            Taking::Taken => (Takes::Yes, None, None),
            Taking::Others(others) => {
                let others = others.join(", ");
                (Takes::No, Some(code::NEXT_VERSION), Some(format!("{kernel} takes {others}")))
            }
            Taking::Nothing => {
                let nothing = format!("nothing in {kernel} takes it");
                (Takes::No, Some(code::NEXT_ABSENT), Some(nothing))
            }
            Taking::Tail => {
                let tail = format!(
                    "in {kernel} it stands at the end of another text alone, which may be a message; its release or its \
                     configuration tells"
                );
                (Takes::Unknown, Some(code::NEXT_UNKNOWN), Some(tail))
            }
            Taking::Unknown => {
                let nothing = format!("nothing in {kernel} is for it; a module may be");
                (Takes::Unknown, Some(code::NEXT_UNKNOWN), Some(nothing))
            }
        };
        let of = name(&says);
        let file = (what == "file").then(|| self.kernel.otherwise("file")).flatten();
        let otherwise = self.kernel.otherwise(of).or(file);
        let reason = reason.map(|reason| match otherwise {
            Some(otherwise) if takes == Takes::No => format!("{reason}: {otherwise}"),
            Some(otherwise) => format!("{reason}; without it {otherwise}"),
            None => reason,
        });
        let accepted = takes == Takes::Unknown
            && (accepts(self.accepted, &says) || accepts(self.accepted, which));
        let which = which.to_owned();
        let at = at.into();
        self.push(Structure { what, name: which, says, takes, code, reason, at, accepted });
    }

    /// Adds what cannot be told.
    fn unknown(
        &mut self,
        what: &'static str,
        says: String,
        at: PhysAddr,
        code: &'static str,
        reason: String,
    ) {
        let accepted = accepts(self.accepted, what);
        let (takes, code, reason) = (Takes::Unknown, Some(code), Some(reason));
        let (name, at) = (String::new(), at.into());
        self.push(Structure { what, name, says, takes, code, reason, at, accepted });
    }

    /// Adds what is beyond a limit.
    fn refused(
        &mut self,
        what: &'static str,
        which: &str,
        says: String,
        at: PhysAddr,
        code: &'static str,
        reason: String,
    ) {
        let reason = match self.kernel.otherwise(what) {
            Some(otherwise) => format!("{reason}: {otherwise}"),
            None => reason,
        };
        let (takes, code, reason) = (Takes::No, Some(code), Some(reason));
        let (name, at) = (which.to_owned(), at.into());
        self.push(Structure { what, name, says, takes, code, reason, at, accepted: false });
    }

    fn push(&mut self, structure: Structure) {
        self.worst = match (self.worst, structure.takes) {
            (Takes::No, _) | (_, Takes::No) => Takes::No,
            (_, Takes::Unknown) if !structure.accepted => Takes::Unknown,
            (worst, _) => worst,
        };
        if self.found.len() < LISTED {
            self.found.push(structure);
        } else {
            self.unlisted += 1;
        }
    }
}

fn left_page(left: &Left<'_, Image>) -> PageSize {
    heirloom_kho::Pages::page_size(left)
}

/// The text at `at`, as far as it is printed: what a structure says that it is, of any version.
pub(super) fn text_at(image: &Image, at: PhysAddr) -> Option<String> {
    /// More than any says, and no more than lies in a page.
    const MOST: usize = 48;
    let bytes = MOST.min(PAGE_SIZE - at.offset_in_page());
    let words = image.words(at, bytes & !7)?;
    let bytes = words.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes());
    let text: Vec<u8> = bytes.take_while(u8::is_ascii_graphic).collect();
    let text = String::from_utf8(text).ok()?;
    (!text.is_empty()).then_some(text)
}

/// What the nodes of a device tree say that they are: the root first, of the others each text once.
fn compatibles(image: &Image, subtree: &Subtree) -> Vec<String> {
    let page = image.page_size().bytes();
    let bytes = subtree.size.and_then(|size| usize::try_from(size).ok()).unwrap_or(page);
    let words = image.halves(subtree.addr, bytes);
    let tree = words.and_then(|words| DeviceTree::open(words, Table::Blob, subtree.addr).ok());
    let Some(tree) = tree else { return Vec::new() };
    let (mut cursor, mut said) = (tree.start(), Vec::<String>::new());
    while let Ok((_, token)) = tree.next(&mut cursor) {
        match token {
            Token::Property { name, value, length } if tree.string_is(name, "compatible") => {
                let end = value.saturating_add(length as usize);
                let text: Vec<u8> =
                    tree.bytes(value..end).take_while(|byte| *byte != 0).take(256).collect();
                let text: Cow<'_, str> = String::from_utf8_lossy(&text);
                if !said.iter().any(|known| *known == text) && said.len() < 64 {
                    said.push(text.into_owned());
                }
            }
            Token::Finish => break,
            _ => {}
        }
    }
    said
}
