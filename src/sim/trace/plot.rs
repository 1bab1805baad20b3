//! The trade-off as a picture: how long a crash stays unnoticed against how often the living are suspected. SVG,
//! written by hand.

use std::fmt::Write as _;

use super::axis::Axis;

/// A detector, from its hastiest to its most patient setting.
#[derive(Clone, Debug)]
pub struct Curve {
    /// As it stands in the legend.
    pub name: String,
    /// T_D in milliseconds, mistakes an hour, the setting.
    pub points: Vec<(f64, f64, String)>,
    /// Drawn so that it is seen first.
    pub bold: bool,
}

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 560.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 690.0;
const TOP: f64 = 64.0;
/// Below it is the row of those that made no mistake.
const BOTTOM: f64 = 440.0;
const NONE: f64 = 472.0;
/// Told apart by the colour-blind, too (Okabe and Ito).
const COLOURS: [&str; 7] = [
    "#7f7f7f", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#d55e00", "#000000",
];
const FONT: &str = "font-family=\"Helvetica,Arial,sans-serif\"";

/// The whole file.
pub fn plot(title: &str, subtitle: &str, curves: &[Curve]) -> String {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let across = Axis::around(points().map(|(x, ..)| *x), LEFT, RIGHT);
    let up = Axis::around(points().map(|(_, y, _)| *y), BOTTOM, TOP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" {FONT} font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    text(
        &mut out,
        LEFT,
        26.0,
        "font-size=\"17\" font-weight=\"bold\"",
        title,
    );
    text(&mut out, LEFT, 46.0, "fill=\"#555\"", subtitle);
    frame(&mut out, &across, &up);
    for (place, curve) in curves.iter().enumerate() {
        let colour = COLOURS[place % COLOURS.len()];
        draw(&mut out, curve, colour, &across, &up);
        legend(&mut out, curve, colour, place);
    }
    out.push_str("</svg>\n");
    out
}

fn frame(out: &mut String, across: &Axis, up: &Axis) {
    for mark in across.marks() {
        let x = across.place(mark);
        line(out, (x, TOP), (x, NONE + 14.0), "#e4e4e4");
        text(out, x, NONE + 34.0, "text-anchor=\"middle\"", &number(mark));
    }
    for mark in up.marks() {
        let y = up.place(mark);
        line(out, (LEFT, y), (RIGHT, y), "#e4e4e4");
        text(out, LEFT - 8.0, y + 4.0, "text-anchor=\"end\"", &number(mark));
    }
    line(out, (LEFT, NONE), (RIGHT, NONE), "#999");
    text(out, LEFT - 8.0, NONE + 4.0, "text-anchor=\"end\"", "none");
    line(out, (LEFT, TOP), (LEFT, NONE + 14.0), "#333");
    line(out, (LEFT, NONE + 14.0), (RIGHT, NONE + 14.0), "#333");
    let middle = f64::midpoint(LEFT, RIGHT);
    let across = "text-anchor=\"middle\" font-weight=\"bold\"";
    text(
        out,
        middle,
        HEIGHT - 14.0,
        across,
        "detection time T_D, mean (ms)",
    );
    let turned = format!(
        "{across} transform=\"rotate(-90 22 {:.1})\"",
        f64::midpoint(TOP, BOTTOM)
    );
    text(out, 22.0, f64::midpoint(TOP, BOTTOM), &turned, "mistakes an hour");
}

fn draw(out: &mut String, curve: &Curve, colour: &str, across: &Axis, up: &Axis) {
    let width = if curve.bold { 3.0 } else { 1.5 };
    let place = |(x, y, _): &(f64, f64, String)| {
        let y = if *y > 0.0 { up.place(*y) } else { NONE };
        (across.place(*x), y)
    };
    let drawn = || {
        curve
            .points
            .iter()
            .filter(|(x, y, _)| x.is_finite() && *x > 0.0 && y.is_finite())
    };
    let path: Vec<String> = drawn()
        .map(place)
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"/>",
        path.join(" ")
    );
    for point in drawn() {
        let (x, y) = place(point);
        let _ = writeln!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{:.1}\" fill=\"{colour}\"><title>{} = {}: {} ms, {} mistakes/h\
             </title></circle>",
            width + 1.5,
            escaped(&curve.name),
            escaped(&point.2),
            number(point.0),
            number(point.1)
        );
    }
}

fn legend(out: &mut String, curve: &Curve, colour: &str, place: usize) {
    let y = TOP + 14.0 + 26.0 * place as f64;
    let x = RIGHT + 22.0;
    let width = if curve.bold { 3.0 } else { 1.5 };
    let _ = writeln!(
        out,
        "<line x1=\"{x}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>\
         <circle cx=\"{}\" cy=\"{y}\" r=\"{}\" fill=\"{colour}\"/>",
        x + 26.0,
        x + 13.0,
        width + 1.5
    );
    let weight = if curve.bold { "font-weight=\"bold\"" } else { "" };
    text(out, x + 34.0, y + 4.5, weight, &curve.name);
}

fn line(out: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str) {
    let _ = writeln!(
        out,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
    );
}

fn text(out: &mut String, x: f64, y: f64, how: &str, text: &str) {
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" {how}>{}</text>",
        escaped(text)
    );
}

/// Names come from files.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn number(value: f64) -> String {
    if value >= 10.0 || value == 0.0 {
        format!("{value:.0}")
    } else {
        // 0.02, 0.5, 1.7
        let text = format!("{value:.2}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}
