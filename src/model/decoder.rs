//! The whole decoder: what it is made of, and its passes.
//!
//! [`Decoder::spec`] says which parameters a model has. [`Decoder::forward`] goes from tokens through the embedding, the
//! blocks and the last norm to what the head reads; [`Decoder::loss`] and [`Decoder::logits`] go on from there, and
//! [`Decoder::backward`] goes all the way back. The head's matrix is the token embedding itself.

use super::block::{Attention, Block, BlockSaved, Mlp, Scratch};
use super::config::{Config, Lora, Target};
use super::linear::{Linear, LowRank};
use super::norm::{Norm, NormSaved};
use super::pass::{Grad, Pass};
use super::tree::{Leaf, Tree, tree};
use crate::backend::{Backend, BackendError, Targets};

tree!(
    /// A GPT-2 decoder; its head is tied to `wte`.
    Decoder {
        /// Token embedding and head: `(V, C)`.
        wte: Leaf<P>,
        /// Position embedding: `(T, C)`.
        wpe: Leaf<P>,
        /// `L` blocks.
        blocks: Vec<Block<P>>,
        /// Before the head.
        norm: Norm<P>;
        /// `C`
        n_embd: usize,
        /// `V`
        n_vocab: usize
    }
);

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Biases; LoRA's B.
    Zeros,
    /// Gains of norms.
    Ones,
    /// Normal with this deviation.
    Normal(f64),
    /// Uniform between minus and plus this.
    Uniform(f64),
}

/// What one parameter is.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its GGUF name: `blk.3.attn_qkv.weight`.
    pub name: String,
    /// Rows and columns, or a length.
    pub shape: Vec<usize>,
    /// How it starts.
    pub init: Init,
    /// Whether weight decay applies: to matrices, not to biases and norms.
    pub decay: bool,
    /// Whether it belongs to an adapter.
    pub lora: bool,
}

impl Spec {
    /// Number of elements.
    #[must_use]
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Decoder<Spec> {
    /// The parameters of a model: names, shapes, how they start. Initial values are GPT-2's: deviation 0.02 (0.01
    /// for positions), projections into the residual stream divided by `sqrt(2 L)`. An adapter's A starts as
    /// Kaiming uniform with slope `sqrt(5)`, as PEFT's does, and its B at 0.
    ///
    /// # Panics
    /// If the vocabulary is not settled.
    #[must_use]
    pub fn spec(cfg: &Config, lora: Option<&Lora>) -> Self {
        let (c, f) = (cfg.n_embd, cfg.ff());
        let matrix = |name: String, out: usize, inp: usize, std: f64| {
            Leaf(Spec { name, shape: vec![out, inp], init: Init::Normal(std), decay: true, lora: false })
        };
        let vector = |name: String, len: usize, init: Init| Leaf(Spec { name, shape: vec![len], init, decay: false, lora: false });
        let norm = |n: String| Norm { w: vector(format!("{n}.weight"), c, Init::Ones), b: vector(format!("{n}.bias"), c, Init::Zeros), c };
        let std = 0.02;
        let into_stream = std / (2.0 * cfg.n_layer as f64).sqrt();
        let linear = |l: usize, n: &str, target: Target, inp: usize, out: usize, std: f64| {
            let name = format!("blk.{l}.{n}");
            let low = |part: &str, shape: [usize; 2], init| {
                Leaf(Spec { name: format!("{name}.weight.lora_{part}"), shape: shape.to_vec(), init, decay: true, lora: true })
            };
            Linear {
                w: matrix(format!("{name}.weight"), out, inp, std),
                b: vector(format!("{name}.bias"), out, Init::Zeros),
                lora: lora.filter(|lora| lora.targets.contains(&target)).map(|lora| LowRank {
                    a: low("a", [lora.rank, inp], Init::Uniform(1.0 / (inp as f64).sqrt())),
                    b: low("b", [out, lora.rank], Init::Zeros),
                    rank: lora.rank,
                    scale: lora.scale(),
                    dropout: lora.dropout as f32,
                    site: (l * Target::ALL.len() + target as usize) as u64,
                }),
                inp,
                out,
            }
        };
        let block = |l: usize| Block {
            norm1: norm(format!("blk.{l}.attn_norm")),
            attn: Attention {
                qkv: linear(l, "attn_qkv", Target::Qkv, c, 3 * c, std),
                out: linear(l, "attn_output", Target::AttnOut, c, c, into_stream),
                n_head: cfg.n_head,
                head_dim: cfg.head_dim(),
            },
            norm2: norm(format!("blk.{l}.ffn_norm")),
            mlp: Mlp { up: linear(l, "ffn_up", Target::Up, c, f, std), down: linear(l, "ffn_down", Target::Down, f, c, into_stream) },
        };
        Self {
            wte: matrix("token_embd.weight".into(), cfg.vocab(), c, std),
            wpe: matrix("position_embd.weight".into(), cfg.n_ctx, c, 0.01),
            blocks: (0..cfg.n_layer).map(block).collect(),
            norm: norm("output_norm".into()),
            n_embd: c,
            n_vocab: cfg.vocab(),
        }
    }
}

/// A batch in device memory.
pub struct DeviceBatch<B: Backend> {
    /// Sequences.
    pub b: usize,
    /// Positions of each.
    pub t: usize,
    /// Token ids, `(B, T)`.
    pub tokens: B::Ids,
    /// Position of each token within its document, `(B, T)`.
    pub positions: B::Ids,
    /// The first row of its sequence that each row sees, `(B, T)`.
    pub starts: B::Ids,
    /// The rows that count.
    pub targets: Targets<B>,
}

impl<B: Backend> DeviceBatch<B> {
    /// The facts a pass needs; `ctl` in training.
    pub fn pass<'a>(&'a self, be: &'a B, ctl: Option<&'a B::Ctl>) -> Pass<'a, B> {
        Pass { be, b: self.b, t: self.t, starts: &self.starts, ctl }
    }
}

/// Everything the passes fill, sized for the largest batch.
pub struct Activations<B: Backend> {
    /// The residual stream before each block and after the last: `L + 1` times `(N, C)`.
    pub stream: Vec<B::Buf>,
    /// One a block; or a single one, filled again on the way back, where activations are recomputed.
    pub blocks: Vec<BlockSaved<B>>,
    norm: NormSaved<B>,
    scratch: Scratch<B>,
    dx: B::Buf,
    head: B::Head,
}

impl<B: Backend> Activations<B> {
    /// Room for batches of up to `n` rows.
    pub fn new(be: &B, w: &Decoder<B::Buf>, n: usize, recompute: bool) -> Result<Self, BackendError> {
        let c = w.n_embd;
        let kept = if recompute { 1 } else { w.blocks.len() };
        Ok(Self {
            stream: (0..=w.blocks.len()).map(|_| be.alloc(n * c)).collect::<Result<_, _>>()?,
            blocks: w.blocks.iter().take(kept).map(|b| b.saved(be, n)).collect::<Result<_, _>>()?,
            norm: w.norm.saved(be, n)?,
            scratch: w.blocks[0].scratch(be, n)?,
            dx: be.alloc(n * c)?,
            head: be.alloc_head(n, c, w.n_vocab)?,
        })
    }

    /// What the head reads: the last norm's output, `(N, C)`.
    #[must_use]
    pub fn hidden(&self) -> &B::Buf {
        &self.norm.y
    }

    /// Which saved activations block `l` uses.
    fn slot(&self, l: usize) -> usize {
        l.min(self.blocks.len() - 1)
    }
}

impl<P> Decoder<P> {
    /// Fills the activations up to [`Activations::hidden`].
    pub fn forward<B: Backend<Buf = P>>(&self, p: &Pass<B>, a: &mut Activations<B>, batch: &DeviceBatch<B>) {
        p.be.embed(&mut a.stream[0], &batch.tokens, &batch.positions, &self.wte.0, &self.wpe.0, p.n(), self.n_embd);
        for (l, block) in self.blocks.iter().enumerate() {
            let slot = a.slot(l);
            let (x, out) = a.stream.split_at_mut(l + 1);
            block.forward(p, &mut out[0], &mut a.blocks[slot], &mut a.scratch, &x[l]);
        }
        self.norm.forward(p, &mut a.norm, &a.stream[self.blocks.len()]);
    }

    /// Adds the batch's loss to `loss[0]`; after [`forward`](Self::forward), for evaluation.
    pub fn loss<B: Backend<Buf = P>>(&self, p: &Pass<B>, loss: &mut B::Acc, a: &mut Activations<B>, batch: &DeviceBatch<B>) {
        p.be.classify_loss(loss, None, None, &mut a.head, &a.norm.y, &self.wte.0, &batch.targets, p.n(), self.n_embd, self.n_vocab);
    }

    /// Adds the batch's loss to `loss[0]` and its gradients to `d`; after [`forward`](Self::forward).
    /// The walk stops at the lowest parameter that trains.
    pub fn backward<B: Backend<Buf = P>>(
        &self,
        p: &Pass<B>,
        loss: &mut B::Acc,
        d: &mut Decoder<Grad<B>>,
        a: &mut Activations<B>,
        batch: &DeviceBatch<B>,
    ) {
        let (n, c) = (p.n(), self.n_embd);
        p.be.classify_loss(
            loss,
            Some(&mut a.scratch.c),
            d.wte.0.as_mut(),
            &mut a.head,
            &a.norm.y,
            &self.wte.0,
            &batch.targets,
            n,
            c,
            self.n_vocab,
        );
        p.be.zero(&mut a.dx, n * c);
        let last_bias = d.blocks.last_mut().map(down_bias);
        self.norm.backward(p, &mut a.dx, &mut d.norm, last_bias, &a.norm, &a.scratch.c, &a.stream[self.blocks.len()]);

        let embedding_trains = d.wte.0.is_some() || d.wpe.0.is_some();
        let first = if embedding_trains { 0 } else { d.blocks.iter().position(trains).unwrap_or(self.blocks.len()) };
        let recompute = a.blocks.len() < self.blocks.len();
        for (l, block) in self.blocks.iter().enumerate().skip(first).rev() {
            let slot = a.slot(l);
            if recompute && l + 1 < self.blocks.len() {
                let (x, out) = a.stream.split_at_mut(l + 1);
                block.forward(p, &mut out[0], &mut a.blocks[slot], &mut a.scratch, &x[l]);
            }
            let below = l > first || embedding_trains;
            let (lower, upper) = d.blocks.split_at_mut(l);
            let below_bias = lower.last_mut().map(down_bias);
            block.backward(p, &mut a.dx, &mut upper[0], &a.blocks[slot], &mut a.scratch, &a.stream[l], below, below_bias);
        }
        if embedding_trains {
            p.be.embed_backward(d.wte.0.as_mut(), d.wpe.0.as_mut(), &a.dx, &batch.tokens, &batch.positions, n, c);
        }
    }

    /// Logits `(count, V)` of the rows `rows`; after [`forward`](Self::forward).
    pub fn logits<B: Backend<Buf = P>>(&self, p: &Pass<B>, logits: &mut P, a: &Activations<B>, rows: &B::Ids, count: usize) {
        p.be.logits(logits, &a.norm.y, rows, count, &self.wte.0, self.n_embd, self.n_vocab);
    }
}

/// The bias of the product that wrote a block's output.
fn down_bias<A>(d: &mut Block<A>) -> &mut A {
    &mut d.mlp.down.b.0
}

/// Whether any parameter of a block trains.
fn trains<A>(d: &Block<Option<A>>) -> bool {
    d.leaves().iter().any(|g| g.is_some())
}
