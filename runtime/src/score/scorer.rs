//! The loop over passes: nodes of the tree take slots of the batch, stems before their branches.

use crate::error::Error;
use crate::kernels::lanes::{LogSumExp, Summed};
use crate::network::activations::LOGITS_CHUNK;
use crate::network::batch::Batch;
use crate::network::sequence::Row;
use crate::os::memory;
use crate::parallel::team::Team;
use crate::score::item::{Event, Item, TokenScore};
use crate::score::tree::Tree;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Scores `items`, which may be in any order. Those that begin alike share slots of the batch, of which each has a KV
/// cache. Items are reported when they are done.
///
/// # Errors
/// [`Error::UnknownToken`] before any pass; those of [`Batch::begin`], [`Batch::fork`], [`Batch::forward`],
/// [`Batch::logits`] and `report`, which end the run. An item whose logits are not finite does not. The sequences of
/// the batch have ended in any case.
///
/// # Panics
/// When an item has no tokens, or a `first` of 0.
pub fn score<E: From<Error>>(
    batch: &mut Batch,
    team: &mut Team,
    items: &[Item],
    mut report: impl FnMut(Event) -> Result<(), E>,
) -> Result<(), E> {
    assert!(items.iter().all(|item| !item.tokens.is_empty() && item.first > 0), "something that predicts");
    let vocab_size = batch.config().vocab_size;
    let unknown = items.iter().flat_map(|item| item.tokens).find(|&&token| token as usize >= vocab_size);
    if let Some(&token) = unknown {
        return Err(Error::UnknownToken { token, vocab_size }.into());
    }
    let mut scorer = Scorer::new(batch.n_slots(), items)?;
    let result = scorer.run(batch, team, &mut report);
    // After an error, branches before their stems.
    scorer.open.sort_unstable_by_key(|open| Reverse(open.node));
    scorer.open.iter().for_each(|open| batch.release(open.slot));
    result
}

/// A node that has a slot.
struct Open {
    node: usize,
    /// The first of its items.
    first: usize,
    slot: usize,
    /// Positions of the node that were evaluated.
    n_done: usize,
    /// Children that have not ended.
    n_children: usize,
}

struct Scorer<'a> {
    items: &'a [Item<'a>],
    tree: Tree,
    /// Nodes that can begin, those of the first items first: results are wanted in the order of the items.
    ready: BTreeSet<(usize, usize)>,
    /// Those of the first items first.
    open: Vec<Open>,
    free: Vec<usize>,
    /// By item, with room for all its scores since its first row.
    scores: Vec<Vec<TokenScore>>,
    /// How many tokens of an item have no score; 0 after an error, too.
    n_left: Vec<usize>,
    /// Items that were done in this pass.
    done: Vec<(usize, Result<Vec<TokenScore>, Error>)>,
}

impl<'a> Scorer<'a> {
    /// Pass after pass, until all nodes have ended.
    fn run<E: From<Error>>(
        &mut self,
        batch: &mut Batch,
        team: &mut Team,
        report: &mut impl FnMut(Event) -> Result<(), E>,
    ) -> Result<(), E> {
        for (index, _) in self.items.iter().enumerate().filter(|(_, item)| item.evaluated().is_empty()) {
            report(Event::Scored(index, Ok(Vec::new())))?;
        }
        loop {
            self.start(batch)?;
            let parts = self.parts(batch.options().chunk)?;
            if parts.is_empty() {
                assert!(self.open.is_empty() && self.ready.is_empty(), "every node has ended");
                return Ok(());
            }
            batch.forward(team, parts.iter().copied())?;
            let taken: Vec<(usize, usize)> = parts.iter().map(|(slot, tokens)| (*slot, tokens.len())).collect();
            self.read_logits(batch, team)?;
            self.advance(batch, &taken, report)?;
            report(Event::Pass(taken.iter().map(|(_, n)| n).sum()))?;
        }
    }

    fn new(n_slots: usize, items: &'a [Item<'a>]) -> Result<Scorer<'a>, Error> {
        const WHAT: &str = "the scores";
        let tree = Tree::new(items.len(), |index| items[index].evaluated(), n_slots)?;
        let roots = (0..tree.nodes.len()).filter(|&index| tree.nodes[index].parent.is_none());
        Ok(Scorer {
            items,
            ready: roots.map(|index| (first_item(&tree, index), index)).collect(),
            tree,
            open: memory::room_for(n_slots, WHAT)?,
            free: memory::collected((0..n_slots).rev(), WHAT)?,
            scores: memory::collected(items.iter().map(|_| Vec::new()), WHAT)?,
            n_left: memory::collected(items.iter().map(|item| item.tokens.len().saturating_sub(item.first)), WHAT)?,
            done: Vec::new(),
        })
    }

    /// Gives free slots to nodes that can begin. A stem begins only if the slots that are left are enough for all that
    /// is below it: the stem that began last can always be finished.
    fn start(&mut self, batch: &mut Batch) -> Result<(), Error> {
        let can_begin = |scorer: &Self| {
            let has_room = |(_, index): &&(usize, usize)| scorer.tree.nodes[*index].depth < scorer.free.len();
            scorer.ready.iter().find(has_room).copied()
        };
        while let Some((first, index)) = can_begin(self) {
            let node = &self.tree.nodes[index];
            self.ready.remove(&(first, index));
            let slot = self.free.pop().expect("more than the depth");
            match node.parent {
                None => batch.begin(slot, node.positions.end)?,
                Some(parent) => {
                    let stem = self.open.iter().find(|open| open.node == parent).expect("a stem is open").slot;
                    let forked = batch.fork(stem, node.positions.start, slot, node.positions.end)?;
                    assert!(forked, "a stem that ends where its branches begin");
                }
            }
            let at = self.open.partition_point(|open| (open.first, open.node) < (first, index));
            self.open.insert(at, Open { node: index, first, slot, n_done: 0, n_children: node.n_children });
        }
        Ok(())
    }

    /// What the next pass takes, by slot: as much of each node as there is room for, in their order.
    fn parts(&self, most_rows: usize) -> Result<Vec<(usize, &'a [u32])>, Error> {
        let mut parts = memory::room_for(self.open.len(), "the parts of a pass")?;
        let mut room = most_rows;
        for open in &self.open {
            let node = &self.tree.nodes[open.node];
            let n = (node.positions.len() - open.n_done).min(room);
            if n > 0 {
                let begin = node.positions.start + open.n_done;
                let tokens = self.items[self.tree.order[node.sequences.end - 1]].evaluated();
                parts.push((open.slot, &tokens[begin..begin + n]));
                room -= n;
            }
        }
        Ok(parts)
    }

    /// The items that a row predicts a token of, and the token.
    fn predicted(&self, row: Row) -> impl Iterator<Item = (usize, u32)> {
        let next = row.position + 1;
        let open = self.open.iter().find(|open| open.slot == row.sequence).expect("only open nodes have rows");
        let sequences = self.tree.nodes[open.node].sequences.clone();
        self.tree.order[sequences].iter().filter_map(move |&index| {
            let item = &self.items[index];
            let is_scored = next >= item.first && self.n_left[index] > 0;
            item.tokens.get(next).filter(|_| is_scored).map(|&token| (index, token))
        })
    }

    /// Adds what the rows of the last pass predict to the scores.
    fn read_logits(&mut self, batch: &mut Batch, team: &mut Team) -> Result<(), Error> {
        let (vocab_size, isa) = (batch.config().vocab_size, batch.options().backend.isa);
        let rows: Vec<Row> = batch.rows().to_vec();
        let mut summed = [Summed::default(); LOGITS_CHUNK];
        let mut next = 0;
        while next < rows.len() {
            let wanted = (next..rows.len()).filter(|&row| self.predicted(rows[row]).next().is_some());
            let wanted: Vec<usize> = wanted.take(LOGITS_CHUNK).collect();
            let Some(&last) = wanted.last() else { return Ok(()) };
            let logits = match batch.logits(team, wanted.iter().copied()) {
                Ok(logits) => logits,
                Err(Error::NotFinite { sequence, position, token, first }) => {
                    // All that have this position fail; the others are read again without it.
                    let node = self.open.iter().find(|open| open.slot == sequence).expect("a node with rows").node;
                    for &index in &self.tree.order[self.tree.nodes[node].sequences.clone()] {
                        let item = &self.items[index];
                        let needs_it = position + 1 >= item.first && item.evaluated().len() > position;
                        if needs_it && self.n_left[index] > 0 {
                            self.n_left[index] = 0;
                            self.done.push((index, Err(Error::NotFinite { sequence: index, position, token, first })));
                        }
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            let logits_of = |row: usize| &logits[row * vocab_size..][..vocab_size];
            team.for_rows(&mut summed[..wanted.len()], 1, |row, summed| summed[0] = isa.run(LogSumExp(logits_of(row))));
            let mut predicted = Vec::new();
            for (i, &row) in wanted.iter().enumerate() {
                let (Summed { log_sum_exp, max }, logits) = (summed[i], logits_of(i));
                predicted.clear();
                predicted.extend(self.predicted(rows[row]));
                for &(index, token) in &predicted {
                    let token = token as usize;
                    let nll = log_sum_exp - f64::from(logits[token]);
                    let score = TokenScore { nll, is_greedy: is_greedy(logits, token, max) };
                    self.note(index, rows[row].position + 1, score)?;
                }
            }
            next = last + 1;
        }
        Ok(())
    }

    /// Notes the score of token number `token` of an item.
    fn note(&mut self, index: usize, token: usize, score: TokenScore) -> Result<(), Error> {
        let (item, of_item) = (&self.items[index], &mut self.scores[index]);
        let n_scored = item.tokens.len() - item.first;
        if of_item.is_empty() {
            memory::reserve(of_item, n_scored, "the scores")?;
            of_item.resize(n_scored, TokenScore { nll: f64::NAN, is_greedy: false });
        }
        of_item[token - item.first] = score;
        self.n_left[index] -= 1;
        if self.n_left[index] == 0 {
            let scores = std::mem::take(of_item);
            self.done.push((index, Ok(scores)));
        }
        Ok(())
    }

    /// After a pass: reports the items that are done, lets the children of nodes that are done begin, and frees the
    /// slots of those that have none left.
    fn advance<E: From<Error>>(
        &mut self,
        batch: &mut Batch,
        taken: &[(usize, usize)],
        report: &mut impl FnMut(Event) -> Result<(), E>,
    ) -> Result<(), E> {
        for (index, scores) in self.done.drain(..) {
            report(Event::Scored(index, scores))?;
        }
        for &(slot, n) in taken {
            let open = self.open.iter_mut().find(|open| open.slot == slot).expect("a node with rows");
            let node = &self.tree.nodes[open.node];
            open.n_done += n;
            if open.n_done < node.positions.len() {
                continue;
            }
            let (parent, end) = (open.node, node.sequences.end);
            let below = self.tree.nodes.iter().enumerate().skip(parent + 1);
            let below = below.take_while(|(_, below)| below.sequences.start < end);
            self.ready.extend(
                below
                    .filter(|(_, below)| below.parent == Some(parent))
                    .map(|(index, _)| (first_item(&self.tree, index), index)),
            );
            self.close(batch, parent);
        }
        Ok(())
    }

    /// Frees the slot of a node that is done if it has no children left, and then those of its stems.
    fn close(&mut self, batch: &mut Batch, node: usize) {
        let mut done = Some(node);
        while let Some(node) = done {
            let at = self.open.iter().position(|open| open.node == node).expect("an open node");
            if self.open[at].n_children > 0 {
                break;
            }
            let slot = self.open.remove(at).slot;
            batch.release(slot);
            self.free.push(slot);
            done = self.tree.nodes[node].parent;
            if let Some(parent) = done {
                let parent = self.open.iter_mut().find(|open| open.node == parent).expect("a stem is open");
                parent.n_children -= 1;
            }
        }
    }
}

/// The first of the items of a node.
fn first_item(tree: &Tree, node: usize) -> usize {
    tree.order[tree.nodes[node].sequences.clone()].iter().copied().min().unwrap_or(0)
}

/// Whether a token is the first of the likeliest, whose logit is `max`.
fn is_greedy(logits: &[f32], token: usize, max: f32) -> bool {
    logits[token] == max && logits[..token].iter().all(|&logit| logit != max)
}
