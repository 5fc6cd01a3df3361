//! What Linux lends to heirloom's module, and the handover within.
//!
//! ```text
//!  the image    [ Linux's memory                                   ]
//!                   │ root page ──> tree, "LUO", …, "heirloom" ──> list of loans
//!  lent             [ folio ]      [ folio ][ folio ]      <─────────┘   │ entry
//!                      └─ tree, scratch, header, caches, slabs, roots <──┘
//! ```
//!
//! To heirloom only the folios are memory: what its tables name beside them is a fault.

use heirloom_kho::Error;
use heirloom_kho::linux::{Known, LoanPart, Loans};
use heirloom_restore::Entry;

use crate::image::{Image, merged};
use crate::survey::{Finding, Survey};

/// What Linux lends.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) loans: Loans,
    /// Pages of the list.
    pub(crate) pages: u64,
    /// Folios that it names, as far as they are sound.
    pub(crate) folios: u64,
    /// The memory that they are.
    image: Image,
}

impl Lent {
    /// What the handover that `survey` went through lends, if it does.
    pub(crate) fn of(survey: &Survey<'_>) -> Option<Self> {
        let left = survey.left();
        let own = survey.subtrees().find(|subtree| subtree.name.as_str() == Loans::NAME)?;
        // What is wrong with the list is among the findings.
        let Some(Known::Loans(loans)) = Known::read(&left, &own).ok()? else { return None };
        let (mut pages, mut runs) = (0, Vec::new());
        let _ = loans.walk(&left, |part| {
            match part {
                LoanPart::Page(_) => pages += 1,
                LoanPart::Folio { folio, .. } => runs.push(folio.run()),
                LoanPart::Wrong(_) => {}
            }
            Ok::<_, Error>(())
        });
        let folios = runs.len() as u64;
        let Loans { root, scratch, scratch_bytes, .. } = loans;
        let entry = Entry { root, scratch, scratch_bytes };
        let image = survey.image.part(merged(runs), entry);
        Some(Self { loans, pages, folios, image })
    }

    /// The memory that is lent.
    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    /// Goes through the handover within.
    pub(crate) fn survey(&self) -> Survey<'_> {
        Survey::new(&self.image, self.loans.root, None)
    }
}

/// A handover, and the one within it.
#[derive(Debug)]
pub(crate) struct Handovers<'i> {
    /// The one that was looked for, with all that is wrong with either.
    pub(crate) outer: Survey<'i>,
    /// What it lends, and what stands there.
    pub(crate) within: Option<(&'i Lent, Survey<'i>)>,
}

impl<'i> Handovers<'i> {
    /// Goes through what `lent` has, if there is something.
    pub(crate) fn new(mut outer: Survey<'i>, lent: Option<&'i Lent>) -> Self {
        let within = lent.map(|lent| (lent, lent.survey()));
        if let Some((_, within)) = &within {
            let named = |Finding { at, code, reason, advice }: &Finding| {
                let reason = format!("subtree {}: {reason}", Loans::NAME);
                Finding { at: *at, code: code.clone(), reason, advice: *advice }
            };
            outer.findings.extend(within.findings.iter().map(named));
            outer.unread.extend(within.unread.iter().cloned());
        }
        Self { outer, within }
    }

    /// The one within.
    pub(crate) fn inner(&self) -> Option<&Survey<'i>> {
        self.within.as_ref().map(|(_, survey)| survey)
    }
}
