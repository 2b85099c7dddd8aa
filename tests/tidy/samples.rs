//! Each heuristic on what it must accept and on what it must refuse.

use std::path::Path;

use crate::text::blank;
use crate::*;

fn sample(path: &str, text: &str) -> Source {
    Source::new(path, text.to_owned())
}

/// The lines, from 1, on which the rule finds something.
fn lines(findings: &[Finding]) -> Vec<usize> {
    findings.iter().map(|finding| finding.line).collect()
}

#[test]
fn blanking_keeps_code_and_line_breaks() {
    let text = "a(\"x // \\\" y\", r#\"z\" /* \"#, '\"', '\\'', 'b); // c\n/* d /* e */\nf */ fn g<'h>() {}";
    let code = blank(text, true);
    assert_eq!(code.len(), text.len());
    assert_eq!(code.matches('\n').count(), 2);
    let left: Vec<&str> = code.split_whitespace().collect();
    assert_eq!(
        left,
        ["a(", ",", ",", ",", ",", "'b);", "fn", "g<'h>()", "{}"]
    );
    assert!(
        blank(text, false).contains("x // "),
        "literals stay when only comments go"
    );
    assert!(!blank(text, false).contains("d /* e"));
}

#[test]
fn unit_tests_elsewhere_are_seen() {
    let here = "fn f() {}\n#[cfg(test)]\nmod tests;\n// #[path = \"g_tests.rs\"]\n";
    assert!(layout_findings(&sample("src/tls/a.rs", here)).is_empty());
    assert!(layout_findings(&sample("src/tls/a/tests.rs", "")).is_empty());
    let beside = "#[cfg(test)]\n#[path = \"a_tests.rs\"]\nmod tests;\n";
    assert_eq!(
        lines(&layout_findings(&sample("src/tls/a.rs", beside))),
        [2]
    );
    assert_eq!(
        lines(&layout_findings(&sample("src/tls/a_tests.rs", ""))),
        [1]
    );
}

#[test]
fn dependencies_are_seen_in_paths_and_groups() {
    let upwards =
        "use crate::limits::A;\nuse crate::{limits, observe::{B, tunnel}};\n// crate::tunnel\n";
    assert!(dependency_findings(&sample("src/tls/mod.rs", upwards)).is_empty());
    let downwards = "use crate::tunnel::A;\nuse crate::{\n    limits,\n    engine::B,\n};\nfn f() { crate::load::g() }\n";
    assert_eq!(
        lines(&dependency_findings(&sample("src/tls/mod.rs", downwards))),
        [1, 4, 6]
    );
    assert!(dependency_findings(&sample("src/main.rs", downwards)).is_empty());
    let climbing = "use super::super::tunnel::A;\nuse super::super::super::tunnel::B;\n";
    for (path, found) in [("src/tls/a.rs", 1), ("src/tls/crl/a.rs", 2)] {
        assert_eq!(
            lines(&dependency_findings(&sample(path, climbing))),
            [found]
        );
    }
    assert!(dependency_findings(&sample("src/cli.rs", "use crate::quickstart::run;")).is_empty());
    let in_tests = "use crate::lab::A;\n#[cfg(test)]\nmod tests {\n    use crate::lab::B;\n    use crate::load::C;\n}\n";
    for (path, found) in [("src/tls/a.rs", &[1, 5][..]), ("src/tls/tests.rs", &[5])] {
        let findings = dependency_findings(&sample(path, in_tests));
        assert_eq!(lines(&findings), found, "{path}");
    }
    assert_eq!(
        lines(&dependency_findings(&sample("src/shed/mod.rs", ""))),
        [1],
        "an unknown room"
    );
}

#[test]
fn lengths_are_counted_from_fn_to_its_brace() {
    let code = "pub(in crate::a) const unsafe fn one(x: [u8; 2]) {\n    if x { y }\n}\ntrait T {\n    fn two(&self);\n}\n\
                extern \"C\" fn three() {}\nlet fn_ = 1;\n";
    let found = functions(&blank(code, true));
    assert_eq!(
        found,
        [(1, "one".to_owned(), 3), (7, "three".to_owned(), 1)]
    );

    let body = |lines: usize| format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2));
    assert!(length_findings(&sample("src/tls/a.rs", &body(MAX_FUNCTION_LINES))).is_empty());
    assert_eq!(
        lines(&length_findings(&sample(
            "src/tls/a.rs",
            &body(MAX_FUNCTION_LINES + 1)
        ))),
        [1]
    );
    assert!(length_findings(&sample("src/tls/a.rs", &"\n".repeat(MAX_FILE_LINES))).is_empty());
    let long = length_findings(&sample("src/tls/a.rs", &"\n".repeat(MAX_FILE_LINES + 1)));
    assert_eq!(lines(&long), [MAX_FILE_LINES + 1]);
}

#[test]
fn unsafe_needs_its_room_and_its_comment() {
    let argued = "// SAFETY: the buffer outlives the operation,\n// see `Slot`.\n#[cold]\nlet x =\n    unsafe { a() };\n\
                  // SAFETY: b is Send\nunsafe impl Send for B {}\nunsafe fn c() {}\n";
    assert!(unsafe_findings(&sample("src/ring/a.rs", argued)).is_empty());
    let bare = "// SAFETY: for d only\nd();\nunsafe { e() };\n\nunsafe impl Send for F {}\nlet g = \"unsafe {\";\n";
    assert_eq!(
        lines(&unsafe_findings(&sample("src/ring/a.rs", bare))),
        [3, 5]
    );
    assert_eq!(
        lines(&unsafe_findings(&sample("src/tls/a.rs", argued))),
        [5, 7, 8]
    );
}

#[test]
fn io_uring_is_told_from_tokio_uring() {
    let code = "use tokio_uring::net;\nuse io_uring::opcode;\n";
    assert_eq!(
        lines(&io_uring_findings(&sample("src/control/mod.rs", code))),
        [2]
    );
    assert!(io_uring_findings(&sample("src/ring/driver.rs", code)).is_empty());
}

#[test]
fn metrics_are_compared_both_ways() {
    let text = "// counter(\"old\")\nout.gauge(\n    \"tunnels\",\n);\nout.counter(\"bytes\", \"Bytes\");\n\
                #[cfg(test)]\nmod tests { counter(\"sample\") }\n";
    let used = [sample("src/observe/a.rs", text)];
    let text = "`adit_bytes_total`\n`adit_gone_seconds_bucket` and an adit_ alone\n";
    let document = sample("docs/metrics.md", text);
    let findings = metric_findings(&used, Some(&document));
    let told: Vec<String> = findings
        .iter()
        .map(|finding| format!("{}:{}", finding.path, finding.line))
        .collect();
    assert_eq!(told, ["src/observe/a.rs:2", "docs/metrics.md:2"]);
    let undocumented = metric_findings(&used, None);
    assert_eq!(undocumented.len(), 2, "metrics without a document");
    assert!(
        metric_findings(&[], None).is_empty(),
        "neither metrics nor document"
    );
}

#[test]
fn config_keys_are_looked_for_in_their_document() {
    let raw = "let a = root.table(\"log\");\na.string(\"format\");\na.boolean(\"on\");\n// a.string(\"no\")\n";
    let document = sample("docs/config.md", "### `[log]`\n| `format` | text |\n");
    let raw = [sample("src/config/raw.rs", raw)];
    assert_eq!(lines(&config_findings(&raw, Some(&document))), [3]);
    assert_eq!(config_findings(&raw, None).len(), 3, "no document");
}

#[test]
fn machine_paths_are_told_from_others() {
    let own = format!(
        "cd {}/x\n`{}`\n${{A}}/{}/y\n",
        concat!("/wo", "rk"),
        concat!("/ro", "ot"),
        concat!(".libr", "ary")
    );
    assert_eq!(
        lines(&machine_path_findings(&sample("a.md", &own))),
        [1, 2, 3]
    );
    let others = "target/work/x\n/workers\nhttps://a.example/root\nroots\n$dir/root\n";
    assert!(machine_path_findings(&sample("a.md", others)).is_empty());
}

#[test]
fn readme_commands_are_counted() {
    let good = "# adit\n\n## Start\n\n```sh\ncargo run --release -- quickstart\ntests/run  # all tests\n```\n\n## More\n\n```\nls\n```\n";
    assert!(readme_findings(&sample("README.md", good)).is_empty());
    let more = good.replace("```sh\n", "```sh\napt install x\n");
    assert_eq!(lines(&readme_findings(&sample("README.md", &more))), [6]);
    let printed = good.replace("```sh\n", "```text\nready\n```\n\n```sh\n");
    assert!(readme_findings(&sample("README.md", &printed)).is_empty());
    let hidden = printed.replace("## More", "```sh\napt install x\n```\n\n## More");
    assert_eq!(lines(&readme_findings(&sample("README.md", &hidden))), [15]);
    assert_eq!(
        lines(&readme_findings(&sample(
            "README.md",
            &good.replace("## Start", "## First")
        ))),
        [1]
    );
    assert_eq!(
        lines(&readme_findings(&sample(
            "README.md",
            "# adit\n\n## Start\n"
        ))),
        [3]
    );
}

#[test]
fn links_are_followed_from_their_own_folder() {
    let text = "[a](b.md#c) [d](https://e.example/) [f](#g)\n[h](i.md \"title\")\n[j]: ../k.md\n```\n[l](m.md)\n```\n";
    let file = sample("docs/n.md", text);
    assert!(link_findings(&file, |_| true).is_empty());
    assert_eq!(
        lines(&link_findings(&file, |path| path == Path::new("docs/b.md"))),
        [2, 3]
    );
}

#[test]
fn limits_without_a_reason_are_found() {
    let text = "/// Why.\n#[rustfmt::skip]\npub const A: usize = 1;\n\n// No doc comment.\nconst B: usize = 2;\nconst _: () = assert!(A < B);\n";
    assert_eq!(lines(&limit_findings(&sample("src/limits.rs", text))), [6]);
}

#[test]
fn questions_and_old_words_are_found_at_their_lines() {
    let text = "//! Rooms.\n/// A name.\n/// What follows is one sentence.\nlet a = 1;\n/// What it is.\n/// In force.\n";
    assert_eq!(lines(&doc_findings(&sample("src/tls/a.rs", text))), [5]);
    assert_eq!(lines(&word_findings(&sample("src/tls/a.rs", text))), [6]);
    assert!(word_findings(&sample("docs/decisions/0001-a.md", text)).is_empty());
}

#[test]
fn the_plan_is_compared_with_rooms_and_tree() {
    let right: String = (ROOMS.iter().map(|row| format!("### `src/{}/`\n", row[0]))).collect();
    assert!(plan_findings(&sample("docs/architecture.md", &right), |_| true).is_empty());
    let gone = plan_findings(&sample("docs/architecture.md", &right), |path| {
        path != Path::new("src/limits/")
    });
    assert_eq!(lines(&gone), [2]);
    let turned = right.replace("ring", "tls");
    let turned = plan_findings(&sample("docs/architecture.md", &turned), |_| true);
    assert_eq!(lines(&turned), [1]);
}

#[test]
fn sources_that_are_gone_are_found_in_documents() {
    let text = "`src/a.rs` and src/b.rs\n`src/*/c.rs`, `tests/d.rs`\n";
    let gone = path_findings(&sample("docs/a.md", text), |path| {
        path == Path::new("src/a.rs")
    });
    assert_eq!(lines(&gone), [2]);
}
