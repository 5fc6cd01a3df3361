//! `cargo xtask restart`: the cache of `examples/cache` and its rivals, filled, ended and started again.
//!
//! ```text
//! items ══ the same client, the same items ══> cache under `heirloom hold`
//!                                              redis-server, with snapshots or a log
//!                                              memcached -e, on tmpfs
//!
//! each:  fill ─> measure ─> planned restart ─> kill -9, amid writes ─> every item looked at after each
//! ```
//!
//! An observer asks for one item all the time: the longest time between two of its answers is how long there was none.

mod client;
mod death;
mod items;
mod page;
mod place;
mod server;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::linux::place::project;
use crate::report::collect::machine;
use items::Items;
use page::Row;
pub(crate) use page::{section, with_section};
use place::Place;
use server::Kind;

/// Fill the cache and its rivals with the same items, end and restart each, and count what is lost.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Fill each with so many items of 16 bytes of key and 16 to 200 of value.
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    items: usize,
    /// Take 100,000 items, which is done within a minute.
    #[arg(long, conflicts_with_all = ["items", "write"])]
    short: bool,
    /// Write the figures into docs/performance.md.
    #[arg(long)]
    write: bool,
    /// Run this one alone (heirloom, rdb, aof, memcached). May be given several times.
    #[arg(long, value_name = "SERVER")]
    only: Vec<String>,
}

/// The items of a short run.
const SHORT: usize = 100_000;

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = project()?;
    let count = if arguments.short { SHORT } else { arguments.items };
    ensure!(count > 0, "no items");
    build(root)?;
    let machine = machine();
    let place = Place::new(root)?;
    let mut rows = BTreeMap::new();
    let mut skipped = Vec::new();
    for kind in Kind::ALL {
        if !arguments.only.is_empty() && !arguments.only.iter().any(|only| only == kind.short()) {
            continue;
        }
        if let Err(error) = kind.install() {
            println!("\n**** SKIPPED: cargo xtask restart: {}: {error:#} ****\n", kind.name());
            skipped.push(kind.name());
            continue;
        }
        println!("restart: {}", kind.name());
        let row = measure(kind, &place, count).with_context(|| kind.name())?;
        rows.insert(kind, row);
    }
    place.note_skipped(&skipped)?;
    let table = page::table(count, &rows, &skipped);
    println!("\n{table}");
    if arguments.write {
        ensure!(
            skipped.is_empty() && arguments.only.is_empty(),
            "not all of it was measured: nothing is written"
        );
        let name = root.join("docs/performance.md");
        let old = fs::read_to_string(&name).context("docs/performance.md")?;
        fs::write(&name, page::replaced(&old, &table, &machine)).context("docs/performance.md")?;
        println!("docs/performance.md: the section is written");
    }
    if let Some(row) = rows.get(&Kind::Heirloom) {
        println!("restart: {count} items, {} deaths, {} lost", row.deaths, row.lost());
        ensure!(row.lost() == 0, "heirloom lost what it had acknowledged");
    }
    Ok(())
}

/// Builds the cache and its supervisor, as they are shipped.
fn build(root: &Path) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(root).args(["build", "--quiet", "--release"]);
    cargo.args(["--package", "heirloom-cache", "--package", "heirloom-cli"]);
    ensure!(cargo.status()?.success(), "the cache does not build");
    Ok(())
}

/// Fills a server, measures it, and ends it in each way.
fn measure(kind: Kind, place: &Place, count: usize) -> Result<Row> {
    let mut items = Items::new(count);
    let mut server = server::Server::start(kind, place, items.bytes())?;
    let mut row = Row { data: items.bytes(), ..Row::default() };
    let mut client = server.client()?;
    row.sets = items.fill(&mut client)?;
    row.gets = items.read(&mut client, server.pid()?)?;
    row.resident = server.resident()?;
    drop(client);
    row.planned = death::planned(&mut server, &mut items)?;
    row.killed = death::killed(&mut server, &mut items)?;
    row.deaths = 2;
    if kind == Kind::Heirloom {
        for _ in 0..3 {
            row.killed.add(&death::killed(&mut server, &mut items)?);
            row.deaths += 1;
        }
        row.killed.add(&death::crashing(&mut server, &mut items)?);
        row.deaths += 1 + death::CRASHES;
    }
    server.end()?;
    Ok(row)
}
