//! How far it is, for a waiting user.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Below this many bytes the user does not wait.
const LARGE: u64 = 1 << 30;

/// A bar for `bytes` bytes: on standard error, if that is a terminal and there is much to do.
pub(crate) fn bar(what: &'static str, bytes: u64) -> ProgressBar {
    let target = if bytes < LARGE {
        ProgressDrawTarget::hidden()
    } else {
        // Hidden where it is no terminal.
        ProgressDrawTarget::stderr()
    };
    let bar = ProgressBar::with_draw_target(Some(bytes), target);
    let style = ProgressStyle::with_template(
        "{msg} [{bar:40}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
    );
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.with_message(what)
}

/// So many bytes more than it was made for.
pub(crate) fn grow(bar: &ProgressBar, bytes: u64) {
    bar.inc_length(bytes);
    if bar.is_hidden() && bar.length().is_some_and(|all| all >= LARGE) {
        bar.set_draw_target(ProgressDrawTarget::stderr());
    }
}
