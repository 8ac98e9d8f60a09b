//! A chart: HTML with inline SVG that fits any width without a script.
//!
//! The plot is an SVG within an SVG: the inner one is stretched (`preserveAspectRatio="none"`), so its x coordinates are
//! seconds (or decades), and zooming is another `viewBox`. Texts stand in the outer one at positions in percent, so that
//! nothing stretches them. The script gets the values once more as JSON, for exact numbers under the pointer.

use maud::{Markup, html};
use serde_json::{Value, json};

use super::scale::{Scale, coordinate, percent, short};

/// Height of a plot, pixels; also the height of its coordinates.
const HEIGHT: f64 = 200.0;
/// Height of a row of bands above the plot, pixels.
const LANE: f64 = 18.0;
/// Width of the column with the numbers of the vertical axis, pixels: the same in all charts, so that times are aligned.
const MARGIN: u32 = 86;
/// The same of small charts, which have no bands.
const SMALL_MARGIN: u32 = 52;

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Line,
    /// Seen on both sides of a line that lies upon it.
    Thick,
    Dashed,
}

/// Values of one name, one for each step of the horizontal axis; nothing where there is none.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: String,
    /// Which colour of the palette, 0 … 9.
    pub(super) colour: usize,
    pub(super) style: Style,
    pub(super) values: Vec<Option<f64>>,
}

impl Series {
    pub(super) fn line(name: &str, colour: usize, values: Vec<Option<f64>>) -> Self {
        Self { name: name.to_owned(), colour, style: Style::Line, values }
    }

    pub(super) fn dashed(name: &str, colour: usize, values: Vec<Option<f64>>) -> Self {
        Self { style: Style::Dashed, ..Self::line(name, colour, values) }
    }

    pub(super) fn thick(name: &str, colour: usize, values: Vec<Option<f64>>) -> Self {
        Self { style: Style::Thick, ..Self::line(name, colour, values) }
    }

    fn highest(&self) -> impl Iterator<Item = f64> + Clone + '_ {
        self.values.iter().flatten().copied()
    }
}

/// A time that is shaded.
#[derive(Clone, Debug)]
pub(super) struct Band {
    /// Name of its row, and of its colour in the style.
    pub(super) kind: &'static str,
    pub(super) from_s: f64,
    pub(super) to_s: f64,
    /// What it was, in a few words.
    pub(super) text: String,
}

/// Something at a point of the plot.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) text: String,
    /// Whether it is a limit that was not kept.
    pub(super) is_bad: bool,
    /// Whether it stands in the plot, and not in the legend alone.
    pub(super) is_drawn: bool,
}

/// The horizontal axis.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    /// Where each step begins, and where the last one ends.
    pub(super) edges: Vec<f64>,
    /// The left and the right end.
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) ticks: Vec<(f64, String)>,
    /// Whether it is time since T0: all such axes zoom together.
    pub(super) is_time: bool,
    pub(super) title: &'static str,
}

impl Axis {
    fn share(&self, x: f64) -> f64 {
        ((x - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

/// All that is drawn.
pub(super) struct Chart<'a> {
    /// Unique in the page: letters and digits.
    pub(super) id: String,
    /// What it shows, for those who cannot see it.
    pub(super) about: String,
    pub(super) axis: &'a Axis,
    pub(super) unit: &'static str,
    pub(super) is_log: bool,
    /// Whether the series are areas upon each other.
    pub(super) is_stacked: bool,
    pub(super) series: Vec<Series>,
    pub(super) bands: Vec<Band>,
    pub(super) marks: Vec<Mark>,
    /// The end of the vertical axis where several charts share one.
    pub(super) scale: Option<Scale>,
    pub(super) is_small: bool,
}

impl<'a> Chart<'a> {
    pub(super) fn new(id: &str, about: &str, axis: &'a Axis, unit: &'static str, series: Vec<Series>) -> Self {
        Self {
            id: id.to_owned(),
            about: about.to_owned(),
            axis,
            unit,
            is_log: false,
            is_stacked: false,
            series,
            bands: Vec::new(),
            marks: Vec::new(),
            scale: None,
            is_small: false,
        }
    }

    /// Whether a label has no room on a narrow screen: the last percentiles are long and close together, and a time at the
    /// end of the axis stands left of its place.
    fn is_dense(&self, tick: usize) -> bool {
        let ticks = &self.axis.ticks;
        let is_at_end = ticks.last().is_some_and(|(last, _)| anchor(self.axis.share(*last)) == "end");
        is_at_end && ticks.len() > 5 && tick + 2 == ticks.len()
    }

    fn height(&self) -> f64 {
        if self.is_small { 90.0 } else { HEIGHT }
    }

    fn scale(&self) -> Scale {
        if let Some(scale) = self.scale {
            return scale;
        }
        let marks = self.marks.iter().filter(|mark| mark.is_drawn).map(|mark| mark.y);
        if self.is_stacked {
            let sums = (0..self.axis.edges.len()).map(|at| {
                self.series.iter().filter_map(|series| series.values.get(at).copied().flatten()).sum::<f64>()
            });
            return Scale::linear(sums);
        }
        let values = self.series.iter().flat_map(Series::highest).chain(marks);
        if self.is_log { Scale::log(values) } else { Scale::linear(values) }
    }

    /// The values for the script.
    pub(super) fn data(&self) -> Value {
        let (low, high) = match self.scale() {
            Scale::Linear { high } => (Value::Null, high),
            Scale::Log { low, high } => (json!(low), high),
        };
        let series = self.series.iter().map(|series| {
            let values: Vec<Value> = series.values.iter().map(|value| value.map_or(Value::Null, four_digits)).collect();
            json!({"name": series.name, "values": values})
        });
        json!({
            "id": self.id,
            "unit": self.unit,
            "time": self.axis.is_time,
            "stacked": self.is_stacked,
            "height": self.height(),
            "low": low,
            "high": high,
            "x": [self.axis.low, self.axis.high],
            "step": self.axis.edges.get(1).map_or(1.0, |next| next - self.axis.edges[0]),
            "series": series.collect::<Vec<_>>(),
            "bands": self.bands.iter().map(|band| json!([band.from_s, band.to_s, band.text])).collect::<Vec<_>>(),
        })
    }

    /// The chart as HTML.
    pub(super) fn markup(&self) -> Markup {
        let scale = self.scale();
        let height = self.height();
        let mut lanes: Vec<&str> = Vec::new();
        for band in &self.bands {
            if !lanes.contains(&band.kind) {
                lanes.push(band.kind);
            }
        }
        let top = 8.0 + lanes.len() as f64 * LANE;
        let total = coordinate(top + height + 24.0);
        let y = |value: f64| coordinate(top + height * (1.0 - scale.at(value)));
        let lane_y = |kind: &str| lanes.iter().position(|lane| *lane == kind).unwrap_or(0) as f64 * LANE + 2.0;
        let view = format!("{} 0 {} {height}", self.axis.low, self.axis.high - self.axis.low);
        let lane_view = format!("{} 0 {} {top}", self.axis.low, self.axis.high - self.axis.low);
        let margin = if self.is_small { SMALL_MARGIN } else { MARGIN };
        let (title, about) = (format!("{}-t", self.id), format!("{}-d", self.id));
        html! {
            div class=(if self.is_small { "chart small-chart" } else { "chart" }) data-chart=(self.id) {
                (self.legend())
                div class="frame" {
                    svg class="y" width=(margin) height=(total) aria-hidden="true" {
                        @for lane in &lanes {
                            text class="lane" x="0" y=(coordinate(lane_y(lane) + 11.0)) { (lane) }
                        }
                        @for tick in scale.ticks() {
                            text x=(margin - 8) y=(y(tick)) dy="0.32em" text-anchor="end" { (short(tick)) }
                        }
                    }
                    svg class="plot" width="100%" height=(total) role="img" tabindex="0"
                        aria-labelledby=(format!("{title} {about}")) {
                        title id=(title) { (self.about) }
                        desc id=(about) { (self.description()) }
                        @for tick in scale.ticks() {
                            line class="grid" x1="0" x2="100%" y1=(y(tick)) y2=(y(tick)) {}
                        }
                        svg class="data" x="0" y="0" width="100%" height=(coordinate(top)) viewBox=(lane_view)
                            preserveAspectRatio="none" {
                            @for band in &self.bands {
                                (rect(band, lane_y(band.kind), LANE - 5.0, "bar"))
                            }
                        }
                        svg class="data" x="0" y=(coordinate(top)) width="100%" height=(height) viewBox=(view)
                            preserveAspectRatio="none" {
                            @for band in &self.bands { (rect(band, 0.0, height, "shade")) }
                            (self.paths(scale))
                        }
                        @for mark in self.marks.iter().filter(|mark| mark.is_drawn) {
                            g class=(if mark.is_bad { "mark bad" } else { "mark" }) {
                                line x1="0" x2=(percent(self.axis.share(mark.x))) y1=(y(mark.y)) y2=(y(mark.y)) {}
                                circle cx=(percent(self.axis.share(mark.x))) cy=(y(mark.y)) r="5" {}
                            }
                        }
                        g class="x" {
                            @for (at, (x, label)) in self.axis.ticks.iter().enumerate() {
                                @let share = self.axis.share(*x);
                                text class=[self.is_dense(at).then_some("dense")] x=(percent(share)) y=(coordinate(top + height + 18.0))
                                    text-anchor=(anchor(share)) { (label) }
                            }
                        }
                        line class="cursor" x1="0" x2="0" y1="0" y2=(coordinate(top + height)) {}
                    }
                }
                p class="axis" { (self.unit) " · " (self.axis.title) }
            }
        }
    }

    fn class_of(&self, series: &Series) -> &'static str {
        match (self.is_stacked, series.style) {
            (true, _) => "area",
            (false, Style::Line) => "line",
            (false, Style::Thick) => "line thick",
            (false, Style::Dashed) => "line dashed",
        }
    }

    fn legend(&self) -> Markup {
        html! {
            @if self.series.len() > 1 || self.is_stacked || !self.marks.is_empty() {
                ul class="legend" {
                    @for (at, series) in self.series.iter().enumerate() {
                        li {
                            button type="button" aria-pressed="true" data-series=(at) {
                                span class=(format!("key {} c{}", self.class_of(series), series.colour)) {}
                                (series.name)
                            }
                        }
                    }
                    @for mark in &self.marks {
                        li class=(if mark.is_bad { "note bad" } else { "note" }) { (mark.text) }
                    }
                }
            }
        }
    }

    /// The highest value of each series, in words.
    fn description(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        for series in &self.series {
            match series.highest().reduce(f64::max) {
                Some(most) => words.push(format!("{}: up to {} {}", series.name, short(most), self.unit)),
                None => words.push(format!("{}: no values", series.name)),
            }
        }
        words.extend(self.bands.iter().take(20).map(|band| band.text.clone()));
        words.join("; ")
    }

    fn paths(&self, scale: Scale) -> Markup {
        let height = self.height();
        let mut below = vec![0.0; self.axis.edges.len()];
        html! {
            @for (at, series) in self.series.iter().enumerate() {
                @let class = format!("{} c{}", self.class_of(series), series.colour);
                @if self.is_stacked {
                    path class=(class) data-series=(at) d=(area(&self.axis.edges, series, &mut below, scale, height)) {}
                } @else {
                    path class=(class) data-series=(at) d=(steps(&self.axis.edges, &series.values, scale, height)) {}
                }
            }
        }
    }
}

fn rect(band: &Band, y: f64, height: f64, class: &str) -> Markup {
    let width = (band.to_s - band.from_s).max(0.0);
    html! {
        rect class=(format!("{class} {}", class_of(band.kind))) x=(coordinate(band.from_s)) width=(coordinate(width.max(0.1)))
            y=(coordinate(y)) height=(coordinate(height)) { title { (band.text) } }
    }
}

/// The class of a kind of band: letters and hyphens.
fn class_of(kind: &str) -> String {
    kind.replace(' ', "-")
}

/// So that the first and the last label are not cut.
fn anchor(share: f64) -> &'static str {
    match share {
        share if share < 0.03 => "start",
        share if share > 0.97 => "end",
        _ => "middle",
    }
}

/// Four significant digits are more than a pointer can tell apart.
fn four_digits(value: f64) -> Value {
    if value == 0.0 || !value.is_finite() {
        return json!(0);
    }
    let decimals = (3 - value.abs().log10().floor() as i32).clamp(0, 6) as usize;
    let rounded: f64 = format!("{value:.decimals$}").parse().unwrap_or(value);
    if rounded.fract() == 0.0 && rounded.abs() < 1e15 { json!(rounded as i64) } else { json!(rounded) }
}

/// A line that keeps each value until the next step, and breaks off where there is none.
fn steps(edges: &[f64], values: &[Option<f64>], scale: Scale, height: f64) -> String {
    let mut path = String::new();
    let mut is_open = false;
    let mut last_y = String::new();
    for (at, value) in values.iter().enumerate().take(edges.len().saturating_sub(1)) {
        let Some(value) = value else {
            is_open = false;
            continue;
        };
        let y = coordinate(height * (1.0 - scale.at(*value)));
        match is_open {
            false => path += &format!("M{} {y}", edge(edges[at])),
            true if y != last_y => path += &format!("V{y}"),
            true => {}
        }
        path += &format!("H{}", edge(edges[at + 1]));
        (is_open, last_y) = (true, y);
    }
    path
}

/// The area between what is below and the same with the values on top.
fn area(edges: &[f64], series: &Series, below: &mut [f64], scale: Scale, height: f64) -> String {
    let (mut up, mut back) = (String::new(), Vec::new());
    for (at, value) in series.values.iter().enumerate().take(edges.len().saturating_sub(1)) {
        let y = |value: f64| coordinate(height * (1.0 - scale.at(value)));
        let (low, high) = (below[at], below[at] + value.unwrap_or_default().max(0.0));
        let begin = if up.is_empty() { 'M' } else { 'L' };
        up += &format!("{begin}{} {}H{}", edge(edges[at]), y(high), edge(edges[at + 1]));
        back.push(format!("L{} {}H{}", edge(edges[at + 1]), y(low), edge(edges[at])));
        below[at] = high;
    }
    back.reverse();
    if up.is_empty() { up } else { format!("{up}{}Z", back.concat()) }
}

/// A position on the horizontal axis.
fn edge(x: f64) -> String {
    let text = format!("{x:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALE: Scale = Scale::Linear { high: 10.0 };

    #[test]
    fn a_line_keeps_each_value_for_its_step_and_breaks_where_there_is_none() {
        let values = [Some(0.0), Some(5.0), Some(5.0), None, Some(10.0)];
        assert_eq!(steps(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], &values, SCALE, 100.0), "M0 100H1V50H2H3M4 0H5");
        assert_eq!(steps(&[0.0], &[], SCALE, 100.0), "");
    }

    #[test]
    fn areas_lie_upon_each_other() {
        let mut below = vec![0.0; 2];
        let series = |value| Series::line("a", 0, vec![Some(value)]);
        assert_eq!(area(&[0.0, 2.0], &series(2.0), &mut below, SCALE, 10.0), "M0 8H2L2 10H0Z");
        assert_eq!(area(&[0.0, 2.0], &series(3.0), &mut below, SCALE, 10.0), "M0 5H2L2 8H0Z");
    }

    #[test]
    fn names_from_elsewhere_are_escaped() {
        let axis = Axis {
            edges: vec![0.0, 1.0],
            low: 0.0,
            high: 1.0,
            ticks: vec![(0.0, "<b>".to_owned())],
            is_time: true,
            title: "seconds",
        };
        let series = vec![Series::line("</svg><script>\"'&", 0, vec![Some(1.0)]), Series::line("b", 1, vec![None])];
        let chart = Chart::new("x", "<i>", &axis, "ms", series);
        let text = chart.markup().into_string();
        assert!(!text.contains("<script") && !text.contains("<b>") && !text.contains("<i>"), "{text}");
        assert!(text.contains("&lt;/svg&gt;&lt;script&gt;&quot;"), "{text}");
    }
}
