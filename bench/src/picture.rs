//! A picture of the table: for each case a line, on which every runtime has a mark at its multiple of the native time.

use std::fmt::Write as _;

/// One line: the case's name, and for each runtime (in order) its multiple.
pub type Line = (&'static str, Vec<Option<f64>>);

const WIDTH: f64 = 760.0;
const ROW: f64 = 15.0;
const TOP: f64 = 44.0;
const LEFT: f64 = 140.0;
const RIGHT: f64 = 20.0;
/// The ends of the scale, as powers of ten.
const SCALE: (f64, f64) = (-1.0, 3.0);
/// Colours that people with all kinds of eyes tell apart, and marks of different size.
const MARKS: [(&str, f64); 4] = [("#0072b2", 4.5), ("#d55e00", 3.5), ("#009e73", 3.0), ("#999999", 2.5)];

/// Where a multiple is, from left to right.
fn position(multiple: f64) -> f64 {
    let (low, high) = SCALE;
    let power = multiple.max(1e-9).log10().clamp(low, high);
    LEFT + (power - low) / (high - low) * (WIDTH - LEFT - RIGHT)
}

/// The picture as SVG. `runtimes` are those beside the native one.
pub fn svg(runtimes: &[&str], lines: &[Line]) -> String {
    let height = TOP + ROW * lines.len() as f64 + 8.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"10\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    for (index, name) in runtimes.iter().enumerate() {
        let (colour, size) = MARKS[index % MARKS.len()];
        let x = LEFT + 100.0 * index as f64;
        let _ = writeln!(
            text,
            "<circle cx=\"{x}\" cy=\"12\" r=\"{size}\" fill=\"{colour}\"/><text x=\"{}\" y=\"16\">{name}</text>",
            x + 8.0
        );
    }
    for power in SCALE.0 as i32..=SCALE.1 as i32 {
        let x = position(10f64.powi(power));
        let colour = if power == 0 { "#000" } else { "#ccc" };
        let _ = writeln!(
            text,
            "<path d=\"M{x:.1} {} V{height}\" stroke=\"{colour}\" stroke-width=\"0.6\"/>\
             <text x=\"{x:.1}\" y=\"34\" text-anchor=\"middle\">{}×</text>",
            TOP - 6.0,
            10f64.powi(power)
        );
    }
    for (index, (name, multiples)) in lines.iter().enumerate() {
        let y = TOP + ROW * (index as f64 + 0.5);
        let _ = writeln!(text, "<text x=\"4\" y=\"{:.1}\">{name}</text>", y + 3.5);
        for (runtime, multiple) in multiples.iter().enumerate().rev() {
            let (Some(multiple), (colour, size)) = (multiple, MARKS[runtime % MARKS.len()]) else { continue };
            let x = position(*multiple);
            let _ = writeln!(text, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{size}\" fill=\"{colour}\"/>");
        }
    }
    text + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_scale_is_at_its_end() {
        assert!((position(1e9) - (WIDTH - RIGHT)).abs() < 0.01);
        assert!((position(0.0) - LEFT).abs() < 0.01);
        let picture = svg(&["nacelle", "runsc"], &[("getpid", vec![Some(0.03), None])]);
        assert_eq!(picture.matches("<circle").count(), 3);
    }
}
