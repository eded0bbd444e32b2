//! The merges of byte-pair encoding, and how a piece of text is merged.
//!
//! A piece starts as one token a byte. Of all neighbours that a merge joins, the pair whose merge
//! stands first in the list is joined (the leftmost of equals), until no neighbours can be joined.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::index::{Index, mix};

/// The rank of a pair that nothing joins, and the id of a token that has been merged away.
const NONE: u32 = u32::MAX;

/// Up to this many bytes a piece is merged by scanning, which is faster than keeping a heap; the
/// scan's cost grows with the square of the length, so longer pieces take the heap.
const SCAN_MAX: usize = 32;

/// One merge: `left` and `right`, side by side, become `merged`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Merge {
    pub(super) left: u32,
    pub(super) right: u32,
    pub(super) merged: u32,
}

impl Merge {
    fn joins(self, left: u32, right: u32) -> bool {
        self.left == left && self.right == right
    }
}

/// The hash of a pair.
#[inline]
fn hash(left: u32, right: u32) -> u64 {
    mix(u64::from(left) << 32 | u64::from(right))
}

/// Merges in order, with an index by pair. The place of a merge in the list is its rank.
#[derive(Clone, Debug)]
pub(super) struct Merges {
    list: Vec<Merge>,
    /// Ranks by pair.
    index: Index,
}

impl Merges {
    /// An empty list for at most `n` merges.
    pub(super) fn with_capacity(n: usize) -> Self {
        Self { list: Vec::with_capacity(n), index: Index::with_capacity(n) }
    }

    /// Adds a merge at the end, unless its pair has one already.
    pub(super) fn push(&mut self, merge: Merge) -> Result<(), Repeated> {
        let (rank, list) = (self.list.len() as u32, &self.list);
        let is_pair = |other: u32| list[other as usize].joins(merge.left, merge.right);
        self.index.insert(hash(merge.left, merge.right), rank, is_pair).map_err(|_| Repeated)?;
        self.list.push(merge);
        Ok(())
    }

    /// All merges, first to last.
    pub(super) fn list(&self) -> &[Merge] {
        &self.list
    }

    /// The rank of the merge that joins two tokens, [`NONE`] where nothing does.
    #[inline]
    fn rank(&self, left: u32, right: u32) -> u32 {
        self.index.find(hash(left, right), |rank| self.list[rank as usize].joins(left, right)).unwrap_or(NONE)
    }

    /// Appends the tokens of a piece, given as one token a byte, to `out`.
    pub(super) fn apply(&self, piece: impl ExactSizeIterator<Item = u32>, scratch: &mut Scratch, out: &mut Vec<u32>) {
        if piece.len() <= SCAN_MAX { self.apply_scan(piece, out) } else { self.apply_heap(piece, scratch, out) }
    }

    /// [`Merges::apply`] by looking at all pairs before each merge.
    fn apply_scan(&self, piece: impl ExactSizeIterator<Item = u32>, out: &mut Vec<u32>) {
        let mut ids = [0; SCAN_MAX + 1];
        let mut n = 0;
        for id in piece {
            ids[n] = id;
            n += 1;
        }
        // ranks[i] is that of the pair (ids[i], ids[i + 1]).
        let mut ranks = [NONE; SCAN_MAX + 1];
        for i in 1..n {
            ranks[i - 1] = self.rank(ids[i - 1], ids[i]);
        }
        while n > 1 {
            let (mut at, mut best) = (0, ranks[0]);
            for i in 1..n - 1 {
                if ranks[i] < best {
                    (at, best) = (i, ranks[i]);
                }
            }
            if best == NONE {
                break;
            }
            ids[at] = self.list[best as usize].merged;
            n -= 1;
            // A few steps, for which a call to move memory would take longer.
            for i in at..n {
                ranks[i] = ranks[i + 1];
            }
            for i in at + 1..n {
                ids[i] = ids[i + 1];
            }
            ranks[n - 1] = NONE;
            if at > 0 {
                ranks[at - 1] = self.rank(ids[at - 1], ids[at]);
            }
            if at + 1 < n {
                ranks[at] = self.rank(ids[at], ids[at + 1]);
            }
        }
        out.extend_from_slice(&ids[..n]);
    }

    /// [`Merges::apply`] with a linked list of tokens and a heap of pairs, `n log n` for `n` bytes.
    fn apply_heap(&self, piece: impl ExactSizeIterator<Item = u32>, scratch: &mut Scratch, out: &mut Vec<u32>) {
        let n = u32::try_from(piece.len()).expect("a word of 4 GiB");
        let Scratch { nodes, heap } = scratch;
        nodes.clear();
        heap.clear();
        nodes.extend(piece.zip(0u32..).map(|(id, i)| Node { id, before: i.wrapping_sub(1), after: i + 1 }));
        for i in 1..n {
            self.offer(heap, nodes, i - 1, i);
        }
        while let Some(Reverse((rank, at))) = heap.pop() {
            // A pair whose tokens have been merged away since is still in the heap: its rank no longer agrees.
            let Node { id, before, after } = nodes[at as usize];
            if id == NONE || after >= n || self.rank(id, nodes[after as usize].id) != rank {
                continue;
            }
            let beyond = nodes[after as usize].after;
            nodes[after as usize].id = NONE;
            nodes[at as usize] = Node { id: self.list[rank as usize].merged, before, after: beyond };
            if beyond < n {
                nodes[beyond as usize].before = at;
                self.offer(heap, nodes, at, beyond);
            }
            if at > 0 {
                self.offer(heap, nodes, before, at);
            }
        }
        out.extend(nodes.iter().map(|node| node.id).filter(|&id| id != NONE));
    }

    /// Puts the pair of nodes `left` and `right` into the heap if a merge joins them.
    fn offer(&self, heap: &mut BinaryHeap<Reverse<(u32, u32)>>, nodes: &[Node], left: u32, right: u32) {
        let rank = self.rank(nodes[left as usize].id, nodes[right as usize].id);
        if rank != NONE {
            heap.push(Reverse((rank, left)));
        }
    }
}

/// The pair has a merge already.
#[derive(Debug)]
pub(super) struct Repeated;

/// Working memory for long pieces, kept between them.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    nodes: Vec<Node>,
    /// Rank and left node of each pair that may be merged, the first merge on top.
    heap: BinaryHeap<Reverse<(u32, u32)>>,
}

/// A token in a piece; its place is its first byte.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// [`NONE`] once the token is part of the one before it.
    id: u32,
    /// The token before; without meaning in the first.
    before: u32,
    /// The token after; the length of the piece in the last.
    after: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Merges over the letters 0 to 3: every pair of tokens may be joined, in the given order.
    fn merges(pairs: &[(u32, u32)]) -> Merges {
        let mut merges = Merges::with_capacity(pairs.len());
        let mut merged = 4;
        for &(left, right) in pairs {
            if merges.push(Merge { left: left % merged, right: right % merged, merged }).is_ok() {
                merged += 1;
            }
        }
        merges
    }

    #[test]
    fn the_leftmost_of_equals_is_joined() {
        let merges = merges(&[(0, 0)]);
        let mut out = Vec::new();
        merges.apply([0, 0, 0].into_iter(), &mut Scratch::default(), &mut out);
        assert_eq!(out, [4, 0]);
    }

    proptest! {
        #[test]
        fn scan_and_heap_agree(
            pairs in prop::collection::vec((0u32..40, 0u32..40), 1..40),
            piece in prop::collection::vec(0u32..4, 1..=SCAN_MAX),
        ) {
            let merges = merges(&pairs);
            let (mut scanned, mut heaped) = (Vec::new(), Vec::new());
            merges.apply_scan(piece.iter().copied(), &mut scanned);
            merges.apply_heap(piece.iter().copied(), &mut Scratch::default(), &mut heaped);
            prop_assert_eq!(scanned, heaped);
        }
    }
}
