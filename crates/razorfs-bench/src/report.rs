//! Tables and JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::measures::{BOUNDS, Bound, Limit, MEASURES, Measure, Sizes, Unit};
use crate::runner::{Outcome, Plan, Samples, State};
use crate::source::Found;
use crate::target::Kind;

/// The machine and the day.
pub struct Scene {
    /// In words.
    pub machine: String,
    /// The kernel's release.
    pub kernel: String,
    /// The day.
    pub date: String,
    /// What the targets stand on, and what could not be done.
    pub notes: Vec<String>,
    /// The tree of W7.
    pub tree: Found,
}

/// Prints what was measured of a tree of so many files, each with its unit, as a table or as JSON.
pub fn figures(files: u64, all: &[(&str, f64)], as_json: bool) {
    if as_json {
        let pair = |(what, value): &(&str, f64)| json!({"what": what, "value": value});
        let all: Vec<_> = all.iter().map(pair).collect();
        println!("{:#}", json!({"files": files, "figures": all}));
        return;
    }
    println!("| {files} files | |\n|---|---|");
    for (what, value) in all {
        println!("| {what} | {value:.2} |");
    }
}

/// The middle one, the least and the most.
fn spread(values: &[f64]) -> Option<(f64, f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (&low, &high) = (sorted.first()?, sorted.last()?);
    let half = sorted.len() / 2;
    let upper = *sorted.get(half)?;
    let lower = *sorted.get(half.saturating_sub(1))?;
    let median = if sorted.len().is_multiple_of(2) {
        f64::midpoint(lower, upper)
    } else {
        upper
    };
    Some((median, low, high))
}

fn median(samples: &Samples, id: &'static str, target: &'static str) -> Option<f64> {
    spread(samples.get(&(id, target))?).map(|(median, ..)| median)
}

/// What others are compared with: ext4, or where that cannot be mounted the host's directory.
fn rival(samples: &Samples, id: &'static str) -> Option<f64> {
    let ext4 = median(samples, id, Kind::Ext4.name());
    ext4.or_else(|| median(samples, id, Kind::Host.name()))
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 0.1 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

fn cell(samples: &Samples, id: &'static str, target: &'static str) -> String {
    let Some(values) = samples.get(&(id, target)) else {
        return "–".into();
    };
    match spread(values) {
        None => "–".into(),
        Some((median, ..)) if values.len() == 1 => short(median),
        Some((median, low, high)) => {
            format!("{} ({}–{})", short(median), short(low), short(high))
        }
    }
}

fn row_name(measure: &Measure, sizes: &Sizes, tree: &Found) -> String {
    let tree = format!("{} files, {} MB", tree.files, tree.bytes / 1_000_000);
    let name = measure.row.replace("{tree}", &tree);
    let sizes = [
        ("{files}", sizes.files),
        ("{dirs}", sizes.dirs),
        ("{big}", sizes.big),
        ("{many}", sizes.many),
    ];
    sizes
        .iter()
        .fold(name, |name, (key, n)| name.replace(key, &n.to_string()))
}

/// The document for people: one table, then the bounds.
pub fn markdown(plan: &Plan, scene: &Scene, outcome: &Outcome) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{}; Linux {}; {}.",
        scene.machine, scene.kernel, scene.date
    );
    let _ = writeln!(
        text,
        "Medians of {} (least–most); the targets take turns. The final sync counts. Cold: \
         remounted, caches dropped. Awake: the cores are kept from sleeping by threads of idle \
         priority; idle: they are not.",
        plan.repetitions
    );
    for note in scene.notes.iter().chain(&outcome.notes) {
        let _ = writeln!(text, "{note}");
    }
    let _ = writeln!(text);
    table(&mut text, plan, scene, outcome);
    let _ = writeln!(text);
    bounds_table(&mut text, outcome);
    if !outcome.failures.is_empty() {
        let _ = writeln!(text, "\nFailed:\n");
        for failure in &outcome.failures {
            let _ = writeln!(text, "- {failure}");
        }
    }
    text
}

fn table(text: &mut String, plan: &Plan, scene: &Scene, outcome: &Outcome) {
    let _ = write!(text, "| | |");
    for kind in &plan.kinds {
        let _ = write!(text, " {} |", kind.name());
    }
    let _ = writeln!(text, " razorfs : ext4 |");
    let _ = writeln!(text, "|---|---|{}---|", "---|".repeat(plan.kinds.len()));
    for measure in MEASURES {
        let mut name = row_name(measure, &plan.sizes, &scene.tree);
        let _ = write!(name, ", {}", measure.unit.name());
        for (state, samples) in &outcome.samples {
            if !samples.keys().any(|(id, _)| *id == measure.id) {
                continue;
            }
            let _ = write!(text, "| {name} | {} |", state.name());
            name.clear();
            for kind in &plan.kinds {
                let _ = write!(text, " {} |", cell(samples, measure.id, kind.name()));
            }
            let own = [Kind::Razorfs, Kind::Embedded]
                .iter()
                .find_map(|kind| median(samples, measure.id, kind.name()));
            match own.zip(rival(samples, measure.id)) {
                Some((own, rival)) => {
                    let _ = writeln!(text, " {} |", short(own / rival));
                }
                None => {
                    let _ = writeln!(text, " – |");
                }
            }
        }
    }
}

/// Whether a bound holds, and the numbers in words; `None` if it was not measured.
fn judge(bound: &Bound, samples: &Samples) -> Option<(bool, String)> {
    let value = median(samples, bound.id, bound.target)?;
    let rival = rival(samples, bound.id);
    let unit = MEASURES.iter().find(|m| m.id == bound.id);
    let unit = unit.map_or(Unit::Seconds, |m| m.unit).name();
    match bound.limit {
        Limit::AtMost(most) => Some((value <= most, format!("{} {unit}", short(value)))),
        Limit::TimesExt4(most) => {
            let ratio = value / rival?;
            Some((ratio <= most, format!("{} ×", short(ratio))))
        }
        Limit::OfExt4(least) => {
            let ratio = value / rival?;
            Some((ratio >= least, format!("{} ×", short(ratio))))
        }
    }
}

const fn verdict(holds: bool) -> &'static str {
    if holds { "PASS" } else { "FAIL" }
}

fn bounds_table(text: &mut String, outcome: &Outcome) {
    let _ = write!(text, "| bound |");
    for (state, _) in &outcome.samples {
        let _ = write!(text, " {} |", state.name());
    }
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(outcome.samples.len()));
    for bound in BOUNDS {
        let _ = write!(text, "| {} |", bound.says);
        for (_, samples) in &outcome.samples {
            let _ = match judge(bound, samples) {
                Some((holds, numbers)) => write!(text, " {} ({numbers}) |", verdict(holds)),
                None => write!(text, " not measured |"),
            };
        }
        let _ = writeln!(text);
    }
}

const BEGIN: &str = "<!-- bench: begin -->";
const END: &str = "<!-- bench: end -->";

/// Puts the document for people between the marks of another; `None` if it has none.
pub fn put_between(document: &str, text: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{}\n{END}{after}", text.trim()))
}

/// The document for programs.
pub fn document(plan: &Plan, scene: &Scene, outcome: &Outcome) -> Value {
    let states: serde_json::Map<String, Value> = outcome
        .samples
        .iter()
        .map(|(state, samples)| (state.name().into(), of_state(*state, samples)))
        .collect();
    json!({
        "schema": 1,
        "machine": scene.machine,
        "kernel": scene.kernel,
        "date": scene.date,
        "notes": scene.notes.iter().chain(&outcome.notes).collect::<Vec<_>>(),
        "quick": plan.quick,
        "repetitions": plan.repetitions,
        "tree": {"files": scene.tree.files, "dirs": scene.tree.dirs, "bytes": scene.tree.bytes},
        "states": states,
        "failures": outcome.failures,
    })
}

fn of_state(state: State, samples: &Samples) -> Value {
    let mut results = Vec::new();
    for ((id, target), values) in samples {
        let unit = MEASURES.iter().find(|m| m.id == *id).map(|m| m.unit.name());
        if let Some((median, least, most)) = spread(values) {
            results.push(json!({
                "measure": id, "target": target, "unit": unit, "median": median,
                "least": least, "most": most, "runs": values,
            }));
        }
    }
    let bounds = BOUNDS.iter().filter_map(|bound| {
        let (holds, numbers) = judge(bound, samples)?;
        Some(json!({"bound": bound.says, "holds": holds, "value": numbers}))
    });
    json!({
        "spinners": state == State::Awake,
        "results": results,
        "bounds": bounds.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_between_the_least_and_the_most() {
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[3.0]), Some((3.0, 3.0, 3.0)));
        assert_eq!(spread(&[9.0, 1.0, 2.0]), Some((2.0, 1.0, 9.0)));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 8.0]), Some((3.0, 1.0, 8.0)));
    }

    #[test]
    fn bounds_hold_up_to_their_limit() {
        let bound = |id| BOUNDS.iter().find(|b| b.id == id).unwrap();
        let mut samples = Samples::new();
        samples.insert(("w7.unpack", "razorfs"), vec![8.0]);
        assert_eq!(judge(bound("w7.unpack"), &samples), None);
        samples.insert(("w7.unpack", "host"), vec![1.0]);
        assert!(
            !judge(bound("w7.unpack"), &samples).unwrap().0,
            "the host stands in"
        );
        samples.insert(("w7.unpack", "ext4"), vec![2.0]);
        assert!(judge(bound("w7.unpack"), &samples).unwrap().0);
        samples.insert(("w8.write", "razorfs"), vec![69.0]);
        samples.insert(("w8.write", "ext4"), vec![100.0]);
        assert!(!judge(bound("w8.write"), &samples).unwrap().0);
    }

    #[test]
    fn every_bound_is_of_a_measure() {
        for bound in BOUNDS {
            assert!(MEASURES.iter().any(|m| m.id == bound.id), "{}", bound.id);
        }
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let document = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let new = put_between(&document, "new\n").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert_eq!(put_between(&new, "new").unwrap(), new);
        assert_eq!(put_between("no marks", "new"), None);
    }
}
