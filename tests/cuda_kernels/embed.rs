//! `kernels/embed.cu`.

use super::common::{AccTwin, Twin, each, ids};
use tinyllm::backend::Backend;
use tinyllm::backend::reference::Reference;
use tinyllm::rng::Rng;

#[test]
fn forward() {
    each(|be, bars| {
        for (n, c, v, t) in [(1, 8, 1, 1), (37, 72, 300, 9), (9, 5, 40, 4), (50, 640, 70, 64), (11, 1501, 13, 8)] {
            let (wte, wpe) = (Twin::normal(be, 1, v * c, 1.0), Twin::normal(be, 2, t * c, 1.0));
            let (tokens, token) = ids(be, &below(3, n, v));
            let (positions, position) = ids(be, &below(4, n, t));
            let mut x = Twin::poison(be, n * c);
            be.embed(&mut x.cuda, &tokens, &positions, &wte.cuda, &wpe.cuda, n, c);
            Reference.embed(&mut x.reference, &token, &position, &wte.reference, &wpe.reference, n, c);
            x.compare(be, &format!("embed {n} x {c}"), bars.buf);
        }
    });
}

/// `n` ids below `v`.
fn below(seed: u64, n: usize, v: usize) -> Vec<u32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| rng.below(v as u64) as u32).collect()
}

/// Ids as words are: the k-th most common one `1 / k` as often as the first.
fn zipf(seed: u64, n: usize, v: usize) -> Vec<u32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| ((v as f64).powf(rng.uniform()) as u32 - 1) * 7919 % v as u32).collect()
}

/// Each of `v` ids about once, in no order.
fn once(seed: u64, n: usize, v: usize) -> Vec<u32> {
    let mut all: Vec<u32> = (0..v as u32).collect();
    Rng::new(seed).shuffle(&mut all);
    all.into_iter().cycle().take(n).collect()
}

#[test]
fn backward() {
    each(|be, bars| {
        // Tables of one, two and three digits; rows of one tile and of several, whole and not; all columns, and few of a thread's.
        let cases: [(&str, Vec<u32>, usize, usize); 10] = [
            ("one row", vec![3], 8, 5),
            ("one id in the table", vec![0; 100], 16, 1),
            ("one token in 64 rows", vec![7; 64], 72, 9),
            ("one token in many tiles", vec![50_256; 4200], 8, 50_257),
            ("few tokens", below(1, 700, 3), 40, 300),
            ("some tokens", zipf(2, 2500, 5000), 24, 5000),
            ("each token once", once(3, 2049, 3000), 8, 3000),
            ("three digits", below(4, 300, 70_000), 8, 70_000),
            ("ragged columns", zipf(5, 500, 100), 37, 100),
            ("many columns", zipf(6, 150, 20), 1096, 20),
        ];
        for (name, of, c, v) in cases {
            let n = of.len();
            let t = 33;
            let dx = Twin::normal(be, 1, n * c, 1.0);
            let (tokens, token) = ids(be, &of);
            // Documents that begin anywhere: positions in no regular order.
            let (positions, position) = ids(be, &(0..n).map(|i| ((i * i / 50 + i) % t) as u32).collect::<Vec<_>>());
            for wanted in [[true, true], [true, false], [false, true]] {
                let (mut dwte, mut dwpe) =
                    (AccTwin::matrix(be, v, c, &super::common::normal(2, v * c, 1.0)), AccTwin::normal(be, 3, t * c, 1.0));
                be.embed_backward(
                    wanted[0].then_some(&mut dwte.cuda),
                    wanted[1].then_some(&mut dwpe.cuda),
                    &dx.cuda,
                    &tokens,
                    &positions,
                    n,
                    c,
                );
                Reference.embed_backward(
                    wanted[0].then_some(&mut dwte.reference),
                    wanted[1].then_some(&mut dwpe.reference),
                    &dx.reference,
                    &token,
                    &position,
                    n,
                    c,
                );
                // f32 sums of up to 64 terms and then of up to 66 partial sums: sqrt(64 + 66) 2^-25 = 3e-7 at most.
                dwte.compare(be, &format!("dwte, {name}"), bars.acc);
                dwpe.compare(be, &format!("dwpe, {name}"), bars.acc);
                if v > 1000 {
                    break; // large tables take long to compare
                }
            }
        }
    });
}

/// Rows of one id are summed in ascending order: where the order can be seen in the sum, it is that of a plain loop.
#[test]
fn sums_are_in_ascending_order() {
    // 2^24 + 1 is 2^24 in f32, and 2^24 + 2 is not: each order of these gives another sum. All fit into a tile of the sums.
    let values = [16_777_216.0f32, 1.0, 1.0, -16_777_216.0, 1.0, 3.0];
    let mut loops = 0.0f32;
    for v in values {
        loops += v;
    }
    assert_ne!(loops, values.iter().rev().fold(0.0, |sum, v| sum + v));
    each(|be, _| {
        let c = 8;
        // Other tokens between them, in several tiles of the sort.
        let n = 2 * 2048 + 100;
        let (mut of, mut dx) = (below(1, n, 300), vec![0f32; n * c]);
        of.iter_mut().for_each(|id| *id += u32::from(*id == 77));
        for (i, v) in values.into_iter().enumerate() {
            let row = i * 800 + 3;
            of[row] = 77;
            dx[row * c..][..c].fill(v);
        }
        let dx = Twin::of(be, &dx);
        let (tokens, _) = ids(be, &of);
        let mut dwte = be.alloc_acc_matrix(301, c).unwrap();
        be.embed_backward(Some(&mut dwte), None, &dx.cuda, &tokens, &tokens, n, c);
        let mut host = vec![0f64; 301 * c];
        be.download_acc(&mut host, &dwte).unwrap();
        for (i, &got) in host.iter().enumerate() {
            assert_eq!(got, if i / c == 77 { f64::from(loops) } else { 0.0 }, "element {i}");
        }
    });
}
