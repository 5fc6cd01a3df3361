//! Claiming what the predecessor left: by its handle, once, and by no other.

use heirloom::folio::{DirectMap, Error as FolioError, FrameType};
use heirloom::kho::{Block, Handle, Order, Parts, Run};
use heirloom::restore::Error;
use heirloom::slab::Error as SlabError;
use heirloom_testkit::{Kernel, is_full, mix};

use super::state::{ModelKind, ModelObject, PAGE, Published, State, folio_error};
use super::tables::Entry;

/// The call that a claim is made by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    Folio,
    Run,
    Pointer,
    Area,
    Records,
}

impl By {
    const ALL: [Self; 5] = [Self::Folio, Self::Run, Self::Pointer, Self::Area, Self::Records];

    /// The call for a thing.
    const fn of(what: &ModelKind) -> Self {
        match what {
            ModelKind::Folio(_) => Self::Folio,
            ModelKind::Run => Self::Run,
            ModelKind::Large { .. } | ModelKind::Object(_) => Self::Pointer,
            ModelKind::Area(_) => Self::Area,
            ModelKind::Records(_) => Self::Records,
        }
    }

    /// Whether it takes handles of this kind at all.
    const fn takes(self, parts: &Parts) -> bool {
        matches!(
            (self, parts),
            (Self::Folio, Parts::Folio(_))
                | (Self::Run, Parts::Run(_))
                | (Self::Pointer, Parts::Buffer { .. } | Parts::Object { .. })
                | (Self::Area, Parts::Area(_))
                | (Self::Records, Parts::Records { entry: 16, .. })
        )
    }

    /// Claims: the frames that are had, if they are a folio's, a run's or a large buffer's.
    fn claim(self, kernel: &Kernel<'_>, handle: Handle) -> Result<Option<Run>, Error> {
        Ok(match self {
            Self::Folio => Some(kernel.claim_folio(handle)?.into_raw().run()),
            Self::Run => Some(kernel.claim_run(handle)?.into_raw()),
            Self::Pointer => {
                let at = kernel.restore(handle)?;
                let addr = kernel.memory().machine().phys(at).expect("our own pointer");
                match handle.parts() {
                    Ok(Parts::Buffer { bytes, .. }) => Run::covering(addr, bytes),
                    _ => None,
                }
            }
            Self::Area => {
                kernel.claim_area(handle)?.into_raw();
                None
            }
            Self::Records => {
                drop(kernel.claim_records::<Entry>(handle)?);
                None
            }
        })
    }
}

/// What must come of a claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Due {
    /// It is had.
    Had,
    /// The handle is none that this call takes.
    NoHandle,
    /// It has a label: a slab, a table.
    Labelled,
    /// It is not there.
    Absent,
    /// An object, refused for this reason.
    Refused(Why),
    /// Refused, for whatever reason.
    SomeError,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Why {
    NotAdopted,
    Length,
    Stale,
    Any,
}

impl State {
    /// What must come of a claim, and whether it may find no memory.
    fn due(&self, handle: Handle, by: By) -> (Due, bool) {
        let Ok(parts) = handle.parts() else { return (Due::NoHandle, false) };
        if !by.takes(&parts) {
            return (Due::NoHandle, false);
        }
        let run = match parts {
            Parts::Folio(block) => return (self.blocks_due([block]), false),
            Parts::Run(run) => Some(run),
            Parts::Buffer { addr, bytes } => Run::covering(addr, bytes),
            Parts::Area(_) | Parts::Records { .. } => {
                let there = self.left.iter().find(|thing| thing.handle == Some(handle));
                let whole = there.is_some_and(|thing| self.blocks_due(thing.blocks()) == Due::Had);
                return (if whole { Due::Had } else { Due::SomeError }, true);
            }
            Parts::Object { addr, bytes, tag } => {
                let there = self.left.iter().find(|thing| thing.addr == addr);
                let there = there.and_then(|thing| Some((thing.object()?, thing.handle?)));
                let Some((object, handle)) = there else { return (Due::Refused(Why::Any), true) };
                let own =
                    matches!(handle.parts(), Ok(Parts::Object { tag: own, .. }) if own == tag);
                let due = if !object.adopted && !object.class {
                    Due::Refused(Why::NotAdopted)
                } else if bytes != object.size {
                    Due::Refused(Why::Length)
                } else if !own {
                    Due::Refused(Why::Stale)
                } else {
                    Due::Had
                };
                return (due, !object.adopted && object.class);
            }
            Parts::Blob { .. } => None,
        };
        (run.map_or(Due::Absent, |run| self.blocks_due(run.blocks())), false)
    }

    /// The same for the blocks that a claim has to take: the first that cannot be had is the reason.
    fn blocks_due(&self, blocks: impl IntoIterator<Item = Block>) -> Due {
        for block in blocks {
            match self.inherited.get(&block) {
                Some(Some(_)) => return Due::Labelled,
                Some(None) => {}
                None => return Due::Absent,
            }
        }
        Due::Had
    }

    /// Checks that a refusal is the one that is due.
    fn check_refusal(&mut self, kernel: &Kernel<'_>, error: Error, due: (Due, bool), what: &str) {
        use FolioError::{NotMemory, NotPreserved, WrongType};
        use SlabError::{NotAdopted, Stale, WrongLength};
        if due.1 && is_full(&error) {
            return self.starved(kernel, error, 24 + 6 * 70);
        }
        let right = match due.0 {
            Due::Had => false,
            Due::NoHandle => matches!(error, Error::Handle { .. }),
            Due::Labelled => matches!(folio_error(error), Some(WrongType { .. })),
            Due::Absent => match folio_error(error) {
                Some(NotPreserved { .. } | NotMemory { .. }) => true,
                // A slab or a table of this kernel's is said to be that.
                Some(WrongType {
                    pfn,
                    found: found @ (FrameType::Slab | FrameType::Table),
                    ..
                }) => kernel.memory().owning_block(pfn).is_some_and(|(_, kind, _)| kind == found),
                _ => false,
            },
            Due::Refused(Why::NotAdopted) => matches!(error, Error::Slab(NotAdopted { .. })),
            Due::Refused(Why::Length) => matches!(error, Error::Slab(WrongLength { .. })),
            Due::Refused(Why::Stale) => matches!(error, Error::Slab(Stale { .. })),
            Due::Refused(Why::Any) => matches!(error, Error::Slab(_)),
            Due::SomeError => !is_full(&error),
        };
        assert!(right, "{what}: {due:?}, but {error:?}");
        self.refused();
    }

    /// Claims by a handle.
    fn claim_by(&mut self, kernel: &Kernel<'_>, handle: Handle, by: By) {
        let due = self.due(handle, by);
        let what = format!("{handle:?} {:?} by {by:?}", handle.parts());
        let done = by.claim(kernel, handle);
        self.learn_adopted(kernel);
        let run = match done {
            Ok(run) => run,
            Err(error) => return self.check_refusal(kernel, error, due, &what),
        };
        assert_eq!(due.0, Due::Had, "{what}");
        self.figures.claimed += 1;
        let like = |thing: &ModelObject| thing.handle == Some(handle) && By::of(&thing.what) == by;
        let Some(i) = self.left.iter().position(like) else {
            // By another name than it was left under: the frames are had, and not what they were.
            let run = run.unwrap_or_else(|| panic!("{what}"));
            run.blocks().for_each(|block| _ = self.inherited.remove(&block));
            self.prune();
            let order = Order::for_frames(run.frames()).expect("few frames");
            let what = match by {
                By::Folio => ModelKind::Folio(order),
                By::Run => ModelKind::Run,
                _ => ModelKind::Large { born: true },
            };
            let (addr, bytes, seed) = (run.addr(), run.bytes(), self.next_seed());
            let handle = match by {
                By::Pointer => kernel.handle_of(kernel.memory().machine().ptr(addr)).ok(),
                By::Run => Handle::new(Parts::Run(run)).ok(),
                _ => Handle::new(Parts::Folio(Block::containing(run.start(), order))).ok(),
            };
            let (preserved, parts) = (true, Vec::new());
            let thing = ModelObject { what, addr, bytes, preserved, seed, handle, parts };
            return self.own(kernel, thing);
        };
        let mut thing = self.left.swap_remove(i);
        thing.check_content(kernel.memory().machine(), u64::MAX);
        for block in thing.blocks() {
            assert_eq!(self.inherited.remove(&block), Some(None), "{thing:?}");
        }
        match &mut thing.what {
            ModelKind::Large { born } => *born = true,
            ModelKind::Object(object) => object.held = !object.preserving,
            ModelKind::Area(_) | ModelKind::Records(_) => Self::check_table(kernel, &thing),
            _ => {}
        }
        assert!(thing.preserved);
        Self::check_object(kernel, &thing);
        self.owned.push(thing);
        self.prune();
        // Once.
        let due = (self.due(handle, by).0, false);
        assert_ne!(due.0, Due::Had);
        match by.claim(kernel, handle) {
            Ok(_) => panic!("{what}: claimed twice"),
            Err(error) => self.check_refusal(kernel, error, due, &what),
        }
    }

    /// What of the predecessor's is not whole any more cannot be had as what it was.
    pub(super) fn prune(&mut self) {
        let inherited = &self.inherited;
        self.left.retain(|thing| thing.blocks().iter().all(|b| inherited.contains_key(b)));
    }

    /// Slabs that are this kernel's since the last call: what they hold is there to be claimed.
    pub(super) fn learn_adopted(&mut self, kernel: &Kernel<'_>) {
        let gone: Vec<_> = self
            .inherited
            .iter()
            .filter(|(block, label)| {
                **label == Some(FrameType::Slab) && !kernel.memory().predecessor().contains(**block)
            })
            .map(|(block, _)| *block)
            .collect();
        for slab in gone {
            self.inherited.remove(&slab);
            for thing in &mut self.left {
                if let ModelKind::Object(object) = &mut thing.what
                    && object.slab == slab
                {
                    (object.adopted, object.pinned) = (true, false);
                    self.adopts.insert(object.cache);
                }
            }
        }
    }

    /// Claims something that was left, by its handle.
    pub(super) fn claim(&mut self, kernel: &Kernel<'_>, a: u64) {
        if self.left.is_empty() {
            return;
        }
        let thing = &self.left[a as usize % self.left.len()];
        let handle = thing.handle.unwrap_or_else(|| panic!("{thing:?} has no handle"));
        let by = By::of(&thing.what);
        self.claim_by(kernel, handle, by);
    }

    /// Claims what there is not, or not so.
    pub(super) fn forge(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let left = (!self.left.is_empty()).then(|| a as usize % self.left.len().max(1));
        let left = left.map(|i| self.left[i].clone());
        let parts = left.as_ref().and_then(|thing| thing.handle?.parts().ok());
        let longer = |addr, bytes| Parts::Buffer { addr, bytes: bytes + PAGE };
        let forged = match (b % 10, parts) {
            (0, _) if !self.stale.is_empty() => {
                let handle = self.stale[a as usize % self.stale.len()];
                let by = By::ALL.into_iter().find(|by| handle.parts().is_ok_and(|p| by.takes(&p)));
                return by.into_iter().for_each(|by| self.claim_by(kernel, handle, by));
            }
            (1, Some(_)) => {
                let handle = left.and_then(|thing| thing.handle).expect("it has parts");
                return self.claim_by(kernel, handle, By::ALL[b as usize / 10 % 5]);
            }
            (2, Some(Parts::Run(run))) => Parts::Folio(run.blocks().next().expect("frames")),
            (2, Some(Parts::Buffer { addr, bytes })) => {
                Parts::Run(Run::covering(addr, bytes).expect("frames"))
            }
            (2, Some(Parts::Area(info))) => {
                Parts::Folio(Block::containing(info.first().pfn(), Order::ZERO))
            }
            (3, Some(Parts::Run(run))) => {
                Parts::Run(Run::new(run.start(), run.frames() + 1).expect("frames"))
            }
            (3, Some(Parts::Buffer { addr, bytes })) => longer(addr, bytes),
            (3, Some(Parts::Object { addr, bytes, tag })) => {
                Parts::Object { addr, bytes: bytes + 8, tag }
            }
            (4, _) => {
                let bytes = u128::from(mix(a)) << 64 | u128::from(mix(b));
                let handle = Handle::from(bytes.to_le_bytes());
                if handle.parts().is_ok() {
                    return;
                }
                return self.claim_by(kernel, handle, By::ALL[a as usize % 5]);
            }
            (5, Some(Parts::Object { addr, bytes, tag })) => {
                Parts::Object { addr, bytes, tag: tag ^ 1 }
            }
            (6, _) => {
                let labelled: Vec<_> =
                    self.inherited.iter().filter(|(_, label)| label.is_some()).collect();
                let Some((block, _)) = labelled.get(a as usize % labelled.len().max(1)) else {
                    return;
                };
                Parts::Folio(**block)
            }
            (7, _) => {
                let Some(i) = self.pick(a, |thing| thing.run().is_some()) else { return };
                let start = self.owned[i].addr.pfn();
                Parts::Run(Run::new(start, 1 + b / 10 % 3).expect("frames"))
            }
            (8, Some(Parts::Object { addr, bytes, tag })) => {
                let addr = heirloom::kho::PhysAddr::new(addr.get() + 8);
                Parts::Object { addr, bytes, tag }
            }
            _ => return,
        };
        let Ok(handle) = Handle::new(forged) else { return };
        let by = By::ALL.into_iter().find(|by| by.takes(&forged)).expect("one takes it");
        self.claim_by(kernel, handle, by);
    }

    /// Claims what was published or added under a name.
    pub(super) fn claim_root(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let name = match a % 7 {
            5 => String::from("heirloom"),
            6 => String::from("nothing"),
            n => format!("root-{n}"),
        };
        let left = self.left_roots.get(&name).cloned();
        let block = left.as_ref().and_then(|left| {
            let at = |(block, label): &(&Block, &Option<FrameType>)| {
                label.is_none() && block.addr() == left.addr && left.length <= block.order().bytes()
            };
            self.inherited.iter().find(at).map(|(block, _)| *block)
        });
        match kernel.claim_root(&name) {
            Ok(root) => {
                let (left, block) = left.zip(block).unwrap_or_else(|| panic!("{name} was had"));
                let bytes = root.bytes().to_vec();
                assert_eq!(bytes.len() as u64, left.length);
                assert!(left.bytes.is_none_or(|left| left == bytes), "{name}");
                self.inherited.remove(&block);
                self.figures.claimed += 1;
                if b & 1 == 0 {
                    // As long as the view is there, nobody takes the bytes from under it.
                    let gone = kernel.unpublish(&name);
                    assert!(matches!(gone, Err(Error::NameTaken { .. })), "{name}: {gone:?}");
                    let other = kernel.publish(&name, &[1]);
                    assert!(other.is_err(), "{name}");
                    assert!(kernel.claim_root(&name).is_err(), "{name} was claimed twice");
                }
                drop(root);
                self.left_roots.remove(&name);
                self.published.insert(name, Published { block, bytes });
                self.prune();
            }
            Err(error) => {
                assert_eq!(block, None, "{name}: {error}");
                let there = left.is_some()
                    || name == "heirloom"
                    || self.published.contains_key(&name)
                    || self.subtrees.contains_key(&name);
                let right = match &error {
                    Error::NoSuchSubtree { .. } => !there,
                    Error::NotInherited { .. } => there,
                    _ => false,
                };
                assert!(right, "{name}: {left:?}: {error:?}");
                self.refused();
            }
        }
    }
}
