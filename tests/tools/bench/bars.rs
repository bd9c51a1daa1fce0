//! A chart of horizontal bars in groups, as SVG. Every bar has its name and its number next to it, so that the chart
//! needs no legend; colours only repeat the names.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Pixels.
const WIDTH: i32 = 820;
const LEFT: i32 = 230;
const RIGHT: i32 = 90;
const TITLE: i32 = 56;
const AXIS: i32 = 50;
const ROW: i32 = 24;
const BAR: i32 = 17;
const HEADING: i32 = 26;
const GAP: i32 = 12;

/// A chart.
pub struct Chart {
    /// The measured quantity.
    pub title: String,
    /// The better direction, and the origin of the numbers.
    pub subtitle: String,
    /// Name and unit of the axis.
    pub axis: String,
    /// From top to bottom.
    pub groups: Vec<Group>,
}

/// Bars that belong together.
pub struct Group {
    /// Their heading.
    pub heading: String,
    /// From top to bottom.
    pub bars: Vec<Bar>,
}

/// One bar.
pub struct Bar {
    /// Its name.
    pub name: String,
    /// Its length.
    pub value: f64,
    /// The number as printed next to it.
    pub text: String,
    /// Whose it is.
    pub colour: Colour,
}

/// Colours that differ in lightness too, for print and for all eyes (after Okabe and Ito 2008).
#[derive(Clone, Copy)]
pub enum Colour {
    /// Dark blue.
    Ours,
    /// Middle blue.
    OursToo,
    /// Light blue.
    OursThree,
    /// Orange.
    Theirs,
    /// Grey.
    TheirsToo,
}

impl Colour {
    fn rgb(self) -> RGBColor {
        match self {
            Colour::Ours => RGBColor(0, 68, 122),
            Colour::OursToo => RGBColor(0, 114, 178),
            Colour::OursThree => RGBColor(86, 180, 233),
            Colour::Theirs => RGBColor(230, 159, 0),
            Colour::TheirsToo => RGBColor(150, 150, 150),
        }
    }
}

impl Chart {
    /// The chart as SVG; `None` when there is no bar to draw.
    pub fn svg(&self) -> Option<String> {
        let longest = self.groups.iter().flat_map(|group| &group.bars).map(|bar| bar.value).reduce(f64::max)?;
        let step = step(longest);
        let height = TITLE + AXIS + self.groups.iter().map(height).sum::<i32>();
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, (WIDTH as u32, height as u32)).into_drawing_area();
        let drawn = self.draw(&area, longest.max(step), step, height).and_then(|()| area.present());
        drawn.expect("drawing into a string succeeds");
        drop(area);
        Some(svg)
    }

    fn draw(
        &self,
        area: &DrawingArea<SVGBackend, plotters::coord::Shift>,
        longest: f64,
        step: f64,
        height: i32,
    ) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        let text = |size: i32, colour: RGBColor, h: HPos, v: VPos| {
            ("sans-serif", size).into_font().color(&colour).pos(Pos::new(h, v))
        };
        let (ink, faint) = (RGBColor(30, 30, 30), RGBColor(95, 95, 95));
        area.fill(&WHITE)?;
        let title = ("sans-serif", 18).into_font().style(FontStyle::Bold).color(&ink);
        area.draw(&Text::new(self.title.clone(), (16, 10), title))?;
        area.draw(&Text::new(self.subtitle.clone(), (16, 33), text(13, faint, HPos::Left, VPos::Top)))?;
        let x = |value: f64| LEFT + (value / longest * f64::from(WIDTH - LEFT - RIGHT)).round() as i32;
        let bottom = height - AXIS + 4;
        for tick in 0..=(longest / step * 1.0001) as u32 {
            let at = x(f64::from(tick) * step);
            area.draw(&PathElement::new(vec![(at, TITLE), (at, bottom)], RGBColor(222, 222, 222)))?;
            let label = number(f64::from(tick) * step, step);
            area.draw(&Text::new(label, (at, bottom + 5), text(12, faint, HPos::Center, VPos::Top)))?;
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2;
        let axis = text(13, ink, HPos::Center, VPos::Top);
        area.draw(&Text::new(self.axis.clone(), (middle, bottom + 22), axis))?;
        let mut y = TITLE;
        for group in &self.groups {
            let heading = ("sans-serif", 14).into_font().style(FontStyle::Bold).color(&ink);
            let heading = heading.pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(group.heading.clone(), (16, y + HEADING / 2), heading))?;
            y += HEADING;
            for bar in &group.bars {
                let (top, middle) = (y + (ROW - BAR) / 2, y + ROW / 2);
                let corners = [(x(0.0), top), (x(bar.value), top + BAR)];
                area.draw(&Rectangle::new(corners, bar.colour.rgb().filled()))?;
                let name = text(14, ink, HPos::Right, VPos::Center);
                area.draw(&Text::new(bar.name.clone(), (LEFT - 8, middle), name))?;
                let value = text(14, ink, HPos::Left, VPos::Center);
                area.draw(&Text::new(bar.text.clone(), (x(bar.value) + 6, middle), value))?;
                y += ROW;
            }
            y += GAP;
        }
        area.draw(&PathElement::new(vec![(LEFT, TITLE), (LEFT, bottom)], ink))
    }
}

fn height(group: &Group) -> i32 {
    HEADING + ROW * group.bars.len() as i32 + GAP
}

/// A round distance between ticks, so that there are four to ten of them.
fn step(longest: f64) -> f64 {
    let power = 10f64.powf((longest / 4.0).log10().floor());
    [5.0, 2.0, 1.0].map(|round| round * power).into_iter().find(|step| longest / step >= 4.0).unwrap_or(power)
}

/// A tick's number, to the places that its step has.
fn number(value: f64, step: f64) -> String {
    let places = (-step.log10().floor()).max(0.0) as usize;
    format!("{value:.places$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for longest in [0.013, 0.4, 1.0, 7.3, 14.2, 99.0, 101.0, 2500.0] {
            let step = step(longest);
            assert!((4.0..=10.0).contains(&(longest / step)), "{longest}: {step}");
        }
        assert_eq!(number(0.6000000000000001, 0.2), "0.6");
        assert_eq!(number(30.0, 10.0), "30");
    }

    #[test]
    fn every_bar_has_its_name_number_and_length() {
        let bar = |name: &str, value| Bar { name: name.into(), value, text: format!("{value}"), colour: Colour::Ours };
        let groups = vec![Group { heading: "f32".into(), bars: vec![bar("half", 4.0), bar("whole", 8.0)] }];
        let chart = Chart { title: "T".into(), subtitle: "S".into(), axis: "tok/s".into(), groups };
        let svg = chart.svg().expect("two bars");
        for text in ["T", "S", "tok/s", "f32", "half", "whole"] {
            assert!(svg.lines().any(|line| line.trim() == text), "{text} is not in {svg}");
        }
        let whole = WIDTH - LEFT - RIGHT;
        for width in [whole / 2, whole] {
            assert!(svg.contains(&format!("width=\"{width}\" height=\"{BAR}\"")), "no bar of {width}: {svg}");
        }
        assert!(Chart { groups: Vec::new(), ..chart }.svg().is_none());
    }
}
