//! Sequences as a tree: what several of them begin with is a node of its own, which is evaluated once.

use crate::error::Error;
use crate::os::memory;
use std::ops::Range;

/// Positions that are evaluated once.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The node with the positions before; `None` at position 0.
    pub parent: Option<usize>,
    /// The positions.
    pub positions: Range<usize>,
    /// The sequences that have them, as a part of [`Tree::order`].
    pub sequences: Range<usize>,
    /// How many nodes have this one as their parent.
    pub n_children: usize,
    /// Most nodes that are open at a time below this one, when one path is followed after the other.
    pub depth: usize,
}

/// The nodes of some sequences.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// Numbers of the sequences, those that begin alike next to each other.
    pub order: Vec<usize>,
    /// Parents come before their children, and all that is below a node before what is not.
    pub nodes: Vec<Node>,
}

impl Tree {
    /// The tree of `n` sequences, of which `tokens` yields those to evaluate. No path has more than `most_depth` nodes,
    /// at least one: below it, common beginnings are evaluated for each of the sequences.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new<'t>(n: usize, tokens: impl Fn(usize) -> &'t [u32], most_depth: usize) -> Result<Tree, Error> {
        const WHAT: &str = "the tree of sequences";
        let mut order = memory::collected(0..n, WHAT)?;
        order.sort_unstable_by(|&a, &b| tokens(a).cmp(tokens(b)).then(a.cmp(&b)));
        let mut tree = Tree { order, nodes: Vec::new() };
        // Sequences with a common beginning, its length as far as it is known, its node, and the nodes above.
        let mut left = vec![(0..n, 0, None, 0)];
        while let Some((range, begin, parent, depth)) = left.pop() {
            let of = |at: usize| tokens(tree.order[at]);
            let (mut first, mut end) = (range.start, begin);
            // Those that end on the way come first, and do not end the node.
            while first < range.end && {
                end = end.max(common(of(first), of(range.end - 1)));
                of(first).len() == end
            } {
                first += 1;
            }
            let mut parts = tree.parts(first..range.end, end, &tokens);
            let (mut node, mut below) = (parent, depth);
            if end > begin && depth + 1 == most_depth && !parts.is_empty() {
                // Each part has a node from here on, the first one with the sequences that end on the way.
                parts[0].start = range.start;
                end = begin;
            } else if end > begin {
                (node, below) = (Some(tree.nodes.len()), depth + 1);
                memory::reserve(&mut tree.nodes, 1, WHAT)?;
                tree.nodes.push(Node { parent, positions: begin..end, sequences: range, n_children: 0, depth: 0 });
            }
            // The last one is taken first.
            memory::reserve(&mut left, parts.len(), WHAT)?;
            left.extend(parts.into_iter().rev().map(|part| (part, end, node, below)));
        }
        for index in (0..tree.nodes.len()).rev() {
            let depth = tree.nodes[index].depth;
            if let Some(parent) = tree.nodes[index].parent {
                let parent = &mut tree.nodes[parent];
                parent.n_children += 1;
                parent.depth = parent.depth.max(depth + 1);
            }
        }
        Ok(tree)
    }

    /// The parts of a range of sequences that continue with different tokens at position `at`.
    fn parts<'t>(&self, range: Range<usize>, at: usize, tokens: &impl Fn(usize) -> &'t [u32]) -> Vec<Range<usize>> {
        let mut parts: Vec<Range<usize>> = Vec::new();
        let mut start = range.start;
        while start < range.end {
            let token = tokens(self.order[start])[at];
            let same = self.order[start..range.end].partition_point(|&other| tokens(other)[at] <= token);
            parts.push(start..start + same);
            start += same;
        }
        parts
    }
}

/// Length of the common beginning.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(sequences: &[&[u32]], most_depth: usize) -> Tree {
        Tree::new(sequences.len(), |i| sequences[i], most_depth).expect("memory")
    }

    fn shown(tree: &Tree) -> Vec<(Option<usize>, Range<usize>, Range<usize>)> {
        tree.nodes.iter().map(|node| (node.parent, node.positions.clone(), node.sequences.clone())).collect()
    }

    #[test]
    fn common_beginnings_are_nodes() {
        let sequences: [&[u32]; 6] = [&[5, 6], &[1, 2, 3, 4], &[1, 2, 9], &[1, 2, 3, 5], &[], &[1, 2]];
        let tree = tree(&sequences, 8);
        assert_eq!(tree.order, [4, 5, 1, 3, 2, 0]);
        // [1, 2] ends where a node does; [] has none.
        let expected = [
            (None, 0..2, 1..5),
            (Some(0), 2..3, 2..4),
            (Some(1), 3..4, 2..3),
            (Some(1), 3..4, 3..4),
            (Some(0), 2..3, 4..5),
            (None, 0..2, 5..6),
        ];
        assert_eq!(shown(&tree), expected);
        let counts: Vec<_> = tree.nodes.iter().map(|node| (node.n_children, node.depth)).collect();
        assert_eq!(counts, [(2, 2), (2, 1), (0, 0), (0, 0), (0, 0), (0, 0)]);
    }

    #[test]
    fn sequences_that_end_on_the_way_are_in_one_node() {
        let tree = tree(&[&[1], &[1, 2, 3], &[1, 2], &[1, 2]], 8);
        assert_eq!((tree.order.as_slice(), shown(&tree)), (&[0, 2, 3, 1][..], vec![(None, 0..3, 0..4)]));
    }

    #[test]
    fn paths_have_at_most_the_depth() {
        // A comb: each sequence leaves the longest one a token later.
        let sequences: Vec<Vec<u32>> = (0..9).map(|n| [vec![1; n], vec![2]].concat()).collect();
        let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        assert_eq!(tree(&sequences, 1).nodes.len(), 9);
        for most_depth in 1..10 {
            assert_whole(&sequences, &tree(&sequences, most_depth), most_depth);
        }
    }

    /// Every sequence has a path of nodes from its first token to its last one.
    fn assert_whole(sequences: &[&[u32]], tree: &Tree, most_depth: usize) {
        assert!(tree.nodes.iter().all(|node| node.depth < most_depth), "{most_depth}: {:?}", shown(tree));
        for (at, &sequence) in tree.order.iter().enumerate() {
            let tokens = sequences[sequence];
            let nodes = || tree.nodes.iter().enumerate().filter(|(_, node)| node.sequences.contains(&at));
            let mut end = 0;
            for (index, node) in nodes() {
                let begin = node.parent.map_or(0, |parent| tree.nodes[parent].positions.end);
                assert!(node.positions.start == begin && begin == end && node.parent.is_none_or(|up| up < index));
                let of_node = sequences[tree.order[node.sequences.end - 1]];
                end = node.positions.end;
                assert_eq!(of_node[begin..end.min(tokens.len())], tokens[begin..end.min(tokens.len())]);
            }
            assert!(end >= tokens.len());
        }
        let n_evaluated: usize = tree.nodes.iter().map(|node| node.positions.len()).sum();
        assert!(n_evaluated <= sequences.iter().map(|tokens| tokens.len()).sum());
    }

    #[test]
    fn random_sequences_have_their_nodes_in_order() {
        let mut state = 1u32;
        let mut next = |n: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % n
        };
        for _ in 0..200 {
            let sequences: Vec<Vec<u32>> = (0..1 + next(12)).map(|_| (0..next(9)).map(|_| next(2)).collect()).collect();
            let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
            assert_whole(&sequences, &tree(&sequences, 1 + next(4) as usize), 4);
            let tree = tree(&sequences, 12);
            assert_whole(&sequences, &tree, 12);
            let mut distinct: Vec<&[u32]> = sequences.iter().flat_map(|s| (1..=s.len()).map(|n| &s[..n])).collect();
            distinct.sort_unstable();
            distinct.dedup();
            let n_evaluated: usize = tree.nodes.iter().map(|node| node.positions.len()).sum();
            assert_eq!(n_evaluated, distinct.len(), "{sequences:?} {:?}", shown(&tree));
        }
    }
}
