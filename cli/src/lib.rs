//! `heirloom`: what a handover preserves, seen in an image of the machine's memory.
//!
//! ```text
//! arguments   what is asked
//! image/      the image as memory, read where it is looked at
//! roots       where the handover starts
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
mod sessions;
mod sink;
mod sized;
mod status;
mod survey;
mod text;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use arguments::{Arguments, Check, Command, Diff, Extract, Inspect, List, Man, Place, Status};
use clap::Parser;
use diff::Difference;
use facts::{Against, Compared, Facts, Layouts, Verdict, Want};
use heirloom_kho::PageSize;
use heirloom_kho::PhysAddr;
use lent::{Handovers, Lent};
use next::Kernel;
use output::BAD;
use roots::Roots;
use sink::Sink;
use survey::Survey;

/// The program.
pub fn main() -> ExitCode {
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
    let base = base.map(PhysAddr::new);
    let image = path.to_owned();
    let (root, scratch, raw, zero_excluded) = (None, None, Vec::new(), false);
    let place = Place { image, root, base, raw, scratch, zero_excluded, page_size };
    open(&place, |handovers, roots| {
        let survey = &handovers.outer;
        let want = Want::new(survey, true, true);
        let facts = Facts::of(handovers, roots, &place.image, &want)?;
        let verdict = Verdict::of(handovers, &[], None, None);
        let kernel = Kernel::open(&["7.3".to_owned()])?;
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
            looks: survey.image.looks() + handovers.inner().map_or(0, |inner| inner.image.looks()),
        })
    })
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
    let mut survey = Survey::new(&image, roots.taken, place.scratch);
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
        let facts = Facts::of(handovers, roots, &place.image, &want)?;
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
    let (next, place) = (Kernel::open(&check.next)?, check.source.place()?);
    if let Some(old) = &check.against
        && let Some([before, now]) = tables(old, &place.image)?
    {
        ensure!(
            next.is_none(),
            "{}: a table is no handover that a kernel could take",
            old.display()
        );
        let compared = Compared::of(&before, &now);
        say(check, &compared, || text::compared(&compared))?;
        return Ok(compared.status());
    }
    let before = check.against.as_ref().map(|old| {
        let other = Place { image: old.clone(), root: None, scratch: None, ..place.clone() };
        open(&other, |handovers, _| Ok(Against::of(&handovers.outer, old, &place.image)))
    });
    let before = before.transpose()?;
    open(&place, |handovers, _| {
        let verdict = Verdict::of(handovers, &check.accept, next.as_ref(), before.as_ref());
        say(check, &verdict, || text::verdict(&verdict))?;
        Ok(verdict.status())
    })
}

/// Prints what a check found, as it was asked for.
fn say(check: &Check, value: &impl serde::Serialize, text: impl FnOnce() -> String) -> Result<()> {
    match (check.quiet, check.json) {
        // The exit status says it.
        (true, _) => Ok(()),
        (_, true) => output::json(value),
        _ => output::text(&text(), check.color),
    }
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
    open(&extract.how.place(extract.image.clone()), |handovers, _| {
        extract::extract(handovers, extract)
    })?;
    Ok(true)
}

fn run_list(list: &List) -> Result<bool> {
    open(&list.how.place(list.image.clone()), |handovers, _| list::list(handovers, list))?;
    Ok(true)
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
