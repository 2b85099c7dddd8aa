//! Output of `adit profile`: tables, differences, JSON.

use std::fmt::Write;
use std::time::Duration;

use similar::TextDiff;

use crate::profiles::{Overview, StoredProfile, VersionInfo};

/// How long a difference is made smaller; a larger one is right, too.
const DIFF_EFFORT: Duration = Duration::from_secs(2);

/// The profiles of a store, one a line; the assigned one has a star.
pub(super) fn table(overview: &Overview) -> String {
    let mut rows = vec![["", "NAME", "VERSION", "KEPT", "WHEN", "WHO"].map(str::to_owned)];
    for profile in &overview.profiles {
        let is_assigned = overview.assigned.as_deref() == Some(&profile.name);
        rows.push([
            if is_assigned { "*" } else { "" }.to_owned(),
            profile.name.clone(),
            profile.version.to_string(),
            profile.versions.to_string(),
            profile.when.clone(),
            profile.who.clone(),
        ]);
    }
    columns(&rows)
}

/// The versions of a profile, the newest first, one a line.
pub(super) fn versions(history: &[VersionInfo]) -> String {
    let mut rows = vec![["VERSION", "WHEN", "WHO", "NOTE"].map(str::to_owned)];
    for entry in history {
        rows.push([
            entry.version.to_string(),
            entry.when.clone(),
            entry.who.clone(),
            entry.note.clone(),
        ]);
    }
    columns(&rows)
}

/// Rows with their columns below each other.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // Into memory: it cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A version, as the two lines above a difference name it.
pub(super) fn title(stored: &StoredProfile) -> String {
    let StoredProfile {
        name,
        version,
        who,
        when,
        ..
    } = stored;
    format!("{name} version {version}\t{when} by {who}")
}

/// Returns what is different, in the unified format (GNU diffutils); empty where nothing is.
pub(super) fn difference(from: (&str, &str), to: (&str, &str)) -> String {
    let mut config = TextDiff::configure();
    let diff = config.timeout(DIFF_EFFORT).diff_lines(from.1, to.1);
    let mut unified = diff.unified_diff();
    unified.context_radius(3).header(from.0, to.0).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profiles::Summary;

    #[test]
    fn columns_stand_below_each_other() {
        let profile = |name: &str, version| Summary {
            name: name.to_owned(),
            version,
            versions: 1,
            who: "ann (uid 1)".to_owned(),
            when: "2026-01-02T03:04:05Z".to_owned(),
        };
        let overview = Overview {
            assigned: Some("lab".to_owned()),
            profiles: vec![profile("corporation", 12), profile("lab", 3)],
        };
        assert_eq!(
            table(&overview),
            "   NAME         VERSION  KEPT  WHEN                  WHO\n   \
                corporation  12       1     2026-01-02T03:04:05Z  ann (uid 1)\n\
             *  lab          3        1     2026-01-02T03:04:05Z  ann (uid 1)\n"
        );
    }

    #[test]
    fn a_difference_is_what_patch_takes() {
        let old = "a\nb\nc\nd\ne\nf\n";
        let new = "a\nb\nc\nd\nE\nf";
        let said = difference(("corp version 1", old), ("new.toml", new));
        assert_eq!(
            said,
            "--- corp version 1\n+++ new.toml\n@@ -2,5 +2,5 @@\n b\n c\n d\n-e\n-f\n+E\n+f\n\
             \\ No newline at end of file\n"
        );
        assert_eq!(difference(("a", old), ("b", old)), "");
        // As large as a profile may be, and nothing in common.
        let lines = |word: &str| {
            (0..100_000)
                .map(|n| format!("{word} {n}\n"))
                .collect::<String>()
        };
        let said = difference(("a", &lines("old")), ("b", &lines("new")));
        assert_eq!(said.lines().count(), 200_003);
    }
}
