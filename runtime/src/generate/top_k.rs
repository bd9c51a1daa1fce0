//! The largest logits, without sorting all of them.

/// Longer lists are sorted: inserting one by one moves too much.
const MAX_INSERTED: usize = 256;

/// Ids and logits of the `k` largest logits, largest first; equal logits rank by the lower id.
pub fn top_k(logits: &[f32], k: usize) -> Vec<(u32, f32)> {
    let mut top = Vec::new();
    top_k_into(logits, k, &mut top);
    top
}

/// Most elements that [`top_k_into`] has in its vector at a time.
pub(crate) fn top_k_room(k: usize, n_logits: usize) -> usize {
    if k > MAX_INSERTED { n_logits } else { k + 1 }
}

/// As [`top_k`], into a vector whose memory is used again.
pub fn top_k_into(logits: &[f32], k: usize, top: &mut Vec<(u32, f32)>) {
    top.clear();
    if k == 0 {
        return;
    }
    if k > MAX_INSERTED {
        top.extend((0..).zip(logits.iter().copied()));
        top.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        return top.truncate(k);
    }
    // Most runs of 64 logits hold nothing that is large enough: one comparison of their maximum passes over them.
    for (first, chunk) in (0u32..).step_by(64).zip(logits.chunks(64)) {
        let bound = if top.len() < k { f32::NEG_INFINITY } else { top[k - 1].1 };
        if top.len() == k && !chunk.iter().fold(false, |found, &x| found | (x > bound)) {
            continue;
        }
        for (id, &logit) in (first..).zip(chunk) {
            // Ids ascend, so an equal logit comes after those that are there.
            if top.len() < k || logit > top[k - 1].1 {
                let place = top.partition_point(|&(_, other)| other >= logit);
                top.insert(place, (id, logit));
                top.truncate(k);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first_and_ties_rank_by_the_lower_id() {
        let mut logits = vec![-1.0; 200];
        for (id, logit) in [(3, 2.0), (150, 5.0), (64, 5.0), (63, 5.0), (199, 3.0)] {
            logits[id] = logit;
        }
        assert_eq!(top_k(&logits, 4), [(63, 5.0), (64, 5.0), (150, 5.0), (199, 3.0)]);
        assert_eq!(top_k(&logits, 1), [(63, 5.0)]);
        assert_eq!(top_k(&logits[..2], 5), [(0, -1.0), (1, -1.0)]);
        assert_eq!(top_k(&logits, 0), []);
    }

    #[test]
    fn agrees_with_a_sort() {
        let logits: Vec<f32> = (0..1000u32).map(|i| (i.wrapping_mul(2654435761) >> 24) as f32).collect();
        let mut sorted: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        for k in [1, 5, 17, 1000, 2000] {
            assert_eq!(top_k(&logits, k), sorted[..k.min(1000)]);
        }
    }
}
