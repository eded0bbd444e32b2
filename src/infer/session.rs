//! Reading tokens with a model, one after another or a prompt at once.

use super::kernels::{self, After};
use super::weights::Linear;
use super::{CacheType, KvCache, Model};
use crate::simd::parallel::Columns;
use crate::simd::{Isa, cache};
use rayon::prelude::*;

/// Rows of a prompt that go through a block together: each weight is decoded once for all of them, and what they
/// need beside the weights (`64 x 4C` numbers) stays in L2.
const CHUNK: usize = 64;

/// A token that cannot be read. The session is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// More tokens than positions.
    #[error(
        "the context is full: {more} more tokens after {held} do not fit into the model's {room} positions; shorten the prompt (fewer readings, a shorter instruction)"
    )]
    ContextFull {
        /// Tokens to be read.
        more: usize,
        /// Tokens read so far.
        held: usize,
        /// Positions of the session.
        room: usize,
    },
    /// A number that is no token.
    #[error("{id} is no token of a vocabulary of {vocab}")]
    NoToken {
        /// The number.
        id: u32,
        /// The vocabulary's size.
        vocab: usize,
    },
}

/// What a model has read, and the room to read on. After [`new`](Self::new) nothing is allocated.
pub struct Session<'m> {
    model: &'m Model,
    cache: KvCache,
    room: usize,
    tokens: Vec<u32>,
    scratch: Scratch,
    /// The last token's hidden state after the last norm, `(C)`; valid if `fed`.
    hidden: Vec<f32>,
    fed: bool,
    logits: Vec<f32>,
    /// Whether `logits` is `hidden`'s.
    scored: bool,
}

/// Room for a chunk's activations; `N <= CHUNK` rows.
struct Scratch {
    /// The residual stream, `(N, C)`.
    x: Vec<f32>,
    /// Normed rows, or attention's output; `(N, C)`.
    y: Vec<f32>,
    /// Queries, keys, values, `(N, 3C)`.
    qkv: Vec<f32>,
    /// A matrix product as its threads leave it, `(max(3C, F), N)`.
    wide: Vec<f32>,
    /// The MLP's hidden rows, `(N, F)`.
    ff: Vec<f32>,
    /// A head's outputs, `(H, N D)`.
    heads: Vec<f32>,
    /// What the heads' attention works in.
    scores: Vec<f32>,
}

impl<'m> Session<'m> {
    /// A session over all of the model's positions, its cache in `f32`.
    #[must_use]
    pub fn new(model: &'m Model) -> Self {
        Self::with(model, model.config.n_ctx, CacheType::F32)
    }

    /// A session of up to `room` positions (no more than the model has) with a cache of the type given.
    #[must_use]
    pub fn with(model: &'m Model, room: usize, ty: CacheType) -> Self {
        let cfg = &model.config;
        let (c, f, h, d) = (cfg.n_embd, cfg.ff(), cfg.n_head, cfg.head_dim());
        let room = room.clamp(1, cfg.n_ctx);
        let n = CHUNK.min(room);
        Self {
            model,
            cache: KvCache::new(ty, cfg.n_layer, h, room, d),
            room,
            tokens: Vec::with_capacity(room),
            scratch: Scratch {
                x: vec![0.0; n * c],
                y: vec![0.0; n * c],
                qkv: vec![0.0; n * 3 * c],
                wide: vec![0.0; n * f.max(3 * c)],
                ff: vec![0.0; n * f],
                heads: vec![0.0; n * c],
                scores: vec![0.0; h * cache::scratch_len(n, d).max(cache::scratch_len(1, d))],
            },
            hidden: vec![0.0; c],
            fed: false,
            logits: vec![0.0; cfg.vocab()],
            scored: false,
        }
    }

    /// The model.
    #[must_use]
    pub const fn model(&self) -> &'m Model {
        self.model
    }

    /// Tokens read so far.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Most tokens that can be read.
    #[must_use]
    pub const fn room(&self) -> usize {
        self.room
    }

    /// Reads tokens: a prompt in chunks, with matrix products, or one at a time.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<(), SessionError> {
        if tokens.len() > self.room - self.tokens.len() {
            return Err(SessionError::ContextFull { more: tokens.len(), held: self.tokens.len(), room: self.room });
        }
        let vocab = self.model.config.vocab();
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= vocab) {
            return Err(SessionError::NoToken { id, vocab });
        }
        for chunk in tokens.chunks(CHUNK) {
            self.chunk(chunk);
        }
        Ok(())
    }

    /// Forgets all tokens but the first `len`. There are no logits until a token is read.
    pub fn truncate(&mut self, len: usize) {
        if len < self.tokens.len() {
            self.tokens.truncate(len);
            self.fed = false;
            self.scored = false;
        }
    }

    /// Makes the session hold exactly `prompt`, keeping what it already holds of it; says how many tokens were kept.
    pub fn feed_from(&mut self, prompt: &[u32]) -> Result<usize, SessionError> {
        if prompt.len() > self.room {
            return Err(SessionError::ContextFull { more: prompt.len(), held: 0, room: self.room });
        }
        let same = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        if self.fed && same == prompt.len() && same == self.tokens.len() {
            return Ok(same);
        }
        // The last token is read anew where there are no logits after it.
        let keep = same.min(prompt.len().saturating_sub(1));
        self.truncate(keep);
        self.feed(&prompt[keep..])?;
        Ok(keep)
    }

    /// Logits of the token after the last one read, `(V)`.
    ///
    /// # Panics
    /// If no token was read since the session began or was truncated.
    pub fn logits(&mut self) -> &[f32] {
        assert!(self.fed, "logits follow a token");
        if !self.scored {
            self.model.head().matmul(self.model.isa, &mut self.logits, &self.hidden, None, 1, After::Nothing);
            self.scored = true;
        }
        &self.logits
    }

    /// Logits of some tokens only, `out[i]` of `ids[i]`: the head's other rows are not read.
    ///
    /// # Panics
    /// As [`logits`](Self::logits); if a number is no token; if `out` is shorter than `ids`.
    pub fn logits_of(&self, out: &mut [f32], ids: &[u32]) {
        assert!(self.fed, "logits follow a token");
        self.model.head().matvec(self.model.isa, out, ids, &self.hidden);
    }

    /// Reads up to [`CHUNK`] tokens, which fit.
    fn chunk(&mut self, tokens: &[u32]) {
        let (n, c, start) = (tokens.len(), self.model.config.n_embd, self.tokens.len());
        let Scratch { x, y, qkv, wide, ff, heads, scores } = &mut self.scratch;
        let (isa, eps) = (self.model.isa, self.model.norm_eps);
        for (r, &id) in tokens.iter().enumerate() {
            let (x, p) = (&mut x[r * c..][..c], &mut y[..c]);
            self.model.token_embd.row(x, id as usize);
            self.model.position_embd.row(p, start + r);
            kernels::add(isa, x, p);
        }
        for (layer, block) in self.model.blocks.iter().enumerate() {
            for (y, x) in y[..n * c].chunks_mut(c).zip(x.chunks(c)) {
                kernels::norm(isa, y, x, &block.attn_norm.w, &block.attn_norm.b, eps);
            }
            linear(isa, qkv, wide, &block.attn_qkv, y, n, After::Nothing);
            attention(isa, y, heads, scores, &mut self.cache, qkv, layer, start, n);
            linear_add(isa, x, wide, &block.attn_output, y, n);
            for (y, x) in y[..n * c].chunks_mut(c).zip(x.chunks(c)) {
                kernels::norm(isa, y, x, &block.ffn_norm.w, &block.ffn_norm.b, eps);
            }
            linear(isa, ff, wide, &block.ffn_up, y, n, After::Gelu);
            linear_add(isa, x, wide, &block.ffn_down, ff, n);
        }
        kernels::norm(isa, &mut self.hidden, &x[(n - 1) * c..][..c], &self.model.output_norm.w, &self.model.output_norm.b, eps);
        self.tokens.extend_from_slice(tokens);
        (self.fed, self.scored) = (true, false);
    }
}

/// `y (N, O) = after(x w^T + b)`, by way of `wide (O, N)`.
fn linear(isa: Isa, y: &mut [f32], wide: &mut [f32], w: &Linear, x: &[f32], n: usize, after: After) {
    let o = w.w.rows();
    if n == 1 {
        return w.w.matmul(isa, y, x, Some(&w.b), 1, after);
    }
    w.w.matmul(isa, wide, x, Some(&w.b), n, after);
    for (i, column) in wide[..o * n].chunks(n).enumerate() {
        for (r, v) in column.iter().enumerate() {
            y[r * o + i] = *v;
        }
    }
}

/// `x (N, O) += y w^T + b`: back into the residual stream.
fn linear_add(isa: Isa, x: &mut [f32], wide: &mut [f32], w: &Linear, y: &[f32], n: usize) {
    let o = w.w.rows();
    w.w.matmul(isa, wide, y, Some(&w.b), n, After::Nothing);
    for (i, column) in wide[..o * n].chunks(n).enumerate() {
        for (r, v) in column.iter().enumerate() {
            x[r * o + i] += v;
        }
    }
}

/// `y (N, C)` = attention of the rows from position `start` on, a thread a head; their keys and values are kept.
///
/// `qkv (N, 3C)`; `heads (H, N D)` and `scores` are room to work in.
fn attention(
    isa: Isa,
    y: &mut [f32],
    heads: &mut [f32],
    scores: &mut [f32],
    cache: &mut KvCache,
    qkv: &[f32],
    layer: usize,
    start: usize,
    n: usize,
) {
    let (h, d) = cache.heads();
    let c = h * d;
    let heads = &mut heads[..n * c];
    let each = scores.len() / h;
    let work = |i: usize, mut head: cache::Head<'_>, out: &mut [f32], room: &mut [f32]| {
        head.append(isa, start, n, &qkv[c + i * d..], &qkv[2 * c + i * d..], 3 * c);
        head.attend(isa, &mut Columns::new(out, d, d), &qkv[i * d..], 3 * c, start, n, room);
    };
    if rayon::current_num_threads() == 1 {
        let all = cache.each_head(layer).zip(heads.chunks_mut(n * d)).zip(scores.chunks_mut(each));
        all.enumerate().for_each(|(i, ((head, out), room))| work(i, head, out, room));
    } else {
        let all = cache.par_each_head(layer).zip(heads.par_chunks_mut(n * d)).zip(scores.par_chunks_mut(each));
        all.enumerate().for_each(|(i, ((head, out), room))| work(i, head, out, room));
    }
    for (head, rows) in heads.chunks(n * d).enumerate() {
        for (r, row) in rows.chunks(d).enumerate() {
            y[r * c + head * d..][..d].copy_from_slice(row);
        }
    }
}
