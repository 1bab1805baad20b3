//! A bounded window of samples, with sums that are exact: nothing drifts, however many have come and gone.

/// The last samples, in microseconds. Takes its memory with the first of them: four bytes for each.
#[derive(Clone, Debug)]
pub(super) struct Window {
    size: u16,
    samples: Vec<i32>,
    /// Where the next one goes, once it is full.
    next: u16,
    sum: i64,
    squares: i128,
}

impl Window {
    /// Holds at least one.
    pub(super) fn new(size: u16) -> Self {
        Self {
            size: size.max(1),
            samples: Vec::new(),
            next: 0,
            sum: 0,
            squares: 0,
        }
    }

    pub(super) fn push(&mut self, micros: i32) {
        if self.samples.len() < usize::from(self.size) {
            if self.samples.capacity() == 0 {
                self.samples.reserve_exact(usize::from(self.size));
            }
            self.samples.push(micros);
        } else {
            let oldest = std::mem::replace(&mut self.samples[usize::from(self.next)], micros);
            self.next = (self.next + 1) % self.size;
            self.sum -= i64::from(oldest);
            self.squares -= square(oldest);
        }
        self.sum += i64::from(micros);
        self.squares += square(micros);
    }

    /// Keeps its memory.
    pub(super) fn clear(&mut self) {
        self.samples.clear();
        self.next = 0;
        self.sum = 0;
        self.squares = 0;
    }

    pub(super) fn count(&self) -> u16 {
        u16::try_from(self.samples.len()).unwrap_or(u16::MAX)
    }

    /// Of the samples; zero if there is none.
    pub(super) fn mean(&self) -> f64 {
        let count = self.count();
        if count == 0 {
            return 0.0;
        }
        self.sum as f64 / f64::from(count)
    }

    /// Of the samples, about their mean; zero if there is none.
    pub(super) fn variance(&self) -> f64 {
        let count = i128::from(self.count());
        if count == 0 {
            return 0.0;
        }
        let sum = i128::from(self.sum);
        // Whole numbers: a small difference of large ones loses nothing, and is never below zero.
        (count * self.squares - sum * sum) as f64 / (count * count) as f64
    }
}

fn square(micros: i32) -> i128 {
    i128::from(i64::from(micros) * i64::from(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_forgets_the_oldest_and_takes_its_memory_once() {
        let mut window = Window::new(3);
        assert_eq!(
            (window.samples.capacity(), window.mean(), window.variance()),
            (0, 0.0, 0.0)
        );
        for sample in [1_000, 1, 2, 3] {
            window.push(sample);
        }
        assert_eq!((window.count(), window.samples.capacity()), (3, 3));
        assert!((window.mean() - 2.0).abs() < 1e-12);
        assert!((window.variance() - 2.0 / 3.0).abs() < 1e-12);
        window.clear();
        assert_eq!((window.count(), window.mean()), (0, 0.0));
    }

    #[test]
    fn its_sums_are_those_of_what_it_holds_to_the_last_digit() {
        let mut window = Window::new(37);
        let mut samples = Vec::new();
        let mut state = 1u32;
        for _ in 0..5_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            samples.push(state.cast_signed());
            window.push(state.cast_signed());
            let kept = &samples[samples.len().saturating_sub(37)..];
            assert_eq!(
                window.sum,
                kept.iter().map(|micros| i64::from(*micros)).sum::<i64>()
            );
            assert_eq!(
                window.squares,
                kept.iter().map(|micros| square(*micros)).sum::<i128>()
            );
            assert!(window.variance() >= 0.0);
        }
    }
}
