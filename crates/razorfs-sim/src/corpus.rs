//! The runs that failed once.

use std::process::ExitCode;

use razorfs_sim::farm::{self, Plan};
use razorfs_sim::repairs;
use razorfs_sim::run::Mode;
use razorfs_sim::setup::Choice;

/// The runs that failed once.
pub fn run(plan: &Plan) -> ExitCode {
    let mut failed = 0;
    let mut runs = 0;
    let lines = include_str!("../corpus").lines();
    for line in lines.filter(|line| !line.starts_with('#')) {
        let (mode, seed) = line.split_once(' ').unwrap_or_default();
        let (seed, has) = seed.split_once(' ').unwrap_or((seed, ""));
        let Ok(seed) = seed.parse() else {
            println!("corpus: {line} is not a mode and a seed");
            return ExitCode::from(2);
        };
        if mode == "repair" {
            runs += 1;
            failed += u64::from(!mended(seed, has));
            continue;
        }
        let mode = match mode {
            "cuts" => Mode::Cuts,
            "deaths" => Mode::Deaths,
            "faults" => Mode::Faults,
            _ => {
                println!("corpus: {line} is not a mode and a seed");
                return ExitCode::from(2);
            }
        };
        // They failed when there was one copy of the journal, and most before there were snapshots.
        let choice = Choice {
            copies: Some(1),
            ..having(has)
        };
        let plan = Plan {
            mode,
            choice,
            ..*plan
        };
        let report = plan.run(seed);
        runs += 1;
        if let Some(failure) = &report.failure {
            println!("{}\n", farm::finding(&plan, seed, &report, failure));
            failed += 1;
        }
    }
    println!("corpus: {runs} runs, failures: {failed}");
    ExitCode::from(u8::from(failed > 0))
}

/// Nothing of what joined later than a run, but for what its words say. Branches were never without
/// snapshots, nor commits without branches.
fn having(words: &str) -> Choice {
    let has = |word| words.split(' ').any(|w| w == word);
    let merges = has("merges");
    let branches = merges || has("branches");
    Choice {
        copies: None,
        snapshots: Some(branches || has("snapshots")),
        branches: Some(branches),
        merges: Some(merges),
        streams: Some(has("streams")),
        moments: Some(has("moments")),
    }
}

/// Repairs of a volume of which one failed once; whether none does.
fn mended(seed: u64, has: &str) -> bool {
    let effort = repairs::Effort {
        plants: 40,
        cuts: 4,
        choice: having(has),
    };
    let summary = repairs::run_seed(seed, effort);
    for failure in &summary.failures {
        println!("FAILURE {failure}\n");
    }
    summary.failures.is_empty()
}
