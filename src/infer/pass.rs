//! A pass over one token or a chunk of a prompt, by a team, in phases.
//!
//! A phase's chunks are some panels of a matrix, some rows, or a head; what they write is theirs alone, and what they read was written
//! in a phase before. For one token a block has five phases: whoever takes up a share of a product first makes the input ready for
//! itself (a norm and its quantization cost less than waiting for somebody else's). A prompt's rows are made ready by rows, in phases of
//! their own.
#![allow(unsafe_code)] // Parts of one buffer are written by several threads.

use super::importance::{Sums, Watch};
use super::kernels;
use super::packed::{Activations, INPUTS, Input, Kind, Packed, Parts, Row};
use super::weights::{Block, Linear, Model, Norm};
use crate::model::Config;
use crate::simd::Isa;
use crate::simd::cache::{self, KvCache, Layers};
use crate::simd::elements::BiasGelu;
use crate::simd::panel::Inputs;
use crate::simd::parallel::Shared;
use crate::team::{PHASES, Team};
use std::ops::Range;
use std::sync::Mutex;

/// Rows of a prompt that go through a block together: each weight is unpacked once for all of them, and what they need beside the weights
/// stays in L2.
pub const CHUNK: usize = INPUTS;

/// What a chunk's activations need, `N <= CHUNK` rows.
pub struct Room {
    /// The residual stream, `(N, C)`.
    pub x: Vec<f32>,
    /// Queries, keys, values, `(N, 3C)`.
    qkv: Vec<f32>,
    /// Attention's output, `(N, C)`.
    att: Vec<f32>,
    /// The MLP's hidden rows, `(N, F)`.
    ff: Vec<f32>,
    acts: Activations,
    members: Vec<Mutex<Member>>,
    chunks: Vec<u16>,
    /// The number of the job's first phase, counted over all jobs.
    phases: u64,
    /// What is watched of the products' inputs, if anything.
    pub sums: Option<Sums>,
}

/// What a member of the team has for itself.
struct Member {
    /// The input of the product at hand, where it is one token's.
    acts: Activations,
    /// The phase that it is of, counted over all jobs.
    ready: u64,
    normed: Vec<f32>,
    /// A panel's product.
    panel: Vec<f32>,
    /// What a head's attention works in.
    scores: Vec<f32>,
}

impl Room {
    pub fn new(model: &Model, positions: usize, members: usize) -> Self {
        let (c, f, d) = (model.config.n_embd, model.config.ff(), model.config.head_dim());
        let n = CHUNK.min(positions);
        let member = || Member {
            acts: Activations::new(1, f.max(c)),
            ready: u64::MAX,
            normed: vec![0.0; c],
            panel: vec![0.0; Packed::room(n)],
            scores: vec![0.0; cache::scratch_len(n, d).max(cache::scratch_len(1, d))],
        };
        Self {
            x: vec![0.0; n * c],
            qkv: vec![0.0; n * 3 * c],
            att: vec![0.0; n * c],
            ff: vec![0.0; n * f],
            acts: Activations::new(n, f.max(c)),
            members: (0..members).map(|_| Mutex::new(member())).collect(),
            chunks: Vec::with_capacity(PHASES.min(model.config.n_layer * STEPS_OF_MANY.len())),
            phases: 0,
            sums: None,
        }
    }

    /// Bytes of the room that [`new`](Self::new) makes for a model of these sizes.
    pub fn bytes(config: &Config, positions: usize, members: usize) -> usize {
        let (c, f, d, n) = (config.n_embd, config.ff(), config.head_dim(), CHUNK.min(positions));
        let member = c + Packed::room(n) + cache::scratch_len(n, d).max(cache::scratch_len(1, d));
        let acts = |n| Activations::bytes(n, f.max(c));
        (n * (5 * c + f) + members * member) * size_of::<f32>() + acts(n) + members * acts(1)
    }
}

/// Number of the matrix that a block's product is with, among all blocks' four.
const fn watched(layer: usize, step: Step) -> usize {
    let part = match step {
        Step::Qkv => 0,
        Step::Out => 1,
        Step::Up => 2,
        _ => 3,
    };
    4 * layer + part
}

/// The phases of a block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Norm the residual rows and quantize them.
    Norm1,
    Qkv,
    Attend,
    /// Quantize attention's rows.
    Attended,
    Out,
    Norm2,
    Up,
    /// Quantize the hidden rows.
    Hidden,
    Down,
}
const STEPS_OF_ONE: [Step; 5] = [Step::Qkv, Step::Attend, Step::Out, Step::Up, Step::Down];
const STEPS_OF_MANY: [Step; 9] =
    [Step::Norm1, Step::Qkv, Step::Attend, Step::Attended, Step::Out, Step::Norm2, Step::Up, Step::Hidden, Step::Down];

/// Shares of a phase a member: enough that a slow one does not hold up the rest.
const SHARES: usize = 6;

/// Reads `tokens`, which fit, at positions from `start` on; leaves their residual rows in `room.x`.
pub fn run(team: &mut Team, model: &Model, room: &mut Room, cache: &mut KvCache, tokens: &[u32], start: usize) {
    let mut chunks = std::mem::take(&mut room.chunks);
    // Inputs that are watched are made ready in phases of their own, where each row is there once.
    let singly = tokens.len() == 1 && room.sums.is_none();
    let steps: &[Step] = if singly { &STEPS_OF_ONE } else { &STEPS_OF_MANY };
    let pass = Pass {
        model,
        n: tokens.len(),
        singly,
        start,
        x: Shared::new(&mut room.x),
        qkv: Shared::new(&mut room.qkv),
        att: Shared::new(&mut room.att),
        ff: Shared::new(&mut room.ff),
        inputs: Rows { n: tokens.len(), isa: model.isa, eps: model.norm_eps, acts: room.acts.parts() },
        members: &room.members,
        cache: cache.shared(),
        watch: room.sums.as_mut().map(Sums::watch),
        shares: shares(team),
    };
    pass.embed(tokens);
    // A job of the team has so many phases at most; a deep model is several jobs.
    let blocks_a_job = PHASES / steps.len();
    for (job, blocks) in model.blocks.chunks(blocks_a_job).enumerate() {
        chunks.clear();
        for block in blocks {
            chunks.extend(steps.iter().map(|&step| pass.chunks(block, step)));
        }
        room.phases += PHASES as u64;
        let before = room.phases;
        team.run(&chunks, &|phase, chunk, member| {
            let layer = job * blocks_a_job + phase / steps.len();
            pass.step(before + phase as u64, layer, steps[phase % steps.len()], chunk, member);
        });
    }
    room.chunks = chunks;
}

/// `out` = the product of all rows of `w` with one input: logits of a hidden state.
pub fn head(team: &mut Team, isa: Isa, w: &Packed, out: &mut [f32], hidden: &[f32], room: &mut Room) {
    let chunks = w.panels().min(shares(team));
    room.acts.set(w.kind(), isa, hidden);
    let (rows, out) = (w.rows(), Shared::new(out));
    let (input, members) = (room.acts.input(w.kind(), w.cols()), &room.members);
    team.run(&[chunks as u16], &|_, chunk, member| {
        let mut member = members[member].lock().expect("no member panicked");
        w.product(isa, &input, share(w.panels(), chunk, chunks), &mut member.panel, |first, height, values| {
            let there = (rows - first).min(height);
            // SAFETY: a panel's rows are one chunk's alone.
            unsafe { out.part(first, there) }.copy_from_slice(&values[..there]);
        });
    });
}

/// `out (M, V)` = logits after each of the `rows` of the chunk that [`run`] read last.
pub fn heads(team: &mut Team, model: &Model, out: &mut [f32], rows: Range<usize>, room: &mut Room) {
    let (w, c) = (model.head(), model.config.n_embd);
    let inputs = Rows { n: rows.len(), isa: model.isa, eps: model.norm_eps, acts: room.acts.parts() };
    let (x, out, members) = (Shared::new(&mut room.x[rows.start * c..rows.end * c]), Shared::new(out), &room.members);
    let chunks = [inputs.n.min(shares(team)), w.panels().min(shares(team))];
    team.run(&chunks.map(|n| n as u16), &|phase, chunk, member| {
        let mut member = members[member].lock().expect("no member panicked");
        if phase == 0 {
            inputs.set(share(inputs.n, chunk, chunks[0]), w.kind(), x, c, Some(&model.output_norm), &mut member.normed, None);
            return;
        }
        // SAFETY: the inputs were made ready in the phase before.
        let input = unsafe { inputs.input(w.kind(), c) };
        w.product(model.isa, &input, share(w.panels(), chunk, chunks[1]), &mut member.panel, |first, height, values| {
            let there = (w.rows() - first).min(height);
            for (r, values) in values.chunks(height).enumerate() {
                // SAFETY: a panel's rows are one chunk's alone.
                unsafe { out.part(r * w.rows() + first, there) }.copy_from_slice(&values[..there]);
            }
        });
    });
}

/// `out[i]` = row `ids[i]` of `w` times a hidden state.
pub fn some(isa: Isa, w: &Packed, out: &mut [f32], ids: &[u32], hidden: &[f32], room: &mut Room) {
    room.acts.set(w.kind(), isa, hidden);
    w.gather(isa, &mut out[..ids.len()], ids, &room.acts.input(w.kind(), w.cols()));
}

/// Into how many chunks a phase may be cut.
fn shares(team: &Team) -> usize {
    if team.members() == 1 { 1 } else { team.members() * SHARES }
}

/// Part `chunk` of `chunks` of `all`.
const fn share(all: usize, chunk: usize, chunks: usize) -> Range<usize> {
    all * chunk / chunks..all * (chunk + 1) / chunks
}

struct Pass<'a> {
    model: &'a Model,
    n: usize,
    /// Whether each member makes the one row's input ready for itself.
    singly: bool,
    start: usize,
    x: Shared<'a>,
    qkv: Shared<'a>,
    att: Shared<'a>,
    ff: Shared<'a>,
    inputs: Rows<'a>,
    members: &'a [Mutex<Member>],
    cache: Layers<'a>,
    watch: Option<Watch<'a>>,
    shares: usize,
}

/// Several rows that become a product's inputs.
struct Rows<'a> {
    n: usize,
    isa: Isa,
    eps: f64,
    acts: Parts<'a>,
}

impl<'a> Rows<'a> {
    /// Makes rows `some` of `from (N, cols)`, after `norm` if there is one, ready for a product of the next phase.
    fn set(
        &self,
        some: Range<usize>,
        kind: Kind,
        from: Shared<'_>,
        cols: usize,
        norm: Option<&Norm>,
        room: &mut [f32],
        watch: Option<&Watch<'_>>,
    ) {
        let (block, sub) = kind.blocks(cols);
        for r in some {
            // SAFETY: these rows are this chunk's alone; the rows they are made from were written in a phase before.
            let (x, row) = unsafe {
                let row = Row {
                    kind,
                    floats: self.acts.floats.part(r * cols, cols),
                    quants: self.acts.quants.part(r * cols, cols),
                    scales: self.acts.scales.part(r * (cols / block), cols / block),
                    sums: self.acts.sums.part(r * (cols / sub), cols / sub),
                };
                (&*from.part(r * cols, cols), row)
            };
            let x = self.normed(x, norm, room);
            if let Some(watch) = watch {
                // SAFETY: as above.
                unsafe { watch.see(r, x) };
            }
            row.set(self.isa, x);
        }
    }

    /// The rows that were made ready, of `cols` columns.
    ///
    /// # Safety
    /// As long as they are read, nobody may make others ready.
    unsafe fn input(&self, kind: Kind, cols: usize) -> Input<'a> {
        let (n, (block, sub)) = (self.n, kind.blocks(cols));
        // SAFETY: nobody writes them, as the caller promises.
        unsafe {
            let quants = Inputs {
                n,
                cols,
                quants: self.acts.quants.part(0, n * cols),
                scales: self.acts.scales.part(0, n * (cols / block)),
                sums: self.acts.sums.part(0, n * (cols / sub)),
            };
            Input { kind, floats: self.acts.floats.part(0, n * cols), quants }
        }
    }

    fn normed<'r>(&self, x: &'r [f32], norm: Option<&Norm>, room: &'r mut [f32]) -> &'r [f32] {
        let Some(norm) = norm else { return x };
        kernels::norm(self.isa, room, x, &norm.w, &norm.b, self.eps);
        room
    }
}

/// What a product's values become.
enum Onto<'a> {
    /// Stored.
    Plain(Shared<'a>),
    /// Stored after GELU.
    Gelu(Shared<'a>),
    /// Added to the residual stream.
    Residual,
}

impl Pass<'_> {
    fn embed(&self, tokens: &[u32]) {
        let c = self.model.config.n_embd;
        let mut member = self.members[0].lock().expect("no member panicked");
        for (r, &id) in tokens.iter().enumerate() {
            // SAFETY: the team does not run yet.
            let x = unsafe { self.x.part(r * c, c) };
            self.model.token_embd.row(x, id as usize);
            self.model.position_embd.row(&mut member.normed, self.start + r);
            kernels::add(self.model.isa, x, &member.normed);
        }
    }

    fn linear(block: &Block, step: Step) -> Option<&Linear> {
        Some(match step {
            Step::Qkv => &block.attn_qkv,
            Step::Out => &block.attn_output,
            Step::Up => &block.ffn_up,
            Step::Down => &block.ffn_down,
            _ => return None,
        })
    }

    fn chunks(&self, block: &Block, step: Step) -> u16 {
        let most = match (Self::linear(block, step), step) {
            (Some(linear), _) => linear.w.panels().min(self.shares),
            (None, Step::Attend) => self.model.config.n_head,
            (None, _) => self.n.min(self.shares),
        };
        most as u16
    }

    fn step(&self, phase: u64, layer: usize, step: Step, chunk: usize, member: usize) {
        let block = &self.model.blocks[layer];
        let chunks = usize::from(self.chunks(block, step));
        let mut member = self.members[member].lock().expect("no member panicked");
        let (c, f) = (self.model.config.n_embd, self.model.config.ff());
        match step {
            Step::Attend => self.attend(layer, chunk, &mut member),
            Step::Norm1 | Step::Attended | Step::Norm2 | Step::Hidden => {
                let (w, from, cols, norm) = match step {
                    Step::Norm1 => (&block.attn_qkv.w, self.x, c, Some(&block.attn_norm)),
                    Step::Attended => (&block.attn_output.w, self.att, c, None),
                    Step::Norm2 => (&block.ffn_up.w, self.x, c, Some(&block.ffn_norm)),
                    _ => (&block.ffn_down.w, self.ff, f, None),
                };
                self.inputs.set(share(self.n, chunk, chunks), w.kind(), from, cols, norm, &mut member.normed, self.watch.as_ref());
            }
            Step::Qkv | Step::Out | Step::Up | Step::Down => {
                let (linear, from, cols, norm, onto) = match step {
                    Step::Qkv => (&block.attn_qkv, self.x, c, Some(&block.attn_norm), Onto::Plain(self.qkv)),
                    Step::Out => (&block.attn_output, self.att, c, None, Onto::Residual),
                    Step::Up => (&block.ffn_up, self.x, c, Some(&block.ffn_norm), Onto::Gelu(self.ff)),
                    _ => (&block.ffn_down, self.ff, f, None, Onto::Residual),
                };
                if self.singly && member.ready != phase {
                    self.ready(linear.w.kind(), from, cols, norm, &mut member);
                    member.ready = phase;
                }
                if let (0, Some(watch)) = (chunk, &self.watch) {
                    // SAFETY: the inputs were made ready in the phase before; in this one they are read alone.
                    unsafe { watch.add(watched(layer, step), self.n, cols) };
                }
                self.product(linear, cols, chunk, chunks, &onto, &mut member);
            }
        }
    }

    /// Makes the one row ready for this member's shares of a product.
    fn ready(&self, kind: Kind, from: Shared<'_>, cols: usize, norm: Option<&Norm>, member: &mut Member) {
        // SAFETY: it was written in a phase before; in this one it is read alone.
        let x = unsafe { &*from.part(0, cols) };
        let Member { acts, normed, .. } = member;
        acts.set(kind, self.model.isa, self.inputs.normed(x, norm, normed));
    }

    fn product(&self, linear: &Linear, cols: usize, chunk: usize, chunks: usize, onto: &Onto<'_>, member: &mut Member) {
        let Member { acts, panel, .. } = member;
        let (kind, rows, isa) = (linear.w.kind(), linear.w.rows(), self.model.isa);
        // SAFETY: the rows were made ready in the phase before; in this one they are read alone.
        let input = if self.singly { acts.input(kind, cols) } else { unsafe { self.inputs.input(kind, cols) } };
        linear.w.product(isa, &input, share(linear.w.panels(), chunk, chunks), panel, |first, height, values| {
            let there = (rows - first).min(height);
            let bias = &linear.b[first..][..there];
            for (r, values) in values.chunks(height).enumerate() {
                let to = match onto {
                    Onto::Plain(to) | Onto::Gelu(to) => *to,
                    Onto::Residual => self.x,
                };
                // SAFETY: a panel's rows are one chunk's alone.
                let to = unsafe { to.part(r * rows + first, there) };
                match onto {
                    Onto::Residual => to.iter_mut().zip(values).zip(bias).for_each(|((to, v), b)| *to += v + b),
                    Onto::Plain(_) => to.iter_mut().zip(values).zip(bias).for_each(|((to, v), b)| *to = v + b),
                    Onto::Gelu(_) => {
                        to.copy_from_slice(&values[..there]);
                        isa.run(BiasGelu { y: to, b: bias });
                    }
                }
            }
        });
    }

    fn attend(&self, layer: usize, head: usize, member: &mut Member) {
        let (n, c, d) = (self.n, self.model.config.n_embd, self.model.config.head_dim());
        // SAFETY: written in the phase before; in this one it is read alone.
        let qkv = unsafe { &*self.qkv.part(0, n * 3 * c) };
        // SAFETY: a head of a layer, and its channels of the output, are one chunk's alone.
        let (mut kept, mut out) = unsafe { (self.cache.head(layer, head), self.att.columns(head * d, d, c)) };
        let (isa, start, stride) = (self.model.isa, self.start, 3 * c);
        kept.append(isa, start, n, &qkv[c + head * d..], &qkv[2 * c + head * d..], stride);
        kept.attend(isa, &mut out, &qkv[head * d..], stride, start, n, &mut member.scores);
    }
}
