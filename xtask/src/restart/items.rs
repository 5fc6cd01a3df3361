//! The items: what each is, which version of it a server acknowledged, and whether that is what it has.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use heirloom_testkit::{Rng, mix};

use super::client::{Answer, Client, Op};
use super::place::processor_time;

/// Bytes of a key.
const KEY: usize = 16;

/// Requests of the measure of reading.
const READS: usize = 500_000;

/// How often reading is measured. The best counts, as other programs run beside it.
const ROUNDS: usize = 5;

/// What is known of all items. Version 0 is none.
pub(super) struct Items {
    /// The version of each that was acknowledged last, and the one that was asked for last.
    acknowledged: Vec<u16>,
    asked: Vec<u16>,
}

/// How fast a server reads.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Speed {
    /// Requests in a second.
    pub(super) rate: u64,
    /// The server's processor time for a request, in nanoseconds.
    pub(super) processor: u64,
}

impl Items {
    pub(super) fn new(count: usize) -> Self {
        Self { acknowledged: vec![0; count], asked: vec![0; count] }
    }

    pub(super) fn count(&self) -> usize {
        self.asked.len()
    }

    /// Returns the bytes of all keys and values of the first version.
    pub(super) fn bytes(&self) -> u64 {
        (0..self.count()).map(|item| (KEY + length(item, 1)) as u64).sum()
    }

    /// Takes note that a version of an item is asked for, and returns it.
    pub(super) fn next(&mut self, item: usize) -> Op {
        self.asked[item] += 1;
        Op::Set(item, self.asked[item])
    }

    /// Takes note of an answer: an item that was stored.
    pub(super) fn stored(&mut self, item: usize, version: u16) {
        self.acknowledged[item] = version;
    }

    /// Stores all items. Returns how many in a second.
    pub(super) fn fill(&mut self, client: &mut Client) -> Result<u64> {
        let began = Instant::now();
        let mut stored = 0;
        client.run((0..self.count()).map(|item| Op::Set(item, 1)), |_, answer| {
            stored += usize::from(matches!(answer, Answer::Stored));
        })?;
        let rate = per_second(self.count(), began.elapsed());
        ensure!(stored == self.count(), "of {} items {stored} were stored", self.count());
        self.acknowledged.fill(1);
        self.asked.fill(1);
        Ok(rate)
    }

    /// Reads items at random. Returns how many in a second, in the best of several rounds.
    pub(super) fn read(&self, client: &mut Client, pid: u32) -> Result<Speed> {
        let (mut best, mut random, mut missing) = (Speed::default(), Rng::new(1), 0);
        for _ in 0..ROUNDS {
            let (began, before) = (Instant::now(), processor_time(pid)?);
            let ops = (0..READS).map(|_| Op::Get(random.index(self.count())));
            client.run(ops, |_, answer| {
                missing += usize::from(!matches!(answer, Answer::Value(_)));
            })?;
            let rate = per_second(READS, began.elapsed());
            let used = processor_time(pid)?.saturating_sub(before);
            let processor = (used.as_nanos() / READS as u128) as u64;
            if rate > best.rate {
                best = Speed { rate, processor };
            }
        }
        ensure!(missing == 0, "{missing} items were read and are not there");
        Ok(best)
    }

    /// Reads all items. Returns how many are not there as they were acknowledged, and goes on with what is there.
    pub(super) fn check(&mut self, client: &mut Client) -> Result<usize> {
        let (mut lost, mut strange) = (0, None);
        let Self { acknowledged, asked } = self;
        let mut expected = Vec::new();
        client.run((0..asked.len()).map(Op::Get), |op, answer| {
            let Op::Get(item) = op else { return };
            let found = match answer {
                Answer::Value(value) => {
                    let version = version(value);
                    write(item, version, &mut expected);
                    if expected != value || version > asked[item] {
                        strange = Some(item);
                    }
                    version
                }
                _ => 0,
            };
            lost += usize::from(found < acknowledged[item]);
            (acknowledged[item], asked[item]) = (found, found);
        })?;
        ensure!(strange.is_none(), "what item {strange:?} has was never asked for");
        Ok(lost)
    }
}

/// Returns how many that are in a second.
fn per_second(count: usize, time: Duration) -> u64 {
    (count as u128 * 1_000_000_000 / time.as_nanos().max(1)) as u64
}

/// Returns the bytes of a version's value: 16 to 200.
fn length(item: usize, version: u16) -> usize {
    16 + (mix((item as u64) << 16 | u64::from(version)) % 185) as usize
}

/// Writes an item's key.
pub(super) fn key(item: usize) -> [u8; KEY] {
    let mut key = *b"key:000000000000";
    let mut rest = item;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// Writes a version of an item's value: both numbers, and bytes that follow from them.
pub(super) fn write(item: usize, version: u16, to: &mut Vec<u8>) {
    to.clear();
    to.extend_from_slice(&(item as u64).to_le_bytes());
    to.extend_from_slice(&u64::from(version).to_le_bytes());
    to.resize(length(item, version), b'a' + ((item as u64 + u64::from(version)) % 26) as u8);
}

/// Returns the version that a value says it is.
fn version(value: &[u8]) -> u16 {
    let version = value.get(8..16).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    version.and_then(|version| version.try_into().ok()).context("").unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_tells_its_item_and_its_version() {
        let mut value = Vec::new();
        for item in [0, 1, 99, 12_345_678] {
            for number in [1, 2, 700] {
                write(item, number, &mut value);
                assert_eq!(version(&value), number);
                assert!((16..=200).contains(&value.len()));
            }
        }
        assert_eq!(&key(1_234_567), b"key:000001234567");
        assert_eq!(version(b"short"), u16::MAX);
    }
}
