//! `heirloom`: what a handover preserves, seen in an image of the machine's memory.
//!
//! ```text
//! arguments   what is asked
//! image/      the image as memory, read where it is looked at
//! roots       where the handover starts
//! scan        the root pages in an image
//! sized       the image, and how large its pages are
//! survey      its tree and its tables, everything that is wrong with them
//! recorder    what it comes upon, as it is taken down
//! lent        what Linux lends to heirloom, and the handover within
//! frames      whose frame is whose
//! heap/       objects of caches, what handles name, what containers hold
//! owners      what preserved memory belongs to
//! said, code  what is wrong, in pages of the machine, and for scripts
//! sessions    a live update's lists, each gone through once
//! facts/      what is known, as it is printed: one value for JSON, text and the map
//! next/       the kernel that is to come next, and what it takes
//! text/       for a person
//! map/        the picture
//! extract, list, diff, manual
//! hold/       a service's memory and sockets, kept while it is started anew
//! machine     which machine an image is of, and a kernel is for
//! status      a service's arena, used or at rest: shown, and cleared
//! live        what runs now: this machine's kernel, the arena of a process
//! sink        a file that is written whole or not at all
//! ```
//!
//! The program is [`main`]. [`look`] is what it finds, for tests.
#![cfg(target_os = "linux")]

mod arguments;
mod code;
mod diff;
mod extract;
mod facts;
mod frames;
mod heap;
mod hold;
mod image;
mod lent;
mod list;
mod live;
mod machine;
mod manual;
mod map;
mod next;
mod output;
mod owners;
mod progress;
mod recorder;
mod roots;
mod said;
mod scan;
mod schema;
mod sessions;
mod sink;
mod sized;
mod status;
mod survey;
mod text;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use arguments::{Arguments, Check, Command, Diff, Extract, Inspect, List, Man, Place, Status};
use clap::Parser;
use diff::Difference;
use facts::{Against, Checked, Compared, Facts, Layouts, Now, Verdict, Want};
use heap::Unsound;
use heirloom_kho::PageSize;
use heirloom_kho::PhysAddr;
use lent::{Handovers, Lent};
use next::Kernel;
use output::BAD;
use roots::Roots;
use signal_hook::consts::SIGXFSZ;
use sink::Sink;
use survey::Survey;

/// The program.
pub fn main() -> ExitCode {
    // A file that may not grow (`ulimit -f`) is an error of writing to it, and no end. (Where this is refused, it is one.)
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            let error = format!("{error:#}");
            anstream::eprintln!("{BAD}error:{BAD:#} {}", text::shown(&error));
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::Check(check) => return run_check(&check).map(ExitCode::from),
        Command::Inspect(inspect) => run_inspect(&inspect),
        Command::Hold(hold) => return hold::run(&hold),
        Command::Status(status) => run_status(&status),
        Command::Clear(clear) => status::clear(&clear),
        Command::Extract(extract) => run_extract(&extract),
        Command::List(list) => run_list(&list),
        Command::Diff(diff) => run_diff(&diff),
        Command::Completions(completions) => output::bytes(&manual::completions(completions.shell)),
        Command::Man(Man { dir: None }) => output::bytes(&manual::page()?),
        Command::Man(Man { dir: Some(dir) }) => manual::pages(&dir),
        Command::Schema(schema) => output::json(&schema::of(schema.of)).map(|()| true),
    }
    .map(|found| if found { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the program says of an image.
#[derive(Clone, Debug)]
pub struct Looked {
    /// What `check` prints, a line a finding.
    pub findings: Vec<String>,
    /// What `check` prints.
    pub verdict: String,
    /// What `inspect` prints.
    pub summary: String,
    /// What `inspect --json` prints.
    pub json: String,
    /// What `inspect --map` draws.
    pub map: String,
    /// What it draws as a page.
    pub page: String,
    /// What `check` prints, for Linux 7.3 to come next and against the image itself.
    pub next: String,
    /// How many frames the image has.
    pub frames: u64,
    /// How often words of it were looked at.
    pub looks: u64,
}

/// Opens the image at `path`, raw memory from `base` on if there is one, and looks at everything
/// that the program shows. `page_size` is that of its machine, if it is known.
///
/// # Errors
/// It is no image, or there is no handover in it.
pub fn look(path: &Path, base: Option<u64>, page_size: Option<PageSize>) -> Result<Looked> {
    let place = at(path, base, page_size);
    open(&place, |handovers, roots| {
        let survey = &handovers.outer;
        let want = Want::new(survey, true, true);
        let facts = Facts::of(handovers, roots, &place.image, &want)?;
        let verdict = Verdict::of(handovers, &[], None, None);
        let kernel = Kernel::open(&["7.3".into()])?;
        let against = Against::of(survey, path, path);
        let next = Verdict::of(handovers, &[], kernel.as_ref(), Some(&against));
        Ok(Looked {
            findings: survey.findings.iter().map(|finding| finding.reason.clone()).collect(),
            verdict: text::verdict(&verdict),
            summary: text::summary(&facts),
            json: serde_json::to_string(&facts)?,
            map: map::svg(handovers, &facts),
            page: map::html(handovers, &facts),
            next: text::verdict(&next),
            frames: survey.image.pages(),
            looks: looks(handovers),
        })
    })
}

/// Looks as [`look`] does, at what is needed for a check and `inspect --quick`: nothing is drawn, hashed or compared, and
/// those texts are empty.
///
/// # Errors
/// As for [`look`].
pub fn survey(path: &Path, base: Option<u64>, page_size: Option<PageSize>) -> Result<Looked> {
    let place = at(path, base, page_size);
    open(&place, |handovers, roots| {
        let survey = &handovers.outer;
        let want = Want::new(survey, false, false);
        let facts = Facts::of(handovers, roots, &place.image, &want)?;
        let verdict = Verdict::of(handovers, &[], None, None);
        Ok(Looked {
            findings: survey.findings.iter().map(|finding| finding.reason.clone()).collect(),
            verdict: text::verdict(&verdict),
            summary: text::summary(&facts),
            json: String::new(),
            map: String::new(),
            page: String::new(),
            next: String::new(),
            frames: survey.image.pages(),
            looks: looks(handovers),
        })
    })
}

/// How often words of an image were looked at.
fn looks(handovers: &Handovers<'_>) -> u64 {
    let inner = handovers.inner().map_or(0, |inner| inner.image.looks());
    handovers.outer.image.looks() + inner
}

/// The image at `path`, with the handover looked for in it.
fn at(path: &Path, base: Option<u64>, page_size: Option<PageSize>) -> Place {
    Place {
        image: path.to_owned(),
        root: None,
        base: base.map(PhysAddr::new),
        raw: Vec::new(),
        scratch: None,
        zero_excluded: false,
        page_size,
    }
}

/// An image that was opened, and read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// How many pages it has.
    pub pages: u64,
    /// How many of them were asked for.
    pub asked: u64,
    /// How many of those could be read.
    pub read: u64,
}

/// Opens the image at `path`, as [`look`] does, and reads the first `most` of its pages, whatever is in them.
/// `zeroes`: what it declares and has not is zeroes.
///
/// # Errors
/// It is no image.
pub fn opened(
    path: &Path,
    base: Option<u64>,
    page_size: Option<PageSize>,
    zeroes: bool,
    most: u64,
) -> Result<Opened> {
    let image = Place { zero_excluded: zeroes, ..at(path, base, page_size) }.open()?;
    let page = image.page_size();
    let step = usize::try_from(page.order().frames())?;
    let frames = image.runs().flat_map(|run| (run.start().get()..run.end().get()).step_by(step));
    let (mut asked, mut read) = (0, 0);
    for frame in frames.take(usize::try_from(most)?) {
        asked += 1;
        read += u64::from(image.page(heirloom_kho::Pfn::new(frame).addr()).is_some());
    }
    Ok(Opened { pages: image.pages(), asked, read })
}

/// The name of the kernel that a file with these bytes is, or is the configuration or the table of: what `check --for`
/// reads of it.
///
/// # Errors
/// It is none, with the reason.
pub fn kernel(bytes: &[u8]) -> Result<String> {
    let kernel = Kernel::read(bytes.to_vec(), "kernel")?;
    Ok(format!("{}: {:?}", kernel.name(), kernel.takes("kho-v4")))
}

/// Opens the image that `place` names, and has `then` look at the handover there.
fn open<R>(place: &Place, then: impl FnOnce(&Handovers<'_>, &Roots) -> Result<R>) -> Result<R> {
    let (image, candidates) = sized::open(place)?;
    let roots = roots::find(&image, place, &candidates)?;
    let mut survey = Survey::new(&image, roots.taken, place.scratch.as_ref());
    let doubts: Vec<_> = roots.doubts(&survey).collect();
    survey.findings.extend(doubts);
    let lent = Lent::of(&survey);
    then(&Handovers::new(survey, lent.as_ref()), &roots)
}

fn run_inspect(inspect: &Inspect) -> Result<bool> {
    let place = inspect.source.place()?;
    open(&place, |handovers, roots| {
        let survey = &handovers.outer;
        let want = Want::new(survey, inspect.json, !inspect.quick);
        let mut facts = Facts::of(handovers, roots, &place.image, &want)?;
        if inspect.source.is_live() {
            // In lists and in none, a memfd is looked at twice.
            let want = Want::new(survey, inspect.json, !inspect.quick);
            facts.now = Some(Now::of(survey, &want));
        }
        if let Some(path) = &inspect.map {
            let mut sink = Sink::open(path, survey.image)?;
            let picture = map::picture(path, handovers, &facts);
            let written = sink.data(picture.as_bytes()).and_then(|()| sink.finish());
            written.with_context(|| format!("cannot write {}", path.display()))?;
        }
        if inspect.json {
            output::json(&facts)?;
        } else {
            output::text(&text::summary(&facts), inspect.color)?;
        }
        Ok(true)
    })
}

fn run_check(check: &Check) -> Result<u8> {
    let checked = checked(check)?;
    match (check.quiet, check.json) {
        // The exit status says it.
        (true, _) => {}
        (_, true) => output::json(&checked)?,
        _ => output::text(&text::checked(&checked), check.color)?,
    }
    Ok(checked.status())
}

/// Checks what was asked for.
fn checked(check: &Check) -> Result<Checked> {
    let (next, place) = (Kernel::open(&check.next)?, check.source.place()?);
    if let Some(old) = &check.against
        && let Some([before, now]) = tables(old, &place.image)?
    {
        ensure!(
            next.is_none(),
            "{}: a table is no handover that a kernel could take",
            old.display()
        );
        return Ok(Checked::Tables(Compared::of(&before, &now)));
    }
    let before = check.against.as_ref().map(|old| {
        let other = Place { image: old.clone(), root: None, scratch: None, ..place.clone() };
        open(&other, |handovers, _| Ok(Against::of(&handovers.outer, old, &place.image)))
    });
    let before = before.transpose()?;
    open(&place, |handovers, _| {
        let verdict = Verdict::of(handovers, &check.accept, next.as_ref(), before.as_ref());
        Ok(Checked::Handover(Box::new(verdict)))
    })
}

/// What two tables say, if they are tables.
///
/// # Errors
/// One is, and the other is not; or one is not sound.
fn tables(before: &Path, now: &Path) -> Result<Option<[Layouts; 2]>> {
    let read = |path: &Path| {
        let layouts = next::layouts(path).transpose();
        layouts.with_context(|| path.display().to_string())
    };
    match (read(before)?, read(now)?) {
        (Some(before), Some(now)) => Ok(Some([before, now].map(|of| Layouts::of_table(&of)))),
        (None, None) => Ok(None),
        (Some(_), None) => bail!("{} is a table, and {} is none", before.display(), now.display()),
        (None, Some(_)) => bail!("{} is a table, and {} is none", now.display(), before.display()),
    }
}

fn run_status(status: &Status) -> Result<bool> {
    status::run(status, |place| {
        open(place, |handovers, roots| {
            let want = Want::new(&handovers.outer, false, false);
            Facts::of(handovers, roots, &place.image, &want)
        })
    })
}

fn run_extract(extract: &Extract) -> Result<bool> {
    let place = extract.how.place(extract.image.clone());
    settled(&place.image, |_| {
        open(&place, |handovers, _| extract::extract(handovers, extract).map(|_| true))
    })
}

fn run_list(list: &List) -> Result<bool> {
    let place = list.how.place(list.image.clone());
    settled(&place.image, |used| {
        open(&place, |handovers, _| list::list(handovers, list, used).map(|()| true))
    })
}

/// Looks into the image at `path`; again if a container there is not sound and a process uses the arena, as that may be what
/// it was just changing. `look` is told whether one does.
fn settled<R>(path: &Path, mut look: impl FnMut(bool) -> Result<R>) -> Result<R> {
    /// As often as it takes to come between two changes of a service that does little else.
    const TIMES: usize = 64;
    let is_unsound = |error: &anyhow::Error| error.downcast_ref::<Unsound>().is_some();
    let Some(owner) = live::owner(path) else { return look(false) };
    for _ in 1..TIMES {
        match look(true) {
            Err(error) if is_unsound(&error) => {}
            looked => return looked,
        }
    }
    look(true).map_err(|error| {
        if !is_unsound(&error) {
            return error;
        }
        anyhow!(
            "{error:#}; process {owner} uses the arena, and may have been changing it each time: ask again, or look while it \
             is stopped (kill -STOP {owner})"
        )
    })
}

fn run_diff(diff: &Diff) -> Result<bool> {
    let [a, b] = diff.places().map(|place| {
        open(&place, |handovers, roots| {
            let want = Want::new(&handovers.outer, true, diff.contents);
            Facts::of(handovers, roots, &place.image, &want)
        })
    });
    let (a, b) = (a?, b?);
    let difference = Difference::of(&a, &b, diff.contents)?;
    if diff.json {
        output::json(&difference)?;
    } else {
        output::text(&difference.text(), diff.color)?;
    }
    Ok(difference.is_empty())
}
