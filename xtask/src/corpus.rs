//! `cargo xtask corpus`: the committed inputs of each fuzz target, as few as reach nearly all.
//!
//! libFuzzer writes down what each input reaches: its features, which are branches of the code, each with
//! how often it was taken, in eight steps. Inputs are chosen one after another, each time the one that
//! adds most to those before it. A new branch counts for as much as eight new features, all that one
//! branch can have: code that is not reached at all is worse than a loop that runs less often.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Keep the inputs of each fuzz target that reach most, and remove the others.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Choose among these too: a directory for each target, as `fuzz/run.sh SECONDS DIR` leaves them.
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
}

/// How many inputs a target keeps at most.
const MOST: usize = 60;

/// How many features a branch can have.
const OF_A_BRANCH: u32 = 8;

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is in a workspace")?;
    let fuzz = root.join("fuzz");
    // As fuzz/run.sh builds them.
    if !fuzzer(&fuzz, &["build", "--no-trace-compares"]).status()?.success() {
        bail!("cargo fuzz build");
    }
    for target in targets(&fuzz)? {
        let corpus = fuzz.join("corpus").join(&target);
        fs::create_dir_all(&corpus)?;
        let mut from = vec![corpus.clone()];
        from.extend(arguments.from.iter().map(|more| more.join(&target)).filter(|at| at.is_dir()));
        let inputs = reached(&fuzz, &target, &from)?;
        let chosen = choose(&inputs);
        let kept: HashSet<_> = chosen.iter().filter_map(|input| input.path.file_name()).collect();
        for input in &chosen {
            let name = input.path.file_name().context("an input is a file")?;
            if input.path.parent() != Some(&corpus) {
                fs::copy(&input.path, corpus.join(name))?;
            }
        }
        for path in files(&corpus)? {
            if path.file_name().is_none_or(|name| !kept.contains(name)) {
                fs::remove_file(path)?;
            }
        }
        let (all, left) = (Reached::by(&inputs), Reached::by(chosen.iter().copied()));
        println!(
            "{target}: {} of {} inputs, {} of {} features, {} of {} branches",
            chosen.len(),
            inputs.len(),
            left.features.len(),
            all.features.len(),
            left.branches.len(),
            all.branches.len(),
        );
    }
    Ok(())
}

fn fuzzer(fuzz: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(["+nightly", "fuzz"]).args(arguments).current_dir(fuzz);
    command
}

/// The names of the fuzz targets.
fn targets(fuzz: &Path) -> Result<Vec<String>> {
    let output = fuzzer(fuzz, &["list"]).output().context("cargo +nightly fuzz list")?;
    if !output.status.success() {
        bail!("cargo fuzz list: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

/// The files in a directory, by name.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        files.push(entry?.path());
    }
    files.sort_unstable();
    Ok(files)
}

/// An input, and what it reaches.
struct Input {
    path: PathBuf,
    bytes: u64,
    features: HashSet<u32>,
}

/// Runs a target once over all inputs in `from`, each name once.
fn reached(fuzz: &Path, target: &str, from: &[PathBuf]) -> Result<Vec<Input>> {
    let named = from.iter().map(|directory| files(directory)).collect::<Result<Vec<_>>>()?;
    let named: BTreeMap<_, _> = named
        .into_iter()
        .rev()
        .flatten()
        .map(|path| (path.file_name().map(ToOwned::to_owned), path))
        .collect();
    let scratch = tempfile::tempdir()?;
    let (inputs, merged) = (scratch.path().join("inputs"), scratch.path().join("merged"));
    fs::create_dir(&inputs)?;
    fs::create_dir(&merged)?;
    for (name, path) in &named {
        fs::copy(path, inputs.join(name.as_ref().context("an input is a file")?))?;
    }
    let control = scratch.path().join("control");
    // A merge by set cover writes down all features of each input, any other only new ones.
    let output = fuzzer(fuzz, &["run", "--no-trace-compares", target])
        .args([&merged, &inputs])
        .args(["--", "-set_cover_merge=1", "-rss_limit_mb=4096", "-timeout=60"])
        .arg(format!("-merge_control_file={}", control.display()))
        .output()?;
    if !output.status.success() {
        bail!("{target}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let control = fs::read_to_string(&control).context("what libFuzzer wrote of its merge")?;
    let mut found = Vec::new();
    for (name, features) in features(&control)? {
        let name = Path::new(name).file_name().map(ToOwned::to_owned);
        let path = named.get(&name).with_context(|| format!("{name:?} is no input"))?.clone();
        let bytes = path.metadata()?.len();
        let features = features.with_context(|| {
            format!("{} is a fault: it belongs into fuzz/crashes, with its mend", path.display())
        })?;
        found.push(Input { path, bytes, features });
    }
    // Equal ones are told apart by size, then by name.
    found.sort_unstable_by(|a, b| (a.bytes, &a.path).cmp(&(b.bytes, &b.path)));
    Ok(found)
}

/// An input's path, and its features if it did not fail.
type Told<'a> = (&'a str, Option<HashSet<u32>>);

/// Reads the control file of a merge: each input's path, and its features if it did not fail.
///
/// First stands how many inputs there are, how many were merged before, and the paths, a line each; then
/// for input `n` the lines `STARTED n SIZE`, `FT n FEATURE...` and `COV n BRANCH...`.
fn features(control: &str) -> Result<Vec<Told<'_>>> {
    let mut lines = control.lines();
    let count: usize = lines.next().context("how many inputs there are")?.parse()?;
    lines.next().context("how many inputs there were before")?;
    let mut inputs: Vec<_> = lines.by_ref().take(count).map(|path| (path, None)).collect();
    for line in lines {
        let mut words = line.split(' ').filter(|word| !word.is_empty());
        if words.next() == Some("FT") {
            let input: usize = words.next().context("an input's number")?.parse()?;
            let features = words.map(str::parse).collect::<Result<_, _>>()?;
            inputs.get_mut(input).context("an input's number")?.1 = Some(features);
        }
    }
    Ok(inputs)
}

/// What some inputs reach together.
#[derive(Default)]
struct Reached {
    features: HashSet<u32>,
    branches: HashSet<u32>,
}

impl Reached {
    fn by<'a>(inputs: impl IntoIterator<Item = &'a Input>) -> Self {
        let mut reached = Self::default();
        inputs.into_iter().for_each(|input| reached.add(input));
        reached
    }

    fn add(&mut self, input: &Input) {
        self.features.extend(&input.features);
        self.branches.extend(input.features.iter().map(|feature| feature / OF_A_BRANCH));
    }

    /// What an input would add: its new features, and eight for each new branch.
    fn gain(&self, input: &Input) -> usize {
        let new: Vec<u32> = input.features.difference(&self.features).copied().collect();
        let branches: HashSet<u32> = new.iter().map(|feature| feature / OF_A_BRANCH).collect();
        new.len() + OF_A_BRANCH as usize * branches.difference(&self.branches).count()
    }
}

/// Returns at most [`MOST`] of the inputs, each of which adds something to those before it.
fn choose(inputs: &[Input]) -> Vec<&Input> {
    let mut reached = Reached::default();
    let mut chosen = Vec::new();
    while chosen.len() < MOST {
        // Of equal ones the first.
        let best = inputs.iter().rev().map(|input| (reached.gain(input), input));
        let Some((1.., best)) = best.max_by_key(|(gain, _)| *gain) else { break };
        reached.add(best);
        chosen.push(best);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(name: &str, features: &[u32]) -> Input {
        Input { path: name.into(), bytes: 1, features: features.iter().copied().collect() }
    }

    fn names<'a>(inputs: &[&'a Input]) -> Vec<&'a str> {
        inputs.iter().map(|input| input.path.to_str().expect("ASCII")).collect()
    }

    #[test]
    fn an_input_that_adds_nothing_is_left_out() {
        let inputs =
            [input("a", &[1, 2]), input("b", &[1, 2, 3]), input("c", &[2, 3]), input("d", &[])];
        assert_eq!(names(&choose(&inputs)), ["b"]);
        let inputs = [input("a", &[1]), input("b", &[1])];
        assert_eq!(names(&choose(&inputs)), ["a"]);
    }

    #[test]
    fn a_branch_counts_for_more_than_how_often_it_was_taken() {
        // Seven features of one branch, and one of each of two.
        let inputs = [input("often", &[0, 1, 2, 3, 4, 5, 6]), input("far", &[8, 16])];
        assert_eq!(names(&choose(&inputs)), ["far", "often"]);
    }

    #[test]
    fn no_more_are_kept_than_that() {
        let inputs: Vec<Input> =
            (0..100).map(|n| input(&n.to_string(), &[n * OF_A_BRANCH])).collect();
        assert_eq!(choose(&inputs).len(), MOST);
    }

    #[test]
    fn an_input_that_failed_has_no_features() {
        let control = "2\n0\n/in/a\n/in/b\nSTARTED 0 5\nFT 0  1 22 \nCOV 0 7\nSTARTED 1 9\n";
        let read = features(control).expect("a control file");
        assert_eq!(read, [("/in/a", Some([1, 22].into())), ("/in/b", None)]);
        assert!(features("2\n0\n/in/a\n/in/b\nFT 2 1\n").is_err());
    }

    #[test]
    fn no_target_has_more_inputs_than_are_kept() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        for target in files(&corpus).expect("fuzz/corpus is there") {
            let count = files(&target).expect("a directory for each target").len();
            assert!(
                (1..=MOST).contains(&count),
                "{}: {count} inputs, at most {MOST} are kept; `cargo xtask corpus` chooses them",
                target.display()
            );
        }
    }
}
