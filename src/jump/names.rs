//! The environment's variables by which a process is told what it inherits.

/// The variable of the environment that tells a successor what it inherits.
pub const VARIABLE: &str = "HEIRLOOM_HANDOVER";

/// The variable of the environment that names the descriptors that go along.
pub(super) const PASSED: &str = "HEIRLOOM_FDS";

/// The variables that name what a service manager started a process with.
pub(crate) const LISTEN: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// What each value begins with.
pub(super) const VERSION: &str = "v1";
