//! A text cut into windows, each of which a model reads from its first position on, and some of whose tokens are scored.

use crate::infer::{CHUNK, Session, SessionError};
use std::ops::Range;

/// Tokens of a window where nothing else is asked for: llama.cpp's number.
pub const WINDOW: usize = 512;

/// Tokens and how they are cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    tokens: Vec<u32>,
    cut: Vec<Window>,
}

/// A window.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Window {
    /// Its tokens; at least two.
    tokens: Range<usize>,
    /// Tokens within it that are context alone; the one behind them is what the first score is given after.
    first: usize,
}

/// What is read at once: up to [`CHUNK`] tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Whether a window begins with it.
    pub begins: bool,
    /// The tokens, among all.
    pub tokens: Range<usize>,
    /// How many of them, the last ones, are scored for what they say of the next.
    pub rows: usize,
}

impl Windows {
    /// Windows as llama.cpp's `llama-perplexity` cuts them: `ctx` tokens each, one behind the other, what remains behind the last
    /// whole one left out. Scored are the tokens behind the first `ctx / 2 + 1` of each window, each given all that stand before it
    /// in the window. A text shorter than `ctx` is one window of its length. None of a text shorter than two tokens.
    ///
    /// # Panics
    /// If `ctx` is less than 2.
    #[must_use]
    pub fn of_text(tokens: Vec<u32>, ctx: usize) -> Option<Self> {
        assert!(ctx >= 2, "a window of {ctx} tokens scores nothing");
        if tokens.len() < 2 {
            return None;
        }
        let len = ctx.min(tokens.len());
        let first = (len / 2).min(len - 2);
        let cut = (0..tokens.len() / len).map(|i| Window { tokens: i * len..(i + 1) * len, first }).collect();
        Some(Self { tokens, cut })
    }

    /// A window for each document, cut to `ctx` tokens, in which all tokens but the first are scored; documents shorter than two
    /// tokens are left out. None if there is no other.
    ///
    /// # Panics
    /// If `ctx` is less than 2.
    #[must_use]
    pub fn of_documents<'d>(documents: impl IntoIterator<Item = &'d [u32]>, ctx: usize) -> Option<Self> {
        assert!(ctx >= 2, "a window of {ctx} tokens scores nothing");
        let mut all = Self { tokens: vec![], cut: vec![] };
        for document in documents.into_iter().filter(|d| d.len() >= 2) {
            let start = all.tokens.len();
            all.tokens.extend_from_slice(&document[..document.len().min(ctx)]);
            all.cut.push(Window { tokens: start..all.tokens.len(), first: 0 });
        }
        (!all.cut.is_empty()).then_some(all)
    }

    /// Windows spread evenly over these, as many as have `tokens` tokens at most, and at least one.
    #[must_use]
    pub fn thinned(&self, tokens: usize) -> Self {
        let keep = (self.cut.len() * tokens / self.read()).clamp(1, self.cut.len());
        let cut = (0..keep).map(|i| self.cut[i * self.cut.len() / keep].clone()).collect();
        Self { tokens: self.tokens.clone(), cut }
    }

    /// The same windows, all of whose tokens but the first are scored.
    #[must_use]
    pub fn scored_whole(&self) -> Self {
        let cut = self.cut.iter().map(|w| Window { first: 0, ..w.clone() }).collect();
        Self { tokens: self.tokens.clone(), cut }
    }

    /// How many windows.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.cut.len()
    }

    /// Tokens of all windows.
    #[must_use]
    pub fn read(&self) -> usize {
        self.cut.iter().map(|w| w.tokens.len()).sum()
    }

    /// Tokens of the longest window.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.cut.iter().map(|w| w.tokens.len()).max().unwrap_or(0)
    }

    /// Tokens that are scored.
    #[must_use]
    pub fn scored(&self) -> usize {
        self.cut.iter().map(|w| w.tokens.len() - 1 - w.first).sum()
    }

    /// The tokens of each window.
    pub fn texts(&self) -> impl Iterator<Item = &[u32]> {
        self.cut.iter().map(|w| &self.tokens[w.tokens.clone()])
    }

    /// All windows in the pieces in which they are read. The last token of a window is only ever a target.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> {
        self.cut.iter().flat_map(|w| {
            let (scored, end) = (w.tokens.start + w.first, w.tokens.end - 1);
            (w.tokens.start..end).step_by(CHUNK).map(move |from| {
                let tokens = from..end.min(from + CHUNK);
                Piece { begins: from == w.tokens.start, rows: tokens.end.saturating_sub(scored.max(from)), tokens }
            })
        })
    }

    /// Has `session` read a piece: the logits after each token that is scored, `(rows, V)`.
    pub fn logits<'s>(&self, session: &'s mut Session<'_>, piece: &Piece) -> Result<&'s [f32], SessionError> {
        if piece.begins {
            session.truncate(0);
        }
        session.feed_every(&self.tokens[piece.tokens.clone()], piece.rows)
    }

    /// What should follow, for each row of a piece's logits.
    #[must_use]
    pub fn targets(&self, piece: &Piece) -> &[u32] {
        &self.tokens[piece.tokens.end + 1 - piece.rows..=piece.tokens.end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The indexes of all tokens that are scored, and of the windows' first.
    fn scored(w: &Windows) -> (Vec<usize>, Vec<usize>) {
        let (mut scored, mut begun) = (vec![], vec![]);
        for piece in w.pieces() {
            assert!(piece.tokens.len() <= CHUNK && piece.rows <= piece.tokens.len());
            if piece.begins {
                begun.push(piece.tokens.start);
            }
            scored.extend(w.targets(&piece).iter().map(|&t| t as usize));
        }
        (scored, begun)
    }

    #[test]
    fn the_second_half_of_whole_windows_is_scored() {
        let text = |n: u32, ctx| Windows::of_text((0..n).collect(), ctx);
        let w = text(1000, 300).unwrap();
        let want: Vec<usize> = (0..3).flat_map(|i| 300 * i + 151..300 * (i + 1)).collect();
        assert_eq!(scored(&w), (want, vec![0, 300, 600]));
        assert_eq!((w.count(), w.read(), w.scored(), w.longest()), (3, 900, 3 * 149, 300));
        assert_eq!(scored(&w.scored_whole()).0.len(), 3 * 299);
        // llama.cpp's own: 512 / 2 + 1 tokens are context, 255 are scored.
        assert_eq!(text(512, 512).unwrap().scored(), 255);
        // Short texts are scored as far as they can be.
        assert_eq!(scored(&text(2, 512).unwrap()).0, [1]);
        assert_eq!(scored(&text(3, 512).unwrap()).0, [2]);
        assert_eq!(scored(&text(4, 512).unwrap()).0, [3]);
        assert_eq!(scored(&text(7, 2).unwrap()).0, [1, 3, 5]);
        assert_eq!((text(0, 4), text(1, 4)), (None, None));
    }

    #[test]
    fn documents_are_scored_whole_and_thinned_evenly() {
        let all: Vec<Vec<u32>> = (0..10u32).map(|d| (10 * d..10 * d + d).collect()).collect();
        let w = Windows::of_documents(all.iter().map(Vec::as_slice), 5).unwrap();
        assert_eq!((w.count(), w.read(), w.longest()), (8, 2 + 3 + 4 + 5 * 5, 5));
        assert_eq!(w.texts().next(), Some(&[20, 21][..]));
        assert_eq!(w.scored(), w.read() - 8);
        let thin = w.thinned(17);
        assert_eq!(thin.texts().map(|t| t[0]).collect::<Vec<_>>(), [20, 40, 60, 80]);
        assert_eq!(w.thinned(0).count(), 1);
        assert_eq!(w.thinned(1000), w);
        assert_eq!(Windows::of_documents([&[1u32][..]], 5), None);
    }
}
