//! The merges of byte-pair encoding, found by the ids of the two tokens they join.

use std::convert::Infallible;

use super::index::{Index, mix};
use super::join::{self, NONE, Ranked, Scratch};

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

    /// Appends the tokens of a piece, given as one token a byte, to `out`.
    pub(super) fn apply(&self, piece: impl ExactSizeIterator<Item = u32>, scratch: &mut Scratch, out: &mut Vec<u32>) {
        let Ok(()) = join::apply(self, piece, scratch, out);
    }
}

impl Ranked for Merges {
    type Error = Infallible;

    #[inline]
    fn rank(&self, left: u32, right: u32) -> u32 {
        self.index.find(hash(left, right), |rank| self.list[rank as usize].joins(left, right)).unwrap_or(NONE)
    }

    #[inline]
    fn merged(&self, rank: u32, _: u32, _: u32) -> Result<u32, Infallible> {
        Ok(self.list[rank as usize].merged)
    }
}

/// The pair has a merge already.
#[derive(Debug)]
pub(super) struct Repeated;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Merges over the letters 0 to 3: every pair of tokens may be joined, in the given order.
    pub(in super::super) fn merges(pairs: &[(u32, u32)]) -> Merges {
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
}
