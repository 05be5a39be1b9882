//! Timelines as an SVG: three panels under each other, limit, throughput and
//! latency, over the same time. Lines differ by dash and width as well as by
//! colour, and say at the top which is which.
//!
//! Own code and no plotting crate: what is drawn is a few polylines, and a
//! file that is committed should hold nothing else.

use std::fmt::Write as _;

use super::{timeline::Timeline, trace::BIN};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 94.0;
const PANEL: f64 = 128.0;
const GAP: f64 = 48.0;
const BOTTOM: f64 = 46.0;
const INK: &str = "#1f2328";
const GRID: &str = "#e3e6ea";

/// How one of the lines looks.
struct Look {
    colour: &'static str,
    width: f64,
    dash: &'static str,
}

/// In the order in which lines are given; the first is drawn last, on top.
const LOOKS: [Look; 3] = [
    Look {
        colour: "#0b5cad",
        width: 2.0,
        dash: "none",
    },
    Look {
        colour: "#c2410c",
        width: 1.5,
        dash: "7 3",
    },
    Look {
        colour: "#57606a",
        width: 1.5,
        dash: "2 3",
    },
];

/// A panel: what is on its axis, and which part of a timeline that is.
struct Panel {
    axis: &'static str,
    scale: f64,
    series: fn(&Timeline) -> &[Option<f64>],
}

const PANELS: [Panel; 3] = [
    Panel {
        axis: "limit, batches in flight",
        scale: 1.0,
        series: |timeline| &timeline.limit,
    },
    Panel {
        axis: "throughput, thousand entries/s",
        scale: 1e-3,
        series: |timeline| &timeline.throughput,
    },
    Panel {
        axis: "latency of a batch, ms (median)",
        scale: 1e3,
        series: |timeline| &timeline.latency,
    },
];

/// Draws up to three named timelines under a title and a sentence.
pub(crate) fn draw(title: &str, sentence: &str, lines: &[(&str, Timeline)]) -> String {
    let height = TOP + 3.0 * PANEL + 2.0 * GAP + BOTTOM;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"{INK}\">\n\
         <title>{title}</title>\n<desc>{sentence}</desc>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\" font-weight=\"600\">{title}</text>\n\
         <text x=\"{LEFT}\" y=\"40\">{sentence}</text>\n"
    );
    legend(&mut svg, lines);
    let bins = lines.iter().map(|(_, timeline)| timeline.limit.len());
    let seconds = bins.max().unwrap_or_default() as f64 * BIN;
    for (number, panel) in PANELS.iter().enumerate() {
        let top = (number as f64).mul_add(PANEL + GAP, TOP);
        panel_of(&mut svg, panel, top, seconds, lines);
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">seconds</text>\n</svg>",
        f64::midpoint(LEFT, WIDTH - RIGHT),
        height - 10.0
    );
    svg
}

fn legend(svg: &mut String, lines: &[(&str, Timeline)]) {
    let mut x = LEFT;
    for ((name, _), look) in lines.iter().zip(&LOOKS) {
        let _ = writeln!(
            svg,
            "<line x1=\"{x}\" y1=\"55\" x2=\"{}\" y2=\"55\" {}/>\n<text x=\"{}\" y=\"59\">{name}</text>",
            x + 34.0,
            stroke(look),
            x + 40.0
        );
        x += 64.0 + name.chars().count() as f64 * 6.4;
    }
}

fn stroke(look: &Look) -> String {
    format!(
        "fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" stroke-dasharray=\"{}\"",
        look.colour, look.width, look.dash
    )
}

fn panel_of(svg: &mut String, panel: &Panel, top: f64, seconds: f64, lines: &[(&str, Timeline)]) {
    let most = most(panel, lines);
    let step = step(most, 4.0);
    let most = (most / step).ceil() * step;
    let x = |at: f64| (at / seconds).mul_add(WIDTH - LEFT - RIGHT, LEFT);
    let y = |value: f64| top + PANEL - (value / most).min(1.0) * PANEL;
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{:.1}\" font-weight=\"600\">{}</text>",
        top - 7.0,
        panel.axis
    );
    for tick in ticks(most, step) {
        let at = y(tick);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"{GRID}\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0
        );
    }
    for tick in ticks(seconds, self::step(seconds, 8.0)) {
        let at = x(tick);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{:.1}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"{INK}\"/>\n\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick}</text>",
            top + PANEL,
            top + PANEL + 4.0,
            top + PANEL + 16.0
        );
    }
    let _ = writeln!(
        svg,
        "<path d=\"M{LEFT} {top}V{:.1}H{:.1}\" fill=\"none\" stroke=\"{INK}\"/>",
        top + PANEL,
        WIDTH - RIGHT
    );
    for ((_, timeline), look) in lines.iter().zip(&LOOKS).rev() {
        let mut path = String::new();
        let mut pen = 'M';
        for (number, value) in (panel.series)(timeline).iter().enumerate() {
            let Some(value) = value else {
                // A gap: nothing was answered.
                pen = 'M';
                continue;
            };
            let at = x((number as f64 + 0.5) * BIN);
            let _ = write!(path, "{pen}{at:.1} {:.1}", y(value * panel.scale));
            pen = 'L';
        }
        let _ = writeln!(svg, "<path d=\"{path}\" {}/>", stroke(look));
    }
}

/// The top of an axis: what all but the highest fiftieth stay below, and a
/// quarter more. What is higher is cut off there.
fn most(panel: &Panel, lines: &[(&str, Timeline)]) -> f64 {
    let own = lines.iter().map(|(_, timeline)| {
        let mut values: Vec<f64> = (panel.series)(timeline).iter().copied().flatten().collect();
        values.sort_unstable_by(f64::total_cmp);
        let at = values.len().saturating_sub(1) * 49 / 50;
        values.get(at).copied().unwrap_or_default()
    });
    let highest = own.fold(0.0, f64::max) * panel.scale * 1.15;
    highest.max(1e-3)
}

/// 1, 2 or 5 times a power of ten, so that about `count` of them make `most`.
fn step(most: f64, count: f64) -> f64 {
    let rough = most / count;
    let power = 10_f64.powf(rough.log10().floor());
    let digit = [1.0, 2.0, 5.0].into_iter().find(|d| d * power >= rough);
    digit.unwrap_or(10.0) * power
}

/// Multiples of `step` up to `most`, without the dust of adding.
fn ticks(most: f64, step: f64) -> Vec<f64> {
    let tidy = |value: f64| (value * 1e6).round() / 1e6;
    let ticks = (0..100).map(|n| tidy(f64::from(n) * step));
    ticks.take_while(|tick| *tick <= most * 1.0001).collect()
}

#[cfg(test)]
#[allow(dead_code, unused_imports)] // of no use to the bench, which has no harness
mod tests {
    use super::*;

    fn line(values: &[Option<f64>]) -> Timeline {
        Timeline {
            limit: values.to_vec(),
            throughput: values.to_vec(),
            latency: values.to_vec(),
        }
    }

    #[test]
    fn a_plot_has_each_line_in_each_panel_and_each_name_once() {
        let lines = [
            ("ferry", line(&[Some(1.0), None, Some(3.0)])),
            ("Envoy", line(&[Some(2.0); 3])),
            ("best fixed", line(&[Some(2.5); 3])),
        ];
        let svg = draw("a plant", "what it shows", &lines);
        for look in &LOOKS {
            // Three panels and the legend.
            let drawn = svg.matches(&format!("stroke=\"{}\"", look.colour)).count();
            assert_eq!(drawn, 4, "{}", look.colour);
        }
        for (name, _) in &lines {
            assert_eq!(svg.matches(&format!(">{name}<")).count(), 1, "{name}");
        }
        // A silence is a gap and not a line across it.
        assert!(svg.contains("M") && !svg.contains("NaN"));
    }

    #[test]
    fn an_axis_has_round_numbers() {
        assert_eq!(ticks(10.0, step(10.0, 4.0)), [0.0, 5.0, 10.0]);
        assert_eq!(ticks(0.7, step(0.7, 4.0)), [0.0, 0.2, 0.4, 0.6]);
        assert_eq!(step(45.0, 8.0), 10.0);
    }
}
