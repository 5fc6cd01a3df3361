//! What a step took: time that passed, and time of processors.

use std::time::Duration;

/// Ticks of a second in `/proc`, on every architecture (`USER_HZ`).
const TICKS: u64 = 100;

/// What a step took.
#[derive(Clone, Copy, Default)]
pub(super) struct Spent {
    pub(super) wall: Duration,
    /// Of all its processes; `None` where no `/proc` tells.
    pub(super) cpu: Option<Duration>,
}

/// Reads `cutime` and `cstime`, fields 16 and 17, of a `/proc/PID/stat`: what the children took that were
/// waited for, and theirs. See proc(5).
pub(super) fn in_stat(stat: &str) -> Option<Duration> {
    // The second field is the program's name in brackets, with any character in it.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(13);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_millis((ticks()? + ticks()?) * 1000 / TICKS))
}

/// The table of `rows`, the slowest step first, with their sum below.
pub(super) fn table<'a>(rows: impl Iterator<Item = (&'a str, Spent)>) -> String {
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by_key(|(_, spent)| std::cmp::Reverse(spent.wall));
    let mut all = Spent { wall: Duration::ZERO, cpu: Some(Duration::ZERO) };
    for (_, spent) in &rows {
        all.wall += spent.wall;
        all.cpu = all.cpu.zip(spent.cpu).map(|(all, of_one)| all + of_one);
    }
    rows.push(("all", all));
    let seconds = |time: Duration| time.as_secs().to_string();
    let mut lines = vec![format!("{:>7} {:>7}", "seconds", "CPU")];
    lines.extend(rows.iter().map(|(name, spent)| {
        let cpu = spent.cpu.map_or_else(|| "?".to_owned(), seconds);
        format!("{:>7} {cpu:>7}  {name}", seconds(spent.wall))
    }));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_name_may_hold_anything() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 150 25 20 0 1";
        assert_eq!(in_stat(stat), Some(Duration::from_millis(1750)));
        assert_eq!(in_stat("7 (a) S 1 2"), None);
    }

    #[test]
    fn the_slowest_step_stands_first() {
        let spent = |wall, cpu| Spent {
            wall: Duration::from_secs(wall),
            cpu: Some(Duration::from_secs(cpu)),
        };
        let rows = [("bits", spent(7, 13)), ("miri", spent(90, 91))];
        let expected = "\
seconds     CPU
     90      91  miri
      7      13  bits
     97     104  all";
        assert_eq!(table(rows.into_iter()), expected);
    }
}
