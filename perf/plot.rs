//! Draws the figures of `perf/compare`: `plot RESULTS.json FOLDER` writes `latency.svg` and `costs.svg`.
//!
//! `latency.svg` is p50, p99 and p99.9 over the offered rate, a line for each peer; `costs.svg` is what each peer costs
//! in server CPU by what adit costs.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use serde::Deserialize;

type Outcome = Result<(), Box<dyn Error>>;
/// One figure of a point.
type Of = fn(&Point) -> f64;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Plane<'a, 'b, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, Y>>;

/// Colours that can be told apart by people who see red and green alike (Okabe and Ito), and black for adit.
const COLOURS: [RGBColor; 9] = [
    RGBColor(0, 0, 0),
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(120, 120, 120),
    RGBColor(150, 80, 40),
];
const FONT: &str = "sans-serif";

#[derive(Deserialize)]
struct Results {
    header: Header,
    rows: Vec<Row>,
    curves: BTreeMap<String, Vec<Point>>,
}

#[derive(Deserialize)]
struct Header {
    date: String,
    machine: String,
    kernel: String,
    /// By name. The order in which the peers are drawn is that of [`ORDER`].
    versions: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Row {
    row: String,
    figure: String,
    scenario: String,
    values: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Value {
    median: f64,
}

#[derive(Deserialize)]
struct Point {
    offered: f64,
    p50: f64,
    p99: f64,
    p99_9: f64,
}

/// Peers in the order of their colours; a name that is not here comes last, in grey.
const ORDER: [&str; 10] = [
    "adit",
    "haproxy",
    "envoy",
    "envoy-connect",
    "nginx",
    "stunnel",
    "hitch",
    "squid",
    "bound",
    "baseline",
];

fn main() -> Outcome {
    let mut words = std::env::args().skip(1);
    let (Some(results), Some(folder)) = (words.next(), words.next()) else {
        return Err("plot RESULTS.json FOLDER".into());
    };
    let results: Results = serde_json::from_str(&std::fs::read_to_string(results)?)?;
    if !results.curves.is_empty() {
        draw_latency(&results, &Path::new(&folder).join("latency.svg"))?;
    }
    if cost_rows(&results).next().is_some() {
        draw_costs(&results, &Path::new(&folder).join("costs.svg"))?;
    }
    Ok(())
}

fn place(peer: &str) -> usize {
    ORDER
        .iter()
        .position(|known| *known == peer)
        .unwrap_or(ORDER.len())
}

fn colour(peer: &str) -> RGBColor {
    COLOURS
        .get(place(peer))
        .copied()
        .unwrap_or(RGBColor(170, 170, 170))
}

fn peers<'a>(names: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    let mut names: Vec<_> = names.map(String::as_str).collect();
    names.sort_by_key(|name| (place(name), *name));
    names
}

fn caption(area: &Area<'_>, text: &str, header: &Header) -> Result<(), Box<dyn Error>> {
    area.draw(&Text::new(text, (16, 10), (FONT, 20).into_font()))?;
    let below = format!(
        "{}, {}, Linux {}",
        header.date, header.machine, header.kernel
    );
    let grey = (FONT, 13).into_font().color(&RGBColor(90, 90, 90));
    area.draw(&Text::new(below, (16, 36), grey))?;
    Ok(())
}

fn draw_latency(results: &Results, path: &Path) -> Outcome {
    let root = SVGBackend::new(path, (1260, 520)).into_drawing_area();
    root.fill(&WHITE)?;
    let title =
        "Latency of 64 B round trips over the offered rate: 100 tunnels, open loop, one worker";
    caption(&root, title, &results.header)?;
    let (_, below) = root.split_vertically(60);
    let panels = below.split_evenly((1, 3));
    let kinds: [(&str, Of); 3] = [
        ("p50", |point| point.p50),
        ("p99", |point| point.p99),
        ("p99.9", |point| point.p99_9),
    ];
    let names = peers(results.curves.keys());
    let all = || results.curves.values().flatten();
    let right = all().map(|point| point.offered).fold(1.0, f64::max) / 1e3 * 1.03;
    let low = all()
        .map(|point| point.p50)
        .fold(f64::MAX, f64::min)
        .max(1.0)
        * 0.8;
    let high = all().map(|point| point.p99_9).fold(low, f64::max) * 1.3;
    for (at, (panel, (kind, of))) in panels.iter().zip(kinds).enumerate() {
        let mut chart = ChartBuilder::on(panel)
            .caption(kind, (FONT, 16))
            .margin(8)
            .x_label_area_size(42)
            .y_label_area_size(62)
            .build_cartesian_2d(0.0..right, (low..high).log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(225, 225, 225))
            .x_desc("offered, thousand a second")
            .y_desc(if at == 0 { "latency" } else { "" })
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| microseconds(*y))
            .label_style((FONT, 13))
            .draw()?;
        for name in &names {
            let points = results.curves[*name].iter();
            let line: Vec<_> = points.map(|p| (p.offered / 1e3, of(p).max(1.0))).collect();
            let width = if *name == "adit" { 3 } else { 2 };
            let style = colour(name).stroke_width(width);
            chart.draw_series(
                line.iter()
                    .map(|at| Circle::new(*at, 3, colour(name).filled())),
            )?;
            chart
                .draw_series(LineSeries::new(line, style))?
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        if at == 0 {
            legend(&mut chart)?;
        }
    }
    root.present()?;
    Ok(())
}

fn legend<'a, 'b: 'a, Y>(chart: &mut Plane<'a, 'b, Y>) -> Outcome
where
    Y: Ranged<ValueType = f64>,
{
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(200, 200, 200))
        .label_font((FONT, 13))
        .draw()?;
    Ok(())
}

fn microseconds(value: f64) -> String {
    if value >= 1000.0 {
        format!("{} ms", value / 1000.0)
    } else {
        format!("{value}")
    }
}

/// The rows whose figure is server CPU for one operation, at one worker.
fn cost_rows(results: &Results) -> impl Iterator<Item = &Row> {
    results.rows.iter().filter(|row| {
        row.figure == "CPU µs each"
            && row.scenario != "workers"
            && row
                .values
                .get("adit")
                .is_some_and(|value| value.median > 0.0)
    })
}

/// One group of bars a row: the CPU time, by adit's, of each peer that has one.
fn draw_costs(results: &Results, path: &Path) -> Outcome {
    let names = peers(results.header.versions.keys());
    let of_row = |row: &Row| {
        let others = names.iter().filter(|name| **name != "adit");
        let ratio = |name: &str| Some(row.values.get(name)?.median / row.values["adit"].median);
        let bars = others.filter_map(|name| Some((*name, ratio(name)?)));
        bars.collect::<Vec<_>>()
    };
    let rows: Vec<_> = cost_rows(results).map(|row| (row, of_row(row))).collect();
    let (bar, gap) = (13, 34);
    let bars = |(_, bars): &(&Row, Vec<_>)| i32::try_from(bars.len());
    let heights = rows.iter().map(|row| Ok(bars(row)? * bar + gap));
    let height = u32::try_from(heights.sum::<Result<i32, std::num::TryFromIntError>>()?)? + 90;
    let root = SVGBackend::new(path, (980, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let title = "Server CPU of each operation, as a multiple of adit's (shorter is better)";
    caption(&root, title, &results.header)?;
    let (left, width, end) = (140, 700.0, 6.0);
    let x = |ratio: f64| left + (ratio.min(end) / end * width) as i32;
    let mut y = 66;
    for (row, bars) in rows {
        let ours = row.values["adit"].median;
        let heading = format!("{}: adit {ours} µs", row.row);
        root.draw(&Text::new(heading, (16, y), (FONT, 14).into_font()))?;
        y += 20;
        for (name, ratio) in bars {
            let label = (FONT, 12).into_font();
            root.draw(&Text::new(name.to_owned(), (40, y), label.clone()))?;
            let corners = [(left, y + 1), (x(ratio), y + bar - 2)];
            root.draw(&Rectangle::new(corners, colour(name).filled()))?;
            let said = format!("{ratio:.2}{}", if ratio > end { " (cut off)" } else { "" });
            root.draw(&Text::new(said, (x(ratio) + 6, y), label))?;
            y += bar;
        }
        y += gap - 20;
    }
    let line = [(x(1.0), 62), (x(1.0), y - 8)];
    root.draw(&PathElement::new(line, BLACK.stroke_width(1)))?;
    root.present()?;
    Ok(())
}
