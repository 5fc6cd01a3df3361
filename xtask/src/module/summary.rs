//! What a console says that came of it.

use std::fmt;

/// What came of lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) lives: u64,
    pub(super) kexecs: u64,
    pub(super) objects: u64,
    pub(super) bytes: u64,
    pub(super) lost: u64,
    /// Lines that tell of one.
    pub(super) faults: Vec<String>,
}

/// What a line has in it that tells of a fault: the subsystem's word, and those of the kernel.
const FAULTS: [&str; 16] = [
    "FAULT ",
    "BUG:",
    "kernel BUG at",
    "WARNING:",
    "Oops",
    "Kernel panic",
    "Call Trace",
    "general protection fault",
    "INFO: possible",
    "INFO: task",
    "INFO: rcu",
    "INFO: inconsistent",
    "KASAN:",
    "suspicious RCU usage",
    "init: failed",
    "Unable to handle",
];

/// What the subsystem says at the end of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    life: u64,
    objects: u64,
    bytes: u64,
    lost: u64,
    sessions: u64,
    faults: u64,
}

impl Summary {
    /// Reads what the lives of one machine say.
    ///
    /// What one says that it leaves and the next does not find is lost.
    pub(super) fn read(console: &str) -> Self {
        let mut sum = Self::default();
        let mut left = 0;
        for line in console.lines() {
            if FAULTS.iter().any(|word| line.contains(word)) {
                sum.faults.push(line.to_owned());
            }
            sum.kexecs += u64::from(line.contains("KHO: exec from: "));
            if let Some(there) = read_begin(line)
                && there != left
            {
                sum.faults.push(format!("{left} sessions were left, {there} are there"));
                sum.lost += 2 * left.abs_diff(there);
            }
            if let Some(end) = End::read(line) {
                sum.lives += 1;
                sum.objects += end.objects;
                sum.bytes += end.bytes;
                sum.lost += end.lost;
                if end.life != sum.lives {
                    sum.faults.push(format!("life {} is called {}", sum.lives, end.life));
                }
                // The lines that tell of them may have been cut short.
                if end.faults > 0 {
                    sum.faults.push(line.to_owned());
                }
                left = end.sessions;
            }
        }
        if left > 0 {
            sum.faults.push(format!("the last life leaves {left} sessions"));
        }
        sum
    }

    /// Adds what came of other lives.
    pub(super) fn add(&mut self, other: &Self) {
        self.lives += other.lives;
        self.kexecs += other.kexecs;
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.lost += other.lost;
        self.faults.extend_from_slice(&other.faults);
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lives, kexecs, objects, bytes, lost, faults } = self;
        let faults = faults.len();
        write!(f, "{lives} lives, {kexecs} kexecs, {objects} objects, {bytes} bytes, ")?;
        write!(f, "{lost} lost, {faults} faults")
    }
}

/// Reads how many sessions a life finds.
fn read_begin(line: &str) -> Option<u64> {
    let line = line.strip_prefix("subsystem: life ")?;
    let (_, there) = line.strip_suffix(" sessions are there")?.rsplit_once(": ")?;
    there.parse().ok()
}

impl End {
    /// Reads `subsystem: life N ends: ...`, and nothing else.
    fn read(line: &str) -> Option<Self> {
        let (number_of_life, rest) =
            line.strip_prefix("subsystem: life ")?.split_once(" ends: ")?;
        let mut parts = rest.split(", ");
        let mut number = |unit| parts.next()?.strip_suffix(unit)?.parse().ok();
        let end = Self {
            life: number_of_life.parse().ok()?,
            objects: number(" objects")?,
            bytes: number(" bytes compared")?,
            lost: number(" lost")?,
            sessions: number(" sessions")?,
            faults: {
                number(" pages preserved")?;
                number(" faults")?
            },
        };
        parts.next().is_none().then_some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "\
subsystem: life 1, generation 0: 0 sessions are there
subsystem: life 1 ends: 0 objects, 0 bytes compared, 0 lost, 50 sessions, 9 pages preserved, 0 faults
init: jumping
KHO: exec from: 7.3.4 (count 1)
subsystem: life 2, generation 1: 50 sessions are there
subsystem: life 2 ends: 100 objects, 777 bytes compared, 0 lost, 0 sessions, 3 pages preserved, 0 faults
";

    #[test]
    fn lives_are_summed_up() {
        let mut sum = Summary::read(TWO);
        assert_eq!(sum.to_string(), "2 lives, 1 kexecs, 100 objects, 777 bytes, 0 lost, 0 faults");
        sum.add(&sum.clone());
        assert_eq!(sum.to_string(), "4 lives, 2 kexecs, 200 objects, 1554 bytes, 0 lost, 0 faults");
    }

    #[test]
    fn what_is_wrong_is_found() {
        let faults = |from, to| {
            assert!(TWO.contains(from), "{from}");
            let sum = Summary::read(&TWO.replacen(from, to, 1));
            (sum.lost, sum.faults.len())
        };
        assert_eq!(faults("0 lost, 0 sessions", "3 lost, 0 sessions"), (3, 0));
        assert_eq!(faults("preserved, 0 faults", "preserved, 2 faults"), (0, 1));
        assert_eq!(faults(": 50 sessions are there", ": 0 sessions are there"), (100, 1));
        assert_eq!(faults("init: jumping", "BUG: scheduling while atomic"), (0, 1));
        assert_eq!(faults("life 2 ends", "life 1 ends"), (0, 1));
        assert_eq!(faults("0 lost, 0 sessions", "0 lost, 4 sessions"), (0, 1));
    }

    #[test]
    fn a_line_that_says_more_or_less_is_none() {
        let end = TWO.lines().last().expect("a line");
        assert!(End::read(end).is_some());
        assert_eq!(End::read(&format!("{end}, 1 more")), None);
        assert_eq!(End::read(end.strip_suffix(", 0 faults").expect("faults")), None);
        assert_eq!(read_begin("subsystem: life 1 ends"), None);
    }
}
