//! Instructions that the pure parts execute, counted by callgrind and held against `benches/counts.baseline`.
//!
//! A count is not a time, but it is the same on a busy machine as on an idle one, so that it can be a guard: more than
//! 5 % above the baseline fails. The reasons are in `docs/decisions/0012-guards.md`.
//!
//! ```text
//! cargo bench --bench counts                  compare
//! cargo bench --bench counts -- --bless       write the baseline anew
//! ```

mod common;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use adit::front::request::RequestParser;
use adit::observe::{latency_histogram, record_latency};
use adit::tls::record::Content;
use common::Random;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// One guarded piece of work: its name, and how it is set up.
type Case = (&'static str, fn() -> Box<dyn FnMut(u64)>);

/// Repetitions inside one count: enough to average over the seeds of hash tables.
const REPEAT: u64 = 2000;
/// More than this share above the baseline fails.
const MARGIN: f64 = 0.05;
/// The argument with which this program runs itself under callgrind.
const CHILD: &str = "--counted";

const CASES: &[Case] = &[
    ("connect-parse", connect_parse),
    ("revocation-hit-10k", revocation_hit),
    ("revocation-miss-10k", revocation_miss),
    ("registry-10k", registry),
    ("route-last-of-50", route),
    ("histogram-record", histogram),
    ("timer-turn-1k-set", timers),
    ("record-open-64", record_open),
    ("record-seal-64", record_seal),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().position(|argument| argument == CHILD) {
        Some(at) => child(arguments.get(at + 1).map_or("", String::as_str)),
        None => guard(arguments.iter().any(|argument| argument == "--bless")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("counts: {error}");
            ExitCode::FAILURE
        }
    }
}

// What is counted.

fn child(name: &str) -> Outcome<()> {
    let (_, set_up) = CASES
        .iter()
        .find(|(case, _)| *case == name)
        .ok_or("no such case")?;
    let mut work = set_up();
    // The first time finds out what the CPU can do, and fills what is filled once.
    work(0);
    counted_region(&mut work);
    Ok(())
}

/// callgrind counts from the entry of this function to its return.
#[inline(never)]
fn counted_region(work: &mut Box<dyn FnMut(u64)>) {
    for turn in 1..=REPEAT {
        work(black_box(turn));
    }
}

fn connect_parse() -> Box<dyn FnMut(u64)> {
    Box::new(|_| {
        let request = RequestParser::new().push(black_box(common::REQUEST));
        assert!(black_box(request).is_ok_and(|request| request.is_some()));
    })
}

fn revocation_hit() -> Box<dyn FnMut(u64)> {
    let serials = common::serials(10_000);
    let index = common::revocation(&serials);
    Box::new(move |turn| {
        let serial = &serials[turn as usize % serials.len()];
        black_box(index.status(common::ISSUER, common::KEY, black_box(serial), common::NOW));
    })
}

fn revocation_miss() -> Box<dyn FnMut(u64)> {
    let index = common::revocation(&common::serials(10_000));
    let mut random = Random(2);
    let others: Vec<_> = (0..REPEAT).map(|_| random.serial()).collect();
    Box::new(move |turn| {
        let serial = &others[turn as usize % others.len()];
        black_box(index.status(common::ISSUER, common::KEY, black_box(serial), common::NOW));
    })
}

/// Half of the devices are registered.
fn registry() -> Box<dyn FnMut(u64)> {
    let registry = common::registry(10_000);
    let names: Vec<String> = (0..REPEAT).map(common::device).collect();
    Box::new(move |turn| {
        let name = &names[turn as usize % names.len()];
        black_box(registry.state(black_box(name)));
    })
}

fn route() -> Box<dyn FnMut(u64)> {
    let (rules, target) = (common::rules(50), common::target());
    Box::new(move |_| {
        let target = black_box(&target);
        let rule = rules
            .iter()
            .find(|rule| rule.matches(Some("mail"), &target.host, target.port));
        assert!(black_box(rule).is_some());
    })
}

fn histogram() -> Box<dyn FnMut(u64)> {
    let mut histogram = latency_histogram();
    Box::new(move |turn| {
        record_latency(&mut histogram, black_box(Duration::from_micros(turn * 37)));
    })
}

fn timers() -> Box<dyn FnMut(u64)> {
    let mut timers = common::Timers::new(1000);
    Box::new(move |_| {
        black_box(timers.turn());
    })
}

fn record_open() -> Box<dyn FnMut(u64)> {
    let (mut client, mut layer) = common::tls::Ends::new(false).session();
    let mut records: Vec<Vec<u8>> = (0..=REPEAT)
        .map(|_| {
            std::io::Write::write_all(&mut client.writer(), &[7; 64]).expect("memory");
            common::tls::written(&mut client)
        })
        .collect();
    Box::new(move |turn| {
        let opened = layer.open(&mut records[turn as usize]);
        assert!(
            matches!(black_box(opened), Ok(Some((_, Content::Data(place)))) if place.len() == 64)
        );
    })
}

fn record_seal() -> Box<dyn FnMut(u64)> {
    let (_, mut layer) = common::tls::Ends::new(false).session();
    let (front, back) = layer.around();
    let mut record = vec![7; front + 64 + back];
    Box::new(move |_| {
        assert!(layer.seal(black_box(&mut record)).is_ok());
    })
}

// The guard.

fn guard(bless: bool) -> Outcome<()> {
    if cfg!(debug_assertions) {
        return Err("only what is shipped is counted: use cargo bench".into());
    }
    let compiler = compiler()?;
    let mut counts = BTreeMap::new();
    for (name, _) in CASES {
        counts.insert((*name).to_owned(), count(name)?);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/counts.baseline");
    if bless {
        std::fs::write(&path, baseline_text(&compiler, &counts))?;
    }
    let text = std::fs::read_to_string(&path)
        .map_err(|error| format!("{}: {error}; make it with --bless", path.display()))?;
    let (made_by, baseline) = parse_baseline(&text)?;
    let findings = compare(&baseline, &counts);
    if made_by != compiler {
        println!("NOT COMPARED: the baseline is of {made_by}, this is {compiler}");
    } else if !findings.is_empty() {
        return Err(findings.join("\n").into());
    }
    Ok(())
}

/// Prints the table; what is wrong.
fn compare(baseline: &BTreeMap<String, u64>, counts: &BTreeMap<String, u64>) -> Vec<String> {
    let mut findings = Vec::new();
    for (name, &count) in counts {
        let Some(&before) = baseline.get(name) else {
            findings.push(format!(
                "{name} is not in the baseline; run tests/run --bless"
            ));
            continue;
        };
        let change = count as f64 / before as f64 - 1.0;
        println!(
            "{name:24} {count:>8} instructions, baseline {before:>8}, {:+.2} %",
            change * 100.0
        );
        if change > MARGIN {
            findings.push(format!(
                "{name} takes {count} instructions, {before} before; make it shorter, or run tests/run --bless and \
                 say in the commit why it must be longer"
            ));
        } else if change < -MARGIN {
            println!("{name} is shorter than its baseline: tests/run --bless keeps it so");
        }
    }
    for name in baseline.keys().filter(|name| !counts.contains_key(*name)) {
        findings.push(format!(
            "{name} is in the baseline but not counted; run tests/run --bless"
        ));
    }
    findings
}

fn baseline_text(compiler: &str, counts: &BTreeMap<String, u64>) -> String {
    let mut text =
        format!("# Instructions a call; written by tests/run --bless\ncompiler {compiler}\n");
    for (name, count) in counts {
        writeln!(text, "{name} {count}").expect("a String takes everything");
    }
    text
}

fn parse_baseline(text: &str) -> Outcome<(String, BTreeMap<String, u64>)> {
    let (mut compiler, mut counts) = (String::new(), BTreeMap::new());
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match line.split_once(' ').ok_or("the baseline has a bad line")? {
            ("compiler", version) => version.clone_into(&mut compiler),
            (name, count) => drop(counts.insert(name.to_owned(), count.parse()?)),
        }
    }
    Ok((compiler, counts))
}

fn compiler() -> Outcome<String> {
    let output = Command::new("rustc").arg("--version").output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Instructions of one call, the mean of [`REPEAT`].
fn count(name: &str) -> Outcome<u64> {
    let out: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("counts-{name}.out"));
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg("--toggle-collect=*counted_region*")
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .args([CHILD, name])
        // The size of the environment moves the stack, and with it what is aligned.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        // glibc's string functions by what every x86-64-v2 CPU has, and no symbol looked up while counting.
        .env(
            "GLIBC_TUNABLES",
            "glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512VL,-ERMS,-FSRM",
        )
        .env("LD_BIND_NOW", "1")
        .output()
        .map_err(|error| format!("valgrind: {error}; apt-get install valgrind"))?;
    if !output.status.success() {
        return Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let text = std::fs::read_to_string(&out)?;
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("totals: "))
        .ok_or("callgrind wrote no totals")?;
    match total.trim().parse::<u64>()? / REPEAT {
        0 => Err(format!("{name}: callgrind has counted nothing").into()),
        count => Ok(count),
    }
}
