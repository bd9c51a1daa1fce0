//! Numbers for people.

/// Bytes in decimal units, as disks are sold and `ls --si` counts.
pub fn size(bytes: u64) -> String {
    scaled(bytes, &[(1e9, "GB"), (1e6, "MB"), (1e3, "kB")]).unwrap_or_else(|| format!("{bytes} bytes"))
}

/// How many there are: "1.48 billion".
pub fn count(n: u64) -> String {
    scaled(n, &[(1e9, "billion"), (1e6, "million"), (1e3, "thousand")]).unwrap_or_else(|| n.to_string())
}

/// `n` in the first unit that it reaches.
fn scaled(n: u64, units: &[(f64, &str)]) -> Option<String> {
    let (unit, name) = units.iter().find(|(unit, _)| n as f64 >= *unit)?;
    Some(format!("{:.2} {name}", n as f64 / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_those_of_a_thousand() {
        assert_eq!([0, 999, 1000, 4096].map(size), ["0 bytes", "999 bytes", "1.00 kB", "4.10 kB"]);
        assert_eq!([2_236_614_656, 5_940_000].map(size), ["2.24 GB", "5.94 MB"]);
        assert_eq!([12, 524_288, 1_484_916_736].map(count), ["12", "524.29 thousand", "1.48 billion"]);
    }
}
