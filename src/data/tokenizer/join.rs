//! How a piece of text is merged, whoever knows the merges.
//!
//! A piece starts as one token a byte. Of all neighbours that a merge joins, the pair whose merge
//! stands first in the list is joined (the leftmost of equals), until no neighbours can be joined.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The rank of a pair that nothing joins, and the id of a token that has been merged away.
pub(super) const NONE: u32 = u32::MAX;

/// Up to this many bytes a piece is merged by scanning, which is faster than keeping a heap; the
/// scan's cost grows with the square of the length, so longer pieces take the heap.
pub(super) const SCAN_MAX: usize = 32;

/// Who knows which tokens are joined, and to what.
pub(super) trait Ranked {
    /// A merge that should not be there.
    type Error;

    /// The rank of the merge that joins two tokens, its place in the list; [`NONE`] where nothing does.
    fn rank(&self, left: u32, right: u32) -> u32;

    /// The token that the merge of this rank makes of the two.
    fn merged(&self, rank: u32, left: u32, right: u32) -> Result<u32, Self::Error>;
}

/// Appends the tokens of a piece, given as one token a byte, to `out`.
pub(super) fn apply<R: Ranked>(
    merges: &R,
    piece: impl ExactSizeIterator<Item = u32>,
    scratch: &mut Scratch,
    out: &mut Vec<u32>,
) -> Result<(), R::Error> {
    if piece.len() <= SCAN_MAX { by_scan(merges, piece, out) } else { by_heap(merges, piece, scratch, out) }
}

/// [`apply`] by looking at all pairs before each merge.
fn by_scan<R: Ranked>(merges: &R, piece: impl ExactSizeIterator<Item = u32>, out: &mut Vec<u32>) -> Result<(), R::Error> {
    let mut ids = [0; SCAN_MAX + 1];
    let mut n = 0;
    for id in piece {
        ids[n] = id;
        n += 1;
    }
    // ranks[i] is that of the pair (ids[i], ids[i + 1]).
    let mut ranks = [NONE; SCAN_MAX + 1];
    for i in 1..n {
        ranks[i - 1] = merges.rank(ids[i - 1], ids[i]);
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
        ids[at] = merges.merged(best, ids[at], ids[at + 1])?;
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
            ranks[at - 1] = merges.rank(ids[at - 1], ids[at]);
        }
        if at + 1 < n {
            ranks[at] = merges.rank(ids[at], ids[at + 1]);
        }
    }
    out.extend_from_slice(&ids[..n]);
    Ok(())
}

/// [`apply`] with a linked list of tokens and a heap of pairs, `n log n` for `n` bytes.
fn by_heap<R: Ranked>(
    merges: &R,
    piece: impl ExactSizeIterator<Item = u32>,
    scratch: &mut Scratch,
    out: &mut Vec<u32>,
) -> Result<(), R::Error> {
    let n = u32::try_from(piece.len()).expect("a word of 4 GiB");
    let Scratch { nodes, heap } = scratch;
    nodes.clear();
    heap.clear();
    nodes.extend(piece.zip(0u32..).map(|(id, i)| Node { id, before: i.wrapping_sub(1), after: i + 1 }));
    for i in 1..n {
        offer(merges, heap, nodes, i - 1, i);
    }
    while let Some(Reverse((rank, at))) = heap.pop() {
        // A pair whose tokens have been merged away since is still in the heap: its rank no longer agrees.
        let Node { id, before, after } = nodes[at as usize];
        if id == NONE || after >= n || merges.rank(id, nodes[after as usize].id) != rank {
            continue;
        }
        let Node { id: next, after: beyond, .. } = nodes[after as usize];
        nodes[after as usize].id = NONE;
        nodes[at as usize] = Node { id: merges.merged(rank, id, next)?, before, after: beyond };
        if beyond < n {
            nodes[beyond as usize].before = at;
            offer(merges, heap, nodes, at, beyond);
        }
        if at > 0 {
            offer(merges, heap, nodes, before, at);
        }
    }
    out.extend(nodes.iter().map(|node| node.id).filter(|&id| id != NONE));
    Ok(())
}

/// Puts the pair of nodes `left` and `right` into the heap if a merge joins them.
fn offer(merges: &impl Ranked, heap: &mut BinaryHeap<Reverse<(u32, u32)>>, nodes: &[Node], left: u32, right: u32) {
    let rank = merges.rank(nodes[left as usize].id, nodes[right as usize].id);
    if rank != NONE {
        heap.push(Reverse((rank, left)));
    }
}

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
    use super::super::merges::tests::merges;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn scan_and_heap_agree(
            pairs in prop::collection::vec((0u32..40, 0u32..40), 1..40),
            piece in prop::collection::vec(0u32..4, 1..=SCAN_MAX),
        ) {
            let merges = merges(&pairs);
            let (mut scanned, mut heaped) = (Vec::new(), Vec::new());
            let Ok(()) = by_scan(&merges, piece.iter().copied(), &mut scanned);
            let Ok(()) = by_heap(&merges, piece.iter().copied(), &mut Scratch::default(), &mut heaped);
            prop_assert_eq!(scanned, heaped);
        }
    }
}
