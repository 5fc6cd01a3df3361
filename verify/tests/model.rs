//! Random programs over several generations, each step compared with the reference model.
//!
//! `HEIRLOOM_PROGRAMS` programs of `HEIRLOOM_STEPS` steps, the first with the seed
//! `HEIRLOOM_SEED`.

use heirloom_verify::model::{Figures, Setting, run_seed};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Says which program it was.
struct Culprit(Setting);

impl Drop for Culprit {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("with {:?}", self.0);
        }
    }
}

#[test]
fn any_program_does_what_the_model_does() {
    let programs = number("HEIRLOOM_PROGRAMS", 4);
    let steps = number("HEIRLOOM_STEPS", 2000);
    let first = number("HEIRLOOM_SEED", 1);
    let mut all = Figures::default();
    for seed in first..first + programs {
        // Small ones, where memory is short, and such where it is not.
        let frames = [220, 400, 700, 1100][(seed % 4) as usize];
        let setting = Culprit(Setting { seed, frames });
        all.add(&run_seed(setting.0, steps as usize));
    }
    let Figures { steps, generations, made, claimed, resumed, starved, refused, frames, .. } = all;
    println!(
        "model: {programs} programs from seed {first}, {steps} steps, {generations} generations, \
         {made} made, {claimed} claimed, {resumed} resumed, {starved} out of memory, {refused} refused, \
         {frames} frames compared"
    );
    assert!(all.programs == programs && claimed > 0 && starved > 0 && refused > 0);
}
