//! Smaller vocabularies, cut from a larger one.
//!
//! A subset keeps, with every token, the tokens its merge joins, down to the bytes. So each token
//! can still be built, and a text whose tokens are all kept is cut as before: every merge on the way
//! to them is still there, and of the merges that are left, the one that came first still does.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::merges::{Merge, Merges};
use super::tokens::{Refused, Tokens};
use super::{Encoder, Tokenizer, byte_ids};

impl Tokenizer {
    /// The vocabulary of the tokens in `keep`, of those they are made of, all 256 bytes and the end token.
    ///
    /// Ids are given anew, in the order of the old ones, the end token last; [`Tokenizer::ids_in`] leads back.
    /// Any text still encodes, and one whose tokens are all kept has the same tokens as before. Tokens that no
    /// merge makes (special ones other than the end) are left out, since no text becomes them.
    ///
    /// # Panics
    ///
    /// If an id in `keep` is not below [`Tokenizer::n_vocab`].
    #[must_use]
    pub fn subset(&self, keep: impl IntoIterator<Item = u32>) -> Self {
        let parts = Parts::new(self);
        let mut kept = vec![false; self.n_vocab()];
        let mut waiting: Vec<u32> = keep.into_iter().filter(|&id| parts.is_made(id)).collect();
        while let Some(id) = waiting.pop() {
            if !std::mem::replace(&mut kept[id as usize], true) {
                waiting.extend(parts.of(id).iter().flat_map(|merge| [merge.left, merge.right]));
            }
        }
        self.cut(&kept)
    }

    /// For every token of this vocabulary its id in another, `None` for what that has not: the rows of an
    /// embedding to take over. The end token is the other's end token.
    #[must_use]
    pub fn ids_in(&self, other: &Self) -> Vec<Option<u32>> {
        (0..self.n_vocab() as u32)
            .map(|id| if id == self.end_token { Some(other.end_token) } else { other.id_of(self.token_bytes(id)) })
            .collect()
    }

    /// The vocabulary of the tokens marked (closed under merges), the bytes and the end token.
    fn cut(&self, kept: &[bool]) -> Self {
        let is_kept = |&id: &u32| id != self.end_token && (kept[id as usize] || self.token_bytes(id).len() == 1);
        let old_ids: Vec<u32> = (0..self.n_vocab() as u32).filter(is_kept).chain([self.end_token]).collect();
        let n_bytes = old_ids.iter().map(|&id| self.token_bytes(id).len()).sum();
        let mut tokens = Tokens::with_capacity(old_ids.len(), n_bytes);
        let mut new_ids = vec![None; self.n_vocab()];
        for &id in &old_ids {
            let pushed = tokens.push_with::<Refused>(|bytes| {
                bytes.extend_from_slice(self.token_bytes(id));
                Ok(())
            });
            new_ids[id as usize] = Some(pushed.expect("tokens of a vocabulary differ"));
        }
        let renumbered = |merge: &Merge| {
            let new_id = |id: u32| new_ids[id as usize];
            Some(Merge { left: new_id(merge.left)?, right: new_id(merge.right)?, merged: new_id(merge.merged)? })
        };
        let list: Vec<Merge> = self.merges.list().iter().filter_map(renumbered).collect();
        let mut merges = Merges::with_capacity(list.len());
        for merge in list {
            merges.push(merge).expect("a pair is merged once");
        }
        let byte_ids = byte_ids(&tokens).expect("all bytes are kept");
        Self { end_token: tokens.len() as u32 - 1, tokens, byte_ids, merges }
    }
}

/// Counts the tokens of texts and keeps those worth a row of the embedding.
///
/// For one thread; several builders can be [`VocabBuilder::merge`]d.
///
/// ```
/// use tinyllm::data::tokenizer::{Tokenizer, VocabBuilder};
///
/// let mut builder = VocabBuilder::new(Tokenizer::gpt2());
/// builder.add_text("the weather and the weather station");
/// builder.require_text(" 47");
/// let small = builder.keep_seen(2);
/// assert!(small.is_single_token(" weather") && small.is_single_token(" 47"));
/// assert!(!small.is_single_token(" station"));
/// assert_eq!(small.decode(&small.encode(" station")), " station");
/// ```
#[derive(Debug)]
pub struct VocabBuilder<'t> {
    tokenizer: &'t Tokenizer,
    encoder: Encoder<'t>,
    /// The text at hand.
    ids: Vec<u32>,
    /// How often each token was seen.
    counts: Vec<u64>,
    /// Tokens kept however rare.
    required: Vec<bool>,
}

impl<'t> VocabBuilder<'t> {
    /// A builder that has seen nothing; the vocabularies it makes are subsets of this one.
    #[must_use]
    pub fn new(tokenizer: &'t Tokenizer) -> Self {
        let n = tokenizer.n_vocab();
        Self { tokenizer, encoder: tokenizer.encoder(), ids: Vec::new(), counts: vec![0; n], required: vec![false; n] }
    }

    /// Counts the tokens of a text.
    pub fn add_text(&mut self, text: &str) {
        self.ids.clear();
        self.encoder.encode_into(text, &mut self.ids);
        for &id in &self.ids {
            self.counts[id as usize] += 1;
        }
    }

    /// Keeps the tokens of a text, however rare: numbers, labels, the words of an instruction.
    pub fn require_text(&mut self, text: &str) {
        for id in self.encoder.encode(text) {
            self.required[id as usize] = true;
        }
    }

    /// Adds what another builder has counted and requires.
    ///
    /// # Panics
    ///
    /// If it counts the tokens of a vocabulary of another size.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.counts.len(), other.counts.len(), "both builders count the same vocabulary");
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        for (required, more) in self.required.iter_mut().zip(&other.required) {
            *required |= more;
        }
    }

    /// How often a token was seen.
    ///
    /// # Panics
    ///
    /// If there is no such token.
    #[must_use]
    pub fn count(&self, id: u32) -> u64 {
        self.counts[id as usize]
    }

    /// The tokens seen at least `min_count` times, and what is required.
    ///
    /// Where a rarer token is left out, the parts that stand in for it are counted as seen instead.
    #[must_use]
    pub fn keep_seen(&self, min_count: u64) -> Tokenizer {
        self.prune(min_count, usize::MAX)
    }

    /// The tokens seen most often, at most `n_vocab` in all with the bytes and the end token.
    ///
    /// There are fewer if fewer were seen, and more only if what is required takes more.
    #[must_use]
    pub fn keep_most(&self, n_vocab: usize) -> Tokenizer {
        self.prune(1, n_vocab)
    }

    /// Leaves out the rarest token that no other is made of, again and again, until all are seen
    /// `min_count` times and no more than `max_vocab` are left.
    fn prune(&self, min_count: u64, max_vocab: usize) -> Tokenizer {
        let parts = Parts::new(self.tokenizer);
        let ids = 0..self.tokenizer.n_vocab() as u32;
        let mut counts = self.counts.clone();
        let mut kept: Vec<bool> = ids.clone().map(|id| parts.is_made(id)).collect();
        let mut n_kept = kept.iter().filter(|&&kept| kept).count() + 1; // the end token
        // In how many merges that make a kept token each token is a part.
        let mut users = vec![0u32; kept.len()];
        for merge in &parts.merges {
            users[merge.left as usize] += 1;
            users[merge.right as usize] += 1;
        }
        let may_go = |id: u32, users: &[u32]| users[id as usize] == 0 && !parts.of(id).is_empty() && !self.required[id as usize];
        // The rarest on top; of equally rare ones the latest, which its training thought the least useful. What
        // lies here is part of nothing kept, so its count is final.
        let mut leaves: BinaryHeap<_> = ids.filter(|&id| may_go(id, &users)).map(|id| (Reverse(counts[id as usize]), id)).collect();
        while let Some((Reverse(count), id)) = leaves.pop()
            && (count < min_count || n_kept > max_vocab)
        {
            kept[id as usize] = false;
            n_kept -= 1;
            for (i, merge) in parts.of(id).iter().enumerate() {
                for part in [merge.left, merge.right] {
                    users[part as usize] -= 1;
                    if i == 0 {
                        counts[part as usize] += count;
                    }
                }
                for part in distinct(merge.left, merge.right) {
                    if may_go(part, &users) {
                        leaves.push((Reverse(counts[part as usize]), part));
                    }
                }
            }
        }
        self.tokenizer.cut(&kept)
    }
}

/// One or two tokens.
fn distinct(left: u32, right: u32) -> impl Iterator<Item = u32> {
    std::iter::once(left).chain((right != left).then_some(right))
}

/// The merges of a tokenizer by the token they make.
struct Parts {
    /// Merges in the order of the token they make, those of one token in their own.
    merges: Vec<Merge>,
    /// Where those of token `id` begin; one more entry says where the last end.
    starts: Vec<usize>,
    /// Whether bytes can become the token.
    made: Vec<bool>,
}

impl Parts {
    fn new(tokenizer: &Tokenizer) -> Self {
        let len = |id: u32| tokenizer.token_bytes(id).len();
        let mut made: Vec<bool> = (0..tokenizer.n_vocab() as u32).map(|id| len(id) == 1).collect();
        let mut merges = tokenizer.merges.list().to_vec();
        // The parts of a token are shorter than it is.
        merges.sort_by_key(|merge| len(merge.merged));
        merges.retain(|merge| {
            let can = made[merge.left as usize] && made[merge.right as usize];
            made[merge.merged as usize] |= can;
            can
        });
        merges.sort_by_key(|merge| merge.merged);
        let starts = (0..=made.len()).map(|id| merges.partition_point(|merge| (merge.merged as usize) < id)).collect();
        Self { merges, starts, made }
    }

    /// Whether bytes can become the token.
    fn is_made(&self, id: u32) -> bool {
        self.made[id as usize]
    }

    /// The merges that make token `id`; none for a byte.
    fn of(&self, id: u32) -> &[Merge] {
        &self.merges[self.starts[id as usize]..self.starts[id as usize + 1]]
    }
}
