//! Statistics of repeated measurements.

use serde_json::Value;

/// The middle of some numbers; NaN for none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n => (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0,
    }
}

/// How many times as fast one program was as another: the middle, the least and the most of `slow[i] / fast[i]`, the
/// pairs that were measured next to each other. `None` without a pair.
pub fn ratios(slow: &[f64], fast: &[f64]) -> Option<(f64, f64, f64)> {
    let pairs = || slow.iter().zip(fast).map(|(slow, fast)| slow / fast);
    let least = pairs().reduce(f64::min)?;
    let most = pairs().reduce(f64::max)?;
    Some((median(pairs()), least, most))
}

/// A number of a JSON object; NaN for any other value.
pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_pairs_and_not_of_medians() {
        // A noisy minute slowed both programs in the second round.
        let (median, least, most) = ratios(&[1.1, 4.0, 1.2], &[1.0, 2.0, 1.0]).expect("three pairs");
        assert_eq!((median, least, most), (1.2, 1.1, 2.0));
        assert_eq!(ratios(&[], &[]), None);
    }

    #[test]
    fn median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median([]).is_nan());
    }
}
