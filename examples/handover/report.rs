//! What a generation prints of itself.

use std::fmt;
use std::time::Duration;

/// The figures of one generation.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) generation: u64,
    /// How often the index of the files was published; 0: there is none.
    pub(crate) edition: u64,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) small: u64,
    pub(crate) large: u64,
    pub(crate) areas: u64,
    /// Time in calls that preserve, and how many objects they preserved.
    pub(crate) preserve: Duration,
    pub(crate) preserved: u64,
    pub(crate) revive: Option<Duration>,
    pub(crate) claim: Option<Duration>,
    pub(crate) claimed: u64,
    /// Bytes of metadata: scratch in use, tracker, tables.
    pub(crate) metadata: u64,
    pub(crate) unclaimed: u64,
    pub(crate) leaked: u64,
    pub(crate) lost: u64,
    /// A sum over the paths and checksums of all files, in whatever order.
    pub(crate) sum: u64,
}

const MIB: f64 = 1024.0 * 1024.0;

impl fmt::Display for Report {
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = |time: Duration, count: u64| time.as_nanos() as f64 / count.max(1) as f64;
        let revive = self.revive.map_or("-".into(), |t| format!("{:.2} ms", t.as_secs_f64() * 1e3));
        let claim = self.claim.map_or("-".into(), |t| {
            format!("{:.2} ms, {:.0} ns each", t.as_secs_f64() * 1e3, each(t, self.claimed))
        });
        writeln!(f, "generation {}", self.generation)?;
        let rows = [
            ("edition", self.edition.to_string()),
            ("sum", format!("{:016x}", self.sum)),
            ("files", self.files.to_string()),
            ("bytes", format!("{} ({:.1} MiB)", self.bytes, self.bytes as f64 / MIB)),
            ("small objects", self.small.to_string()),
            ("large buffers", self.large.to_string()),
            ("areas", self.areas.to_string()),
            (
                "preserve",
                format!("{:.0} ns each of {}", each(self.preserve, self.preserved), self.preserved),
            ),
            ("revive", revive),
            ("claim", claim),
            ("peak metadata", format!("{:.2} MiB", self.metadata as f64 / MIB)),
            ("unclaimed", self.unclaimed.to_string()),
            ("lost", self.lost.to_string()),
            ("leaked", format!("{} frames", self.leaked)),
        ];
        for (name, value) in rows {
            writeln!(f, "  {name:<14} {value}")?;
        }
        Ok(())
    }
}
