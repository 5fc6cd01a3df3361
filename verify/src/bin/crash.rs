//! Old kernels, ended by force: see `heirloom_verify::crash`.
//!
//! ```text
//! crash kills [COUNT [SEED]]
//! crash stepping [STRIDE [SCRIPT [FROM [STOPS]]]]     in a build that counts stores
//! crash takeover [STRIDE [PAIRS [CHAINS [SEED]]]]     the same
//! crash containers [STRIDE]                           the same
//! crash containers [KILLS [SEED]]                     in any other build
//! ```

use std::process::ExitCode;

use heirloom_verify::crash::{
    Chains, Containers, Failure, Kills, Stepping, containers, kills, stepping, successor, takeover,
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let number = |at: usize, otherwise: u64| {
        arguments.get(at).map_or(Ok(otherwise), |number| number.parse::<u64>())
    };
    let program = std::env::current_exe()?;
    let program = Some(program.as_path());
    match arguments.first() {
        Some(&"kills") => kills(&Kills { count: number(1, 500)?, seed: number(2, 1)?, program }),
        Some(&"stepping") => stepping(&Stepping {
            stride: number(1, 1)?,
            script: arguments.get(2).copied().filter(|name| *name != "all"),
            from: number(3, 0)?,
            stops: number(4, u64::MAX)?,
            program,
        }),
        Some(&"takeover") => takeover(&Chains {
            stride: number(1, 1)?,
            pairs: number(2, 1)?,
            random: number(3, 40)?,
            seed: number(4, 1)?,
        }),
        Some(&"containers") => containers(&Containers {
            stride: number(1, 1)?,
            kills: number(1, 100)?,
            seed: number(2, 1)?,
        }),
        Some(&"successor") => {
            let [_, arena, journal] = arguments[..] else { return Err("two descriptors".into()) };
            // SAFETY: nothing was opened yet; these two the process was born with.
            unsafe { successor(arena.parse()?, journal.parse()?) }
        }
        _ => Err("crash kills [COUNT [SEED]] | crash stepping [STRIDE [SCRIPT [FROM [STOPS]]]] \
                 | crash takeover [STRIDE [PAIRS [CHAINS [SEED]]]] | crash containers [STRIDE] \
                 | crash containers [KILLS [SEED]]"
            .into()),
    }
}
