//! `heirloom`: what a handover preserves, seen in an image of the machine's memory.
//!
//! ```text
//! arguments   what is asked
//! image/      the image as memory, mapped and not read
//! roots       where the handover starts
//! survey      its tree and its tables, everything that is wrong with them
//! facts/      what is known, as it is printed: one value for JSON, text and the map
//! text/       for a person
//! map/        the picture
//! extract, diff, manual
//! ```

mod arguments;
mod facts;
mod image;
mod output;
mod progress;
mod roots;
mod survey;
mod text;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use arguments::{Arguments, Command, Inspect, Place};
use facts::Facts;
use image::Image;
use survey::Survey;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        // Whoever reads has seen enough.
        Err(error) if output::is_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("{}error:{:#} {error:#}", output::BAD, output::BAD);
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::Inspect(inspect) => run_inspect(&inspect),
    }
}

/// The handover that `place` names, surveyed, and what is known of it.
fn look(image: &Image, place: &Place) -> Result<(roots::Roots, Facts)> {
    let roots = roots::find(image, place)?;
    let survey = Survey::new(image, roots.taken, place.scratch);
    let facts = Facts::of(&survey, &roots, &place.image)?;
    Ok((roots, facts))
}

fn run_inspect(inspect: &Inspect) -> Result<ExitCode> {
    let image = inspect.place.open()?;
    let (_, facts) = look(&image, &inspect.place)?;
    if inspect.json {
        output::json(&facts)?;
    } else {
        output::text(&text::summary(&facts), inspect.color)?;
    }
    Ok(ExitCode::SUCCESS)
}
