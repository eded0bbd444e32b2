//! Kernels beside their floors, for people.

use tinyllm::backend::Ceilings;
use tinyllm::train::bench::Family;

/// A table of what was measured: one row a kernel, the most expensive first, then all of them and the step itself.
pub fn measured(families: &[Family], ceilings: &Ceilings, step_ms: f64) -> String {
    let mut rows = vec![["kernel", "calls", "ms", "floor ms", "ms/floor", "rate", "of ceiling"].map(String::from)];
    let mut ordered: Vec<&Family> = families.iter().collect();
    ordered.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    for f in ordered {
        let (rate, unit, ceiling) = if bound_by_products(f, ceilings) {
            (f.flops / f.ms * 1e3, "FLOP/s", ceilings.flops_per_s)
        } else {
            (f.bytes / f.ms * 1e3, "B/s", ceilings.bytes_per_s)
        };
        let share = format!("{:.0} %", 100.0 * rate / ceiling);
        rows.push([f.kernel.into(), f.calls.to_string(), ms(f.ms), ms(f.floor_ms), times(f.ms, f.floor_ms), si(rate, unit), share]);
    }
    let (sum, floor, calls) = sums(families);
    let none = String::new;
    rows.push(["all kernels".into(), calls.to_string(), ms(sum), ms(floor), times(sum, floor), none(), none()]);
    rows.push(["a step, unmarked".into(), none(), ms(step_ms), ms(floor), times(step_ms, floor), none(), none()]);
    aligned(&rows)
}

/// A table of floors alone, and what each comes from.
pub fn floors(families: &[Family], ceilings: &Ceilings) -> String {
    let mut rows = vec![["kernel", "calls", "floor ms", "FLOP", "bytes", "bound by"].map(String::from)];
    let mut ordered: Vec<&Family> = families.iter().collect();
    ordered.sort_by(|a, b| b.floor_ms.total_cmp(&a.floor_ms));
    for f in ordered {
        let by = if bound_by_products(f, ceilings) { "products" } else { "memory" };
        rows.push([f.kernel.into(), f.calls.to_string(), ms(f.floor_ms), si(f.flops, "FLOP"), si(f.bytes, "B"), by.into()]);
    }
    let (_, floor, calls) = sums(families);
    let total = |of: fn(&Family) -> f64| families.iter().map(of).sum::<f64>();
    let (flops, bytes) = (total(|f| f.flops), total(|f| f.bytes));
    rows.push(["all kernels".into(), calls.to_string(), ms(floor), si(flops, "FLOP"), si(bytes, "B"), String::new()]);
    aligned(&rows)
}

/// Milliseconds, floors and calls of a step.
pub fn sums(families: &[Family]) -> (f64, f64, usize) {
    families.iter().fold((0.0, 0.0, 0), |(ms, floor, calls), f| (ms + f.ms, floor + f.floor_ms, calls + f.calls))
}

fn bound_by_products(f: &Family, ceilings: &Ceilings) -> bool {
    f.flops / ceilings.flops_per_s > f.bytes / ceilings.bytes_per_s
}

/// Three digits and the unit's prefix: "790 TFLOP/s".
pub fn si(value: f64, unit: &str) -> String {
    let prefixes = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (scale, prefix) = prefixes.into_iter().find(|(scale, _)| value >= *scale).unwrap_or((1.0, ""));
    let scaled = value / scale;
    let digits = if scaled >= 99.95 || scaled == 0.0 {
        0
    } else if scaled >= 9.995 {
        1
    } else {
        2
    };
    format!("{scaled:.digits$} {prefix}{unit}")
}

fn ms(ms: f64) -> String {
    let digits = if ms >= 99.95 {
        0
    } else if ms >= 9.995 {
        1
    } else if ms >= 0.9995 {
        2
    } else {
        3
    };
    format!("{ms:.digits$}")
}

fn times(ms: f64, floor: f64) -> String {
    if floor > 0.0 { format!("{:.2}", ms / floor) } else { String::new() }
}

/// Columns side by side, the first to the left, the others to the right.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|i| rows.iter().map(|r| r[i].len()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let mut line = format!("{:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(widths).skip(1) {
            line += &format!("  {cell:>width$}");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}
