//! A logarithmic axis: where a value goes, and which values are written beside it.

/// From `low` to `high`, whole decades or halves of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    /// Where these two are drawn.
    from: f64,
    to: f64,
}

impl Axis {
    /// Wide enough for all of `values` that are above zero; a decade if there is none.
    pub(super) fn around(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (mut low, mut high) = (f64::INFINITY, 0.0f64);
        for value in values.filter(|value| value.is_finite() && *value > 0.0) {
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            (low, high) = (1.0, 10.0);
        }
        let low = below(low);
        Self {
            low,
            high: below(1.0 / high).recip(),
            from,
            to,
        }
        .at_least_an_octave()
    }

    fn at_least_an_octave(mut self) -> Self {
        if self.high <= self.low {
            self.high = self.low * 10.0;
        }
        self
    }

    /// Where `value` goes.
    pub(super) fn place(&self, value: f64) -> f64 {
        let share = (value / self.low).ln() / (self.high / self.low).ln();
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Values to be written: 1, 2 and 5 of each decade, or its 1 alone where there are many.
    pub(super) fn marks(&self) -> Vec<f64> {
        let decades = (self.high / self.low).log10();
        let steps: &[f64] = if decades > 3.1 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let mut marks = Vec::new();
        let mut decade = 10f64.powf(self.low.log10().floor());
        while decade <= self.high * 1.001 {
            let values = steps.iter().map(|step| step * decade);
            marks.extend(values.filter(|value| *value >= self.low * 0.999 && *value <= self.high * 1.001));
            decade *= 10.0;
        }
        marks
    }
}

/// The next 1, 2 or 5 of a decade at or below `value`.
fn below(value: f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    let steps = [5.0, 2.0, 1.0];
    let step = steps.into_iter().find(|step| step * decade <= value * 1.000_001);
    decade * step.unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_wide_as_its_values_and_marks_round_ones() {
        let axis = Axis::around([130.0, 0.0, f64::NAN, 1_400.0].into_iter(), 0.0, 100.0);
        let marks: Vec<String> = axis.marks().iter().map(|mark| format!("{mark:.0}")).collect();
        assert_eq!(marks, ["100", "200", "500", "1000", "2000"]);
        assert!(axis.place(100.0).abs() < 1e-9 && (axis.place(2_000.0) - 100.0).abs() < 1e-9);
        assert!(axis.place(130.0) < axis.place(131.0));
    }

    #[test]
    fn nothing_and_a_single_value_have_an_axis_too() {
        assert!(Axis::around(std::iter::empty(), 0.0, 1.0).marks().len() >= 2);
        let one = Axis::around(std::iter::once(5.0), 0.0, 1.0);
        assert!(one.place(5.0).is_finite() && one.marks().len() >= 2, "{one:?}");
    }
}
