//! How often names occur.

/// The different names, each with how many there are: the most frequent first, then in the order of their first ones.
pub(crate) fn counted(names: impl Iterator<Item = &'static str>) -> Vec<(&'static str, usize)> {
    let mut counts: Vec<(&'static str, usize)> = Vec::new();
    for name in names {
        match counts.iter_mut().find(|(of, _)| *of == name) {
            Some((_, n)) => *n += 1,
            None => counts.push((name, 1)),
        }
    }
    // The most frequent first.
    counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    counts
}
