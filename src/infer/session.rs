//! Reading tokens with a model, one after another or a prompt at once.

use super::importance::Sums;
pub use super::pass::CHUNK;
use super::pass::{self, Room};
use super::{CacheType, KvCache, Model, kernels};
use crate::team::Team;

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
    team: Team,
    cache: KvCache,
    room: usize,
    tokens: Vec<u32>,
    pass: Room,
    /// The last token's hidden state after the last norm, `(C)`; valid if `fed`.
    hidden: Vec<f32>,
    fed: bool,
    logits: Vec<f32>,
    /// Whether `logits` is `hidden`'s.
    scored: bool,
    /// Logits of a chunk, `(N, V)`; empty until they are asked for.
    every: Vec<f32>,
    /// Tokens read since the session began.
    read: u64,
}

impl<'m> Session<'m> {
    /// A session over all of the model's positions, its cache in `f32`.
    #[must_use]
    pub fn new(model: &'m Model) -> Self {
        Self::with(model, model.config.n_ctx, CacheType::F32)
    }

    /// A session of up to `room` positions (no more than the model has) with a cache of the type given, on as many threads as rayon's
    /// current pool has.
    #[must_use]
    pub fn with(model: &'m Model, room: usize, ty: CacheType) -> Self {
        Self::on(Team::new(rayon::current_num_threads()), model, room, ty)
    }

    /// The same, run by this team.
    #[must_use]
    pub fn on(team: Team, model: &'m Model, room: usize, ty: CacheType) -> Self {
        let cfg = &model.config;
        let room = room.clamp(1, cfg.n_ctx);
        Self {
            model,
            cache: KvCache::new(ty, cfg.n_layer, cfg.n_head, room, cfg.head_dim()),
            room,
            tokens: Vec::with_capacity(room),
            pass: Room::new(model, room, team.members()),
            team,
            hidden: vec![0.0; cfg.n_embd],
            fed: false,
            logits: vec![0.0; cfg.vocab()],
            scored: false,
            every: vec![],
            read: 0,
        }
    }

    /// A session that sums the squares of what the model's matrices are multiplied with: see [`Sums`].
    pub(super) fn watching(model: &'m Model, room: usize, ty: CacheType) -> Self {
        let mut session = Self::with(model, room, ty);
        session.pass.sums = Some(Sums::new(model));
        session
    }

    /// The sums of a session that is [`watching`](Self::watching).
    pub(super) const fn sums(&self) -> Option<&Sums> {
        self.pass.sums.as_ref()
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

    /// Tokens read since the session began, each time anew that one was read again.
    #[must_use]
    pub const fn read(&self) -> u64 {
        self.read
    }

    /// Most tokens that can be read.
    #[must_use]
    pub const fn room(&self) -> usize {
        self.room
    }

    /// Reads tokens: a prompt in chunks, with matrix products, or one at a time.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<(), SessionError> {
        self.check(tokens)?;
        for chunk in tokens.chunks(CHUNK) {
            self.chunk(chunk);
        }
        Ok(())
    }

    /// Reads up to [`CHUNK`] tokens; logits after each of the last `rows` of them, `(rows, V)`, from one product with the head.
    ///
    /// # Panics
    /// If there are more than [`CHUNK`] tokens, or less than `rows`.
    pub fn feed_every(&mut self, tokens: &[u32], rows: usize) -> Result<&[f32], SessionError> {
        assert!(rows <= tokens.len() && tokens.len() <= CHUNK, "{rows} rows of {} tokens", tokens.len());
        self.check(tokens)?;
        self.chunk(tokens);
        let (n, v) = (tokens.len(), self.model.config.vocab());
        if self.every.len() < rows * v {
            self.every.resize(rows * v, 0.0);
        }
        let out = &mut self.every[..rows * v];
        if rows > 0 {
            pass::heads(&mut self.team, self.model, out, n - rows..n, &mut self.pass);
        }
        Ok(out)
    }

    /// Whether tokens can be read.
    fn check(&self, tokens: &[u32]) -> Result<(), SessionError> {
        if tokens.len() > self.room - self.tokens.len() {
            return Err(SessionError::ContextFull { more: tokens.len(), held: self.tokens.len(), room: self.room });
        }
        let vocab = self.model.config.vocab();
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= vocab) {
            return Err(SessionError::NoToken { id, vocab });
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
        let keep = self.kept_of(prompt);
        self.truncate(keep);
        self.feed(&prompt[keep..])?;
        Ok(keep)
    }

    /// How many of a prompt's tokens [`feed_from`](Self::feed_from) would keep.
    #[must_use]
    pub fn kept_of(&self, prompt: &[u32]) -> usize {
        let same = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        if self.fed && same == prompt.len() && same == self.tokens.len() {
            return same;
        }
        // The last token is read anew where there are no logits after it.
        same.min(prompt.len().saturating_sub(1))
    }

    /// The tokens and keys and values that are held, for [`prefix`](super::prefix).
    pub(super) const fn held(&self) -> (&[u32], &KvCache) {
        (self.tokens.as_slice(), &self.cache)
    }

    /// Forgets all and holds `tokens`, whose keys and values `take_in` puts into the cache.
    pub(super) fn hold(&mut self, tokens: &[u32], take_in: impl FnOnce(&mut KvCache)) {
        self.truncate(0);
        take_in(&mut self.cache);
        self.tokens.extend_from_slice(tokens);
    }

    /// Logits of the token after the last one read, `(V)`.
    ///
    /// # Panics
    /// If no token was read since the session began or was truncated.
    pub fn logits(&mut self) -> &[f32] {
        assert!(self.fed, "logits follow a token");
        if !self.scored {
            let Self { model, team, logits, hidden, pass, .. } = self;
            pass::head(team, model.isa, model.head(), logits, hidden, pass);
            self.scored = true;
        }
        &self.logits
    }

    /// Logits of some tokens only, `out[i]` of `ids[i]`: the head's other rows are not read.
    ///
    /// # Panics
    /// As [`logits`](Self::logits); if a number is no token; if `out` is shorter than `ids`.
    pub fn logits_of(&mut self, out: &mut [f32], ids: &[u32]) {
        assert!(self.fed, "logits follow a token");
        pass::some(self.model.isa, self.model.head(), out, ids, &self.hidden, &mut self.pass);
    }

    /// Reads up to [`CHUNK`] tokens, which fit.
    fn chunk(&mut self, tokens: &[u32]) {
        let Self { model, team, cache, pass, hidden, .. } = self;
        let (n, c, start) = (tokens.len(), model.config.n_embd, self.tokens.len());
        pass::run(team, model, pass, cache, tokens, start);
        let norm = &model.output_norm;
        if let Some(sums) = &mut pass.sums {
            for x in pass.x[..n * c].chunks(c) {
                kernels::norm(model.isa, hidden, x, &norm.w, &norm.b, model.norm_eps);
                sums.add_last(hidden);
            }
        }
        kernels::norm(model.isa, hidden, &pass.x[(n - 1) * c..][..c], &norm.w, &norm.b, model.norm_eps);
        self.tokens.extend_from_slice(tokens);
        self.read += n as u64;
        (self.fed, self.scored) = (true, false);
    }
}
