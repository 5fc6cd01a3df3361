//! `heirloom`: what a handover preserves, seen in an image of the machine's memory.
//!
//! ```text
//! arguments   what is asked
//! image/      the image as memory, read where it is looked at
//! roots       where the handover starts
//! sized       the image, and how large its pages are
//! survey      its tree and its tables, everything that is wrong with them
//! recorder    what it comes upon, as it is taken down
//! frames      whose frame is whose
//! said        what is wrong, in pages of the machine
//! sessions    a live update's lists, each gone through once
//! facts/      what is known, as it is printed: one value for JSON, text and the map
//! text/       for a person
//! map/        the picture
//! extract, diff, manual
//! hold/       a service's memory and sockets, kept while it is started anew
//! sink        a file that is written whole or not at all
//! ```
//!
//! The program is [`main`]. [`look`] is what it finds, for tests.
#![cfg(target_os = "linux")]

mod arguments;
mod diff;
mod extract;
mod facts;
mod frames;
mod hold;
mod image;
mod manual;
mod map;
mod output;
mod progress;
mod recorder;
mod roots;
mod said;
mod sessions;
mod sink;
mod sized;
mod survey;
mod text;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use arguments::{Arguments, Check, Command, Diff, Extract, Inspect, Man, Place};
use clap::Parser;
use diff::Difference;
use facts::{Facts, Verdict, Want};
use heirloom_kho::PageSize;
use heirloom_kho::PhysAddr;
use image::Image;
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
        Command::Extract(extract) => run_extract(&extract),
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
    let place = Place { image, root: None, base, scratch: None, zero_excluded: false, page_size };
    let (image, candidates) = sized::open(&place)?;
    let (survey, roots) = survey(&image, &place, &candidates)?;
    let want = Want::new(&survey, true, true);
    let facts = Facts::of(&survey, &roots, &place.image, &want)?;
    let verdict = Verdict::of(&survey, &[]);
    let map = map::svg(&survey, &facts);
    Ok(Looked {
        findings: survey.findings.iter().map(|finding| finding.reason.clone()).collect(),
        verdict: text::verdict(&verdict),
        summary: text::summary(&facts),
        json: serde_json::to_string(&facts)?,
        map,
        frames: image.pages(),
        looks: image.looks(),
    })
}

/// The handover that `place` names, surveyed.
fn survey<'i>(
    image: &'i Image,
    place: &Place,
    candidates: &[PhysAddr],
) -> Result<(Survey<'i>, Roots)> {
    let roots = roots::find(image, place, candidates)?;
    Ok((Survey::new(image, roots.taken, place.scratch), roots))
}

fn run_inspect(inspect: &Inspect) -> Result<bool> {
    let (image, candidates) = sized::open(&inspect.place)?;
    let (survey, roots) = survey(&image, &inspect.place, &candidates)?;
    let want = Want::new(&survey, inspect.json, !inspect.quick);
    let facts = Facts::of(&survey, &roots, &inspect.place.image, &want)?;
    if let Some(path) = &inspect.map {
        let mut sink = Sink::open(path, &image)?;
        let written = sink.data(map::svg(&survey, &facts).as_bytes()).and_then(|()| sink.finish());
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    if inspect.json {
        output::json(&facts)?;
    } else {
        output::text(&text::summary(&facts), inspect.color)?;
    }
    Ok(true)
}

fn run_check(check: &Check) -> Result<u8> {
    let (image, candidates) = sized::open(&check.place)?;
    let (survey, _) = survey(&image, &check.place, &candidates)?;
    let verdict = Verdict::of(&survey, &check.accept);
    if check.json {
        output::json(&verdict)?;
    } else {
        output::text(&text::verdict(&verdict), check.color)?;
    }
    Ok(verdict.status())
}

fn run_extract(extract: &Extract) -> Result<bool> {
    let (image, candidates) = sized::open(&extract.place)?;
    let (survey, _) = survey(&image, &extract.place, &candidates)?;
    extract::extract(&survey, extract)?;
    Ok(true)
}

fn run_diff(diff: &Diff) -> Result<bool> {
    let [a, b] = diff.places().map(|place| {
        let (image, candidates) = sized::open(&place)?;
        let (survey, roots) = survey(&image, &place, &candidates)?;
        let want = Want::new(&survey, true, diff.contents);
        Facts::of(&survey, &roots, &place.image, &want)
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
