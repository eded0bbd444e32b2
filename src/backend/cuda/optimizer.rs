//! The optimizer: `kernels/optimizer.cu`.
//!
//! Leaves go to the kernels by value, as many a launch as fit among its arguments: nothing has to be uploaded, so that a step
//! may be recorded the first time it is asked for.

use super::driver::{Arg, Kernel, NULL, Ptr, Shape};
use super::{Acc, Ctl, Cuda, args};
use crate::backend::{AdamLeaf, Rounding};

/// Elements of a block of `grad_squares`.
const SQUARED: usize = 8192;
/// Elements of a block of `adamw` and `round_masters`.
const STEPPED: usize = 2048;
const THREADS: u32 = 256;

/// `struct Gradient` of the kernels.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Gradient {
    g: Ptr,
    len: u32,
    first: u32,
}

const GRADIENTS: usize = 240;

/// `struct Gradients` of the kernels.
#[derive(Clone, Copy)]
#[repr(C)]
struct Gradients {
    leaves: [Gradient; GRADIENTS],
    count: u32,
}

/// `struct Leaf` of the kernels.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Leaf {
    w: Ptr,
    master: Ptr,
    m: Ptr,
    v: Ptr,
    g: Ptr,
    len: u32,
    first: u32,
}

const LEAVES: usize = 80;

/// `struct Leaves` of the kernels.
#[derive(Clone, Copy)]
#[repr(C)]
struct Leaves {
    leaves: [Leaf; LEAVES],
    decays: [u32; LEAVES.div_ceil(32)],
    count: u32,
    index: u32,
    stochastic: u32,
}

// What every device takes as arguments, with a few pointers beside.
const _: () = assert!(size_of::<Gradients>() <= 4096 - 64 && size_of::<Leaves>() <= 4096 - 64);

/// Where each leaf's blocks begin, and how many there are in all.
fn blocks_of(lens: impl IntoIterator<Item = usize>, per_block: usize) -> (Vec<u32>, usize) {
    let mut blocks = 0;
    let mut first = Vec::new();
    for len in lens {
        first.push(blocks as u32);
        blocks += len.div_ceil(per_block);
    }
    (first, blocks)
}

impl Cuda {
    pub(super) fn grad_norm_kernels(&self, norm: &mut Acc, grads: &[&Acc]) {
        let total: usize = grads.iter().map(|g| g.len.div_ceil(SQUARED)).sum();
        let partial = self.scratch("gradient norm", total.max(1) * 4);
        if partial == NULL {
            return;
        }
        let mut done = 0;
        for some in grads.chunks(GRADIENTS) {
            let (first, blocks) = blocks_of(some.iter().map(|g| g.len), SQUARED);
            let mut leaves = [Gradient::default(); GRADIENTS];
            for ((leaf, g), first) in leaves.iter_mut().zip(some).zip(first) {
                *leaf = Gradient { g: g.ptr(), len: g.len as u32, first };
            }
            let gradients = Gradients { leaves, count: some.len() as u32 };
            let args = [Arg::U64(partial + 4 * done as Ptr), Arg::by_value(&gradients)];
            self.launch(Kernel::new("optimizer", "grad_squares"), Shape::of(blocks, THREADS), &args);
            done += blocks;
        }
        self.launch(Kernel::new("optimizer", "grad_norm"), Shape::of(1, 1024), args![norm, partial, total]);
    }

    pub(super) fn adamw_kernel(&self, leaves: &mut [AdamLeaf<'_, Self>], norm: &Acc, ctl: &Ctl) {
        self.each_leaves(leaves, |leaves, shape| {
            let args = [Arg::by_value(leaves), norm.into(), ctl.into()];
            self.launch(Kernel::new("optimizer", "adamw"), shape, &args);
        });
    }

    pub(super) fn round_masters_kernel(&self, leaves: &mut [AdamLeaf<'_, Self>], ctl: &Ctl) {
        self.each_leaves(leaves, |leaves, shape| {
            let args = [Arg::by_value(leaves), ctl.into()];
            self.launch(Kernel::new("optimizer", "round_masters"), shape, &args);
        });
    }

    /// `work` on as many leaves at a time as fit into a launch, with its blocks.
    fn each_leaves(&self, all: &mut [AdamLeaf<'_, Self>], work: impl Fn(&Leaves, Shape)) {
        for (chunk, some) in all.chunks_mut(LEAVES).enumerate() {
            let (first, blocks) = blocks_of(some.iter().map(|leaf| leaf.w.len), STEPPED);
            let mut leaves = Leaves {
                leaves: [Leaf::default(); LEAVES],
                decays: [0; LEAVES.div_ceil(32)],
                count: some.len() as u32,
                index: (chunk * LEAVES) as u32,
                stochastic: u32::from(self.rounding == Rounding::Stochastic),
            };
            for (i, (leaf, first)) in some.iter_mut().zip(first).enumerate() {
                let master = leaf.master.as_deref().expect("a weight in training has a master on this device");
                let len = leaf.w.len;
                assert!([master.len, leaf.m.len, leaf.v.len, leaf.g.len] == [len; 4], "leaf {i} and its state have different lengths");
                leaves.decays[i / 32] |= u32::from(leaf.decay) << (i % 32);
                leaves.leaves[i] = Leaf {
                    w: leaf.w.ptr(),
                    master: master.ptr(),
                    m: leaf.m.ptr(),
                    v: leaf.v.ptr(),
                    g: leaf.g.ptr(),
                    len: u32::try_from(len).expect("a weight has fewer than 2^32 elements"),
                    first,
                };
            }
            work(&leaves, Shape::of(blocks, THREADS));
        }
    }
}
