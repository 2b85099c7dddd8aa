//! The metrics of two processes of one node as one text: during an upgrade the old one relays what
//! it has.

use std::collections::HashMap;
use std::fmt::{self, Write};

use super::families::Families;

/// State of the process before this one.
#[derive(Clone, Copy, Debug)]
pub struct PredecessorGauges {
    /// It has not ended.
    pub is_there: bool,
    /// It does not follow, and is made to end.
    pub is_lost: bool,
    /// How often that has come.
    pub losses: u64,
}

pub(super) fn encode_predecessor(
    earlier: Option<PredecessorGauges>,
    out: &mut Families<'_>,
) -> fmt::Result {
    let Some(earlier) = earlier else {
        return Ok(());
    };
    out.gauge(
        "predecessor",
        "1 while the process before this one finishes its tunnels",
        u64::from(earlier.is_there),
    )?;
    out.gauge(
        "predecessor_lost",
        "1 while that process does not follow this one, and is made to end",
        u64::from(earlier.is_lost),
    )?;
    out.counter(
        "predecessor_losses",
        "Times that the process before this one had to be made to end",
        earlier.losses,
    )
}

/// Puts the samples of another process's text, each with the label `process`, behind those that
/// `own` has of the same family, where OpenMetrics wants them. Samples that have that label already
/// are those of a process before that one. Families that `own` does not have are left out.
#[must_use]
pub fn with_process(own: &str, other: &str, process: u32) -> String {
    let mut samples: HashMap<&str, String> = HashMap::new();
    let mut family = "";
    for line in other.lines() {
        match family_of(line) {
            Some(next) => family = next,
            None if !line.starts_with('#') && !family.is_empty() => {
                let text = samples.entry(family).or_default();
                // Writing to a String cannot fail.
                let _ = labelled(text, line, process);
            }
            None => {}
        }
    }
    let mut merged = String::with_capacity(own.len() + other.len());
    let mut family = "";
    for line in own.lines() {
        let next = family_of(line);
        if next.is_some_and(|next| next != family) || line == "# EOF" {
            merged.push_str(samples.remove(family).as_deref().unwrap_or_default());
            family = next.unwrap_or_default();
        }
        merged.push_str(line);
        merged.push('\n');
    }
    merged
}

/// The family whose description this line is a part of.
fn family_of(line: &str) -> Option<&str> {
    let words = line.strip_prefix("# ")?;
    let (kind, rest) = words.split_once(' ')?;
    ["HELP", "TYPE", "UNIT"]
        .contains(&kind)
        .then(|| rest.split(' ').next().unwrap_or(rest))
}

fn labelled(text: &mut String, line: &str, process: u32) -> fmt::Result {
    const LABEL: &str = "process=";
    let at = line.find(['{', ' ']).unwrap_or(line.len());
    let (name, rest) = line.split_at(at);
    match rest.strip_prefix('{') {
        Some(labels) if labels.starts_with(LABEL) => writeln!(text, "{line}"),
        Some(labels) => writeln!(text, "{name}{{{LABEL}\"{process}\",{labels}"),
        None => writeln!(text, "{name}{{{LABEL}\"{process}\"}}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_stand_with_their_family() {
        let own = "# HELP a First.\n# TYPE a counter\na_total 1\n# HELP b Second.\n# TYPE b gauge\n\
                   b{x=\"1\"} 2\nb{x=\"2\"} 3\n# EOF\n";
        let other = "# HELP b Second.\n# TYPE b gauge\nb{x=\"1\"} 4\nb{process=\"7\",x=\"1\"} 5\n\
                     # HELP a First.\n# TYPE a counter\na_total 6\n# TYPE c gauge\nc 1\n# EOF\n";
        assert_eq!(
            with_process(own, other, 8),
            "# HELP a First.\n# TYPE a counter\na_total 1\na_total{process=\"8\"} 6\n\
             # HELP b Second.\n# TYPE b gauge\nb{x=\"1\"} 2\nb{x=\"2\"} 3\n\
             b{process=\"8\",x=\"1\"} 4\nb{process=\"7\",x=\"1\"} 5\n# EOF\n"
        );
        assert_eq!(with_process(own, "", 8), own);
        assert_eq!(with_process(own, "cut {", 8), own);
    }
}
