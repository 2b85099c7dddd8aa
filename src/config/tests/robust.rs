//! Texts that nobody would write on purpose.

use proptest::prelude::*;

use super::*;

/// Whatever a text is, it gives a config or problems that can be shown: no panic, no line outside
/// the file, nothing that a terminal would obey.
fn holds(text: &str) {
    let Err(error) = validate::check(text, Path::new("adit.toml"), &cpus(), raw::Part::All) else {
        return;
    };
    assert!(!error.problems.is_empty());
    let lines = text.matches('\n').count() + 1;
    assert!(
        error
            .problems
            .iter()
            .all(|p| p.line.is_none_or(|line| (1..=lines).contains(&line)))
    );
    assert_eq!(
        error.to_string().lines().count(),
        error.problems.len(),
        "{error}"
    );
    assert!(
        !error
            .to_string()
            .contains(|c: char| c.is_control() && c != '\n'),
        "{error:?}"
    );
}

#[test]
fn deep_nesting_is_refused() {
    for open in ["[", "{a=", "a."] {
        let text = format!("x = {}", open.repeat(200_000));
        holds(&text);
        assert!(validate::check(&text, Path::new("adit.toml"), &cpus(), raw::Part::All).is_err());
    }
    holds(&"a.".repeat(200_000));
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "(?s).{0,400}") {
        holds(&text);
    }

    #[test]
    fn toml_like_text_never_panics(text in r#"([a-z_.=\[\]{}",'# \n\t0-9*:/-]|\[\[|"""|profile|engine|\\u00){0,120}"#) {
        holds(&text);
    }

    #[test]
    fn a_damaged_contract_never_panics(
        from in any::<prop::sample::Index>(),
        length in 0usize..40,
        patch in "(?s).{0,20}",
    ) {
        let start = from.index(CONTRACT.len());
        let end = (start + length).min(CONTRACT.len());
        holds(&format!("{}{patch}{}", &CONTRACT[..start], &CONTRACT[end..]));
    }

    #[test]
    fn an_odd_value_never_panics(line in any::<prop::sample::Index>(), value in r#"(-?[0-9]{1,22}|"[^"\\]{0,12}"|\[("[^"\\]{0,6}",?){0,4}\]|true|\{\})"#) {
        let mut lines: Vec<String> = CONTRACT.lines().map(str::to_owned).collect();
        let at = line.index(lines.len());
        if let Some((key, _)) = lines[at].clone().split_once(" = ") {
            lines[at] = format!("{key} = {value}");
        }
        holds(&lines.join("\n"));
    }
}
